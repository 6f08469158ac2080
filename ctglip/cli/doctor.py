"""``ctglip doctor``: is this machine ready, is this scan usable."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ctglip.cli.console import AsJson, result
from ctglip.errors import ScanError


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
        value, lines, sound = _examine_scan(scan, masks)
    result(value, as_json, "\n".join(lines))
    if not sound:
        raise typer.Exit(1)


def _examine_scan(scan: Path, masks: Path | None) -> tuple[dict[str, Any], list[str], bool]:
    """Read a scan as preprocessing would and say what was noticed.

    Returns:
        the findings as JSON-able values, as lines for people, and whether the scan is free of errors.

    Raises:
        ScanError: there is no such file or folder.
    """
    from ctglip.ct.doctor import examine

    for path in (scan, masks):
        if path is not None and not path.exists():
            raise ScanError(f"There is no file or folder {path}.", code="missing_file", fix="Check the path.")
    checks, about = examine(scan, masks)
    lines = []
    if about.shape and about.spacing_mm and about.hu_range:
        shape, spacing = "x".join(map(str, about.shape)), " x ".join(f"{edge:.3g}" for edge in about.spacing_mm)
        lines.append(f"{shape} voxels of {spacing} mm, HU {about.hu_range[0]} to {about.hu_range[1]}")
    if about.organs:
        volumes = (f"{name} {volume:.0f} ml" for name, volume in about.organs.items())
        lines.append(f"{len(about.organs)} organs: {', '.join(volumes)}")
    if about.cut_organs:
        lines.append(f"Cut off by the field of view: {', '.join(about.cut_organs)}")
    if about.bands:
        bands = (f"{name} {share:.1%}" for name, share in about.bands.items())
        lines.append(f"Voxels by HU: {', '.join(bands)}")
    lines += [
        f"{one.place}: {one.mean_hu:.0f} HU, expected {one.low:.0f} to {one.high:.0f}"
        + ("" if one.is_expected else "  <- not where CT puts it")
        for one in about.means
    ]
    lines += [f"{check.severity:8} {check.code}: {check.message}" for check in checks]
    if not checks:
        lines.append("Nothing stands out.")
    value = {**asdict(about), "checks": [asdict(check) for check in checks]}
    return value, lines, not any(check.severity == "error" for check in checks)
