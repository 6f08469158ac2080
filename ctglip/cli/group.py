"""How groups of commands are listed: each with its first sentence, whole, at any width."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class CommandGroup(TyperGroup):
    """A group whose list of commands wraps lines in place of cutting them off."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command and the first paragraph of what it does."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _first(one.help or "")) for name, one in commands if one is not None and not one.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _first(text: str) -> str:
    """The first paragraph in one line."""
    return " ".join(text.strip().split("\n\n")[0].split())
