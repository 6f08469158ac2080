"""Which CT series of a study is its volume: what is fit, and in which order those that are fit are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ctglip.cohorts.kernels import is_soft
from ctglip.config import Settings
from ctglip.ct.dicom_headers import Slice, all_series
from ctglip.ct.dicom_volumes import one_volume, words
from ctglip.errors import ScanError

_DERIVED = frozenset({"DERIVED", "SECONDARY", "MPR", "REFORMATTED", "REFORMAT"})
_AXIAL = 0.8
"""How far slices may be tilted (cosine): a gantry tilt of 30 degrees is axial."""
SeriesOrder = Literal["most_slices", "thinnest_slices", "soft_kernel"]


class SeriesRule(Settings):
    """How the CT volume of a study is chosen.

    Attributes:
        choose: by the first rule that tells two series apart.
        least_slices: series with fewer are left out.
        derived: ``exclude`` series of derived images (reformats), or ``allow`` them where they are axial.
    """

    choose: tuple[SeriesOrder, ...] = ("most_slices", "thinnest_slices", "soft_kernel")
    least_slices: int = Field(default=10, ge=2)
    derived: Literal["exclude", "allow"] = "exclude"


@dataclass(frozen=True)
class CtSeries:
    """One series that is fit.

    Attributes:
        name: our id of it.
        files: of its CT images.
        slices: of its volume, at different places.
        step_mm: from slice to slice.
        soft: whether the kernel is one for soft tissue.
    """

    name: str
    files: list[Path] = field(repr=False)
    slices: int
    step_mm: float
    soft: bool

    @property
    def text(self) -> str:
        """What told it apart, in words."""
        return f"{self.slices} slices of {self.step_mm:.3g} mm, {'soft' if self.soft else 'other'} kernel"

    def order(self, rules: Sequence[SeriesOrder]) -> tuple[float | str, ...]:
        """What series are sorted by."""
        ranks = {"most_slices": -self.slices, "thinnest_slices": self.step_mm, "soft_kernel": float(not self.soft)}
        return (*(ranks[rule] for rule in rules), self.name)


def ct_series(name: str, files: list[Path], rule: SeriesRule) -> CtSeries | tuple[str, str]:
    """A series by its headers; or a reason and words why it is not fit."""
    try:
        every = all_series(files)[0]
    except ScanError:
        every = []
    if not every:
        return "damaged", "None of its headers can be read."
    series = max(every, key=lambda one: len(one.slices))
    if not series.slices:
        if series.localizers:
            return "scout", f"{series.localizers} images that show where a scan was planned."
        return "no_geometry", f"{series.unplaced} images that say no position."
    try:
        volume, _ = one_volume(series.slices)
    except ScanError:
        return "projection", f"{len(series.slices)} projections (MIP), screens or maps that hold no HU."
    normal = np.cross(volume[0].axes[:3], volume[0].axes[3:])
    if abs(normal[2]) < _AXIAL:
        return "reformat", f"{len(volume)} slices that are not axial."
    if rule.derived == "exclude" and all(words(one) & _DERIVED for one in volume):
        return "reformat", f"{len(volume)} derived images, no originals."
    heights = np.unique(np.round([float(one.position @ normal) for one in volume], 2))
    if len(heights) < rule.least_slices:
        return "too_few_slices", f"{len(heights)} slices, expected {rule.least_slices} at least."
    return CtSeries(name, files, len(heights), round(float(np.median(np.diff(heights))), 3), _is_soft(volume[0]))


def _is_soft(one: Slice) -> bool:
    return any(is_soft(word) for word in one.traits.get("the kernel", "").split())
