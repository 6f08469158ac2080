"""What a released model reads: whole scans as tensors with their organs, and what each channel shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ctglip.data.crops import CropSettings
from ctglip.data.scans import ScanSettings, cut_scan, render_scans
from ctglip.errors import ModelError
from ctglip.inference.scans import readable, scan_regions
from ctglip.models.release import Release
from ctglip.types import OrganRow, Standardized
from ctglip.vocabulary.organs import OrganDictionary


def channel_names(release: Release) -> tuple[str, ...]:
    """What each channel of a model's input shows, in order."""
    if release.cxr is not None:
        return (f"grey values from 0 to 1, minus {release.cxr['mean']:g}, by {release.cxr['std']:g}",)
    if release.reads_crops:
        return CropSettings.model_validate(release.crops).channel_names
    return ScanSettings.model_validate(release.scans).channel_names


def scan_input(
    release: Release, standardized: Standardized, rows: Sequence[OrganRow], organs: OrganDictionary
) -> dict[str, Any]:
    """A whole scan as ``Pipeline.model_input`` gives it.

    Raises:
        ModelError: code ``no_organ``: an organ is too small for the model's grid.
    """
    settings, model = ScanSettings.model_validate(release.scans), release.model
    cut = cut_scan(standardized.image, standardized.organs, standardized.affine, settings)
    image = torch.from_numpy(render_scans(cut.hu, settings))[None]
    found: dict[str, Any] = {"image": model.pad_channels(image)}
    if not rows or model.region_reader is None:
        return found
    for row, there in zip(rows, readable(cut, rows, model, organs), strict=True):
        if not there:
            raise ModelError(f"The {organs[row.organ].display} is too small for the model's grid.", code="no_organ")
    regions = vars(scan_regions(model, cut, rows, release.organs))
    found |= {name: regions[name].cpu() for name in ("size", "study_index")}
    found |= {name: regions[name].cpu() for name in ("labels", "boxes") if regions[name] is not None}
    return found | {"organ": [row.organ for row in rows]}
