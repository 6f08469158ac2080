"""The page of commands, from the parser itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from ctglip.cli.main import app
from generate.tables import cell


def commands() -> Iterator[tuple[str, Any]]:
    """Each command with its whole name."""
    yield from _below("ctglip", typer.main.get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    for part, one in getattr(command, "commands", {}).items():
        if not one.hidden:
            yield f"{name} {part}", one
            yield from _below(f"{name} {part}", one)


def pages() -> dict[str, str]:
    """One page of all commands."""
    lines = ["# Commands", "", "Exit code 0: complete. 1: finished, and rows failed. 2: a fault of the input; one line "
             "says what to do.", "", "```", "ctglip --install-completion   # completion for bash, zsh, fish", "```", ""]  # fmt: skip
    for name, command in commands():
        if getattr(command, "commands", None):
            continue
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
        usage = " ".join([name, *(_metavar(one) for one in arguments), "[OPTIONS]" if options else ""])
        lines += [f"## {name}", "", _plain(command.help or ""), "", "```text", usage.strip(), "```", ""]
        lines += ["| argument or option | what | default |", "|---|---|---|"]
        lines += [_row(one) for one in (*arguments, *options)]
        lines.append("")
    return {"reference/commands.md": "\n".join(lines)}


def _metavar(one: Any) -> str:
    name = one.name.upper()
    return name if one.required else f"[{name}]"


def _plain(text: str) -> str:
    paragraphs = ["".join(part.split("\b")) for part in text.strip().split("\n\n")]
    return "\n\n".join(" ".join(part.split()).replace("*", "\\*").replace("<", "&lt;") for part in paragraphs)


def _row(one: Any) -> str:
    name = one.name.upper() if one.param_type_name == "argument" else ", ".join((*one.opts, *one.secondary_opts))
    choices = getattr(getattr(one, "type", None), "choices", None)
    said = (one.help or "") + (f" One of: {', '.join(map(str, choices))}." if choices else "")
    default = (
        "needed"
        if one.required
        else ""
        if one.default is None or one.default is False or one.default == () or callable(one.default)
        else one.default
    )
    return f"| `{name}` | {cell(said)} | {cell(str(default))} |"
