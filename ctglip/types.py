"""The plain values that travel between rooms: scans, label maps, quality checks, organ rows, findings.

Arrays are in RAS+ order ``[x, y, z]`` (a leading channel axis is added when they are stored), affines are 4x4 and
map voxel indices to millimetres, as nibabel has them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Status = Literal["affirmed", "negated", "uncertain", "historical", "normal"]
Laterality = Literal["left", "right", "bilateral"]
Modality = Literal["ct", "cxr"]
Section = Literal["findings", "impression", "indication", "technique", "comparison"]
Severity = Literal["info", "warning", "error"]
Box = tuple[int, int, int, int, int, int]
"""Half-open voxel box (x0, x1, y0, y1, z0, z1)."""


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edge lengths in millimetres of a 4x4 affine."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


@dataclass(frozen=True)
class Scan:
    """One CT volume.

    Attributes:
        hu: int16 ``[x, y, z]``, Hounsfield units, RAS+.
        affine: float64 ``[4, 4]``, voxel index to millimetres.
    """

    hu: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths (x, y, z) in millimetres."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class LabelMap:
    """Organ labels on a grid, numbered as the organ dictionary numbers them (0 is background).

    Attributes:
        labels: uint8 ``[x, y, z]``, RAS+.
        affine: float64 ``[4, 4]``.
    """

    labels: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class QualityCheck:
    """One thing noticed about a scan or its masks, with the number that made it noticed."""

    code: str
    severity: Severity
    message: str
    value: float | None = None


@dataclass(frozen=True)
class OrganRow:
    """One organ of one standardised study: a row of ``organs.parquet`` (without the study's id).

    Attributes:
        organ: name in the organ dictionary.
        box: half-open voxel box of the organ's grounding masks on the stored grid, before any margin.
        volume_ml: volume of the grounding masks in millilitres.
        mean_hu: mean HU inside them.
        touches_border: the mask reaches the field of view's border, so the organ may be cut off.
        sd_hu: standard deviation of the HU inside them; None where it was not measured.
    """

    organ: str
    box: Box
    volume_ml: float
    mean_hu: float
    touches_border: bool
    sd_hu: float | None = None


@dataclass(frozen=True)
class Finding:
    """One row of ``findings.parquet``: what one sentence says of one organ and one abnormality.

    ``organ`` is null for an unplaced sentence, and then ``reason`` says why. ``abnormality`` is null when the
    sentence speaks of the organ without naming a dictionary abnormality (``status="normal"`` for "The liver is
    unremarkable."). ``organ`` may be a group such as ``kidneys`` when the sentence names no side.
    """

    sentence_index: int
    section: str
    sentence: str
    organ: str | None
    abnormality: str | None
    status: Status
    laterality: Laterality | None = None
    level: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """A report by section, verbatim. Missing sections are None, never an empty or made-up text."""

    findings: str | None = None
    impression: str | None = None
    indication: str | None = None
    technique: str | None = None
    comparison: str | None = None

    def sections(self) -> dict[str, str]:
        """The sections that are there, in reading order."""
        return {name: text for name, text in asdict(self).items() if text}


@dataclass(frozen=True)
class Standardized:
    """One study on the recipe's grid: what is stored, and what a model sees.

    Attributes:
        image: int16 ``[x, y, z]`` HU.
        organs: uint8 ``[x, y, z]``, dictionary labels, or None where no masks are known.
        affine: float64 ``[4, 4]`` of both.
        rows: one entry for each organ present.
        checks: what was noticed on the way.
    """

    image: np.ndarray
    organs: np.ndarray | None
    affine: np.ndarray
    rows: tuple[OrganRow, ...] = ()
    checks: tuple[QualityCheck, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths (x, y, z) in millimetres."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Failure:
    """A study that did not make it, as a value: which, at what stage, why, and what to do."""

    study_id: str
    stage: str
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
