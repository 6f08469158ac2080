"""What the command line says of itself: nothing is cut off, and shipped configs can be found."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from ctglip.cli.main import app


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_list_of_commands_is_whole_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = CliRunner().invoke(app, ["--help"], terminal_width=width).output
    listed = " ".join(shown[shown.index("Commands:") :].split())
    assert "..." not in listed
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert f"{name} {' '.join((command.help or '').split(chr(10) * 2)[0].split())}" in listed


def test_shipped_configs_are_listed() -> None:
    shown = CliRunner().invoke(app, ["config", "list"]).output
    for name in ("small/ctglip_cnn", "evaluate/zero_shot", "finetune/probe", "cohorts/openi"):
        assert any(line.startswith(f"{name} ") and len(line.split()) > 2 for line in shown.splitlines()), name
