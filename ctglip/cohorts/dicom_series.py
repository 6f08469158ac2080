"""Which CT series of a study is its volume: what is fit, and in which order those that are fit are taken."""

from __future__ import annotations

import re
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
ContrastPhase = Literal["native", "arterial", "portal_venous", "venous", "delayed"]
_PHASES: dict[ContrastPhase, re.Pattern[str]] = {
    "native": re.compile(r"\b(?:nativ\w*|unenhanced|non.?contrast|without contrast|ohne km)\b", re.IGNORECASE),
    "arterial": re.compile(r"\b(?:arteri\w*)\b", re.IGNORECASE),
    "portal_venous": re.compile(r"\b(?:porto?.?ven\w*|portal\w*)\b", re.IGNORECASE),
    "venous": re.compile(r"\b(?:ven(?:ous|oes|ös)\w*)\b", re.IGNORECASE),
    "delayed": re.compile(r"\b(?:delayed|late|excretory|urograph\w*|nephrograph\w*)\b", re.IGNORECASE),
}


class SeriesRule(Settings):
    """How the CT volume of a study is chosen.

    Attributes:
        choose: by the first rule that tells two series apart.
        least_slices: series with fewer are left out.
        phases: series of these phases come first, in this order, before ``choose`` is asked; those whose phase is not
            known come after them.
        derived: ``exclude`` series of derived images (reformats), or ``allow`` them where they are axial.
    """

    choose: tuple[SeriesOrder, ...] = ("most_slices", "thinnest_slices", "soft_kernel")
    phases: tuple[ContrastPhase, ...] = ()
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
        phase: of the contrast agent, where the headers say it; see ``phase_of``.
    """

    name: str
    files: list[Path] = field(repr=False)
    slices: int
    step_mm: float
    soft: bool
    phase: ContrastPhase | None = None

    @property
    def text(self) -> str:
        """What told it apart, in words."""
        said = f", {self.phase.replace('_', ' ')} phase" if self.phase else ""
        return f"{self.slices} slices of {self.step_mm:.3g} mm, {'soft' if self.soft else 'other'} kernel{said}"

    def order(self, rules: Sequence[SeriesOrder], phases: Sequence[ContrastPhase] = ()) -> tuple[float | str, ...]:
        """What series are sorted by."""
        wanted = phases.index(self.phase) if self.phase in phases else len(phases)
        ranks = {"most_slices": -self.slices, "thinnest_slices": self.step_mm, "soft_kernel": float(not self.soft)}
        return (wanted, *(ranks[rule] for rule in rules), self.name)


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
    step = round(float(np.median(np.diff(heights))), 3)
    return CtSeries(name, files, len(heights), step, _is_soft(volume[0]), phase_of(volume))


def phase_of(volume: Sequence[Slice]) -> ContrastPhase | None:
    """The phase that the series' description names; None where it names none or several, or contradicts the header's
    contrast agent. It is never guessed: an agent alone does not say when the scan was made."""
    described = {one.traits.get("the series description", "").replace("_", " ") for one in volume}
    named: set[ContrastPhase] = {
        phase for phase, words_of in _PHASES.items() if any(words_of.search(text) for text in described)
    }
    if "portal_venous" in named:
        named.discard("venous")
    if len(named) != 1:
        return None
    (phase,) = named
    agent = any(one.traits.get("the contrast agent", "") for one in volume)
    return None if phase == "native" and agent else phase


def _is_soft(one: Slice) -> bool:
    return any(is_soft(word) for word in one.traits.get("the kernel", "").split())
