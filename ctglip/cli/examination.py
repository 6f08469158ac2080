"""What ``ctglip doctor SCAN`` says of one scan and its masks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any


def examine_scan(scan: Path, masks: Path | None) -> tuple[dict[str, Any], list[str], bool]:
    """Read a scan as preprocessing would and say what was noticed.

    Returns:
        the findings as JSON-able values, as lines for people, and whether the scan is free of errors.

    Raises:
        ScanError, MaskError: the scan or its masks cannot be read at all.
    """
    from ctglip.vocabulary.organs import load_organs
    from ctglip.volume.io import read_scan
    from ctglip.volume.masks import read_masks
    from ctglip.volume.recipe import VolumeRecipe
    from ctglip.volume.standardize import standardize

    recipe, organs = VolumeRecipe(), load_organs()
    volume, checks = read_scan(scan, recipe)
    labels = None
    if masks is not None:
        labels, more = read_masks(masks, volume, recipe, organs)
        checks = (*checks, *more)
    found = standardize(volume, labels, recipe, organs)
    checks = (*checks, *found.checks)
    spacing = " x ".join(f"{edge:.3g}" for edge in volume.spacing_mm)
    low, high = int(volume.hu.min()), int(volume.hu.max())
    lines = [
        f"{'x'.join(map(str, volume.hu.shape))} voxels of {spacing} mm, HU {low} to {high}",
        *([f"{len(found.rows)} organs: {', '.join(row.organ for row in found.rows[:12])} ..."] if found.rows else []),
        *(f"{check.severity:8} {check.code}: {check.message}" for check in checks),
    ]
    if not checks:
        lines.append("Nothing stands out.")
    value = {
        "shape": list(volume.hu.shape),
        "spacing_mm": list(volume.spacing_mm),
        "hu": [low, high],
        "organs": [asdict(row) for row in found.rows],
        "checks": [asdict(check) for check in checks],
    }
    return value, lines, not any(check.severity == "error" for check in checks)
