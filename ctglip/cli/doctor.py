"""``ctglip doctor``: is this machine ready, is this scan usable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, result


def doctor(
    scan: Annotated[Path | None, typer.Argument(help="A scan to examine; without it the installation is.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Its organ masks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Examine the installation, or one scan and its masks; exit code 1 when something is wrong."""
    if scan is None:
        from ctglip.cli.machine import examine_machine

        value, lines, sound = examine_machine()
    else:
        from ctglip.cli.examination import examine_scan

        value, lines, sound = examine_scan(scan, masks)
    result(value, as_json, "\n".join(lines))
    if not sound:
        raise typer.Exit(1)
