"""The plain values that travel between rooms: scans, label maps, quality checks, organ rows, findings.

Arrays are in RAS+ order ``[x, y, z]`` (a leading channel axis is added when they are stored), affines are 4x4 and
map voxel indices to millimetres, as nibabel has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Status = Literal["affirmed", "negated", "uncertain", "historical", "normal"]
Laterality = Literal["left", "right", "bilateral"]
ModalityName = Literal["ct", "cxr"]
Section = Literal["findings", "impression", "indication", "technique", "comparison"]
Severity = Literal["info", "warning", "error"]
FindingsFrom = Literal["given", "parser", "both"]
PARSER = "parser"
"""The ``source`` of findings that our own rules read in a report; any other is of findings that were given."""
Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on."""
Box = tuple[int, int, int, int, int, int]
"""Half-open voxel box (x0, x1, y0, y1, z0, z1)."""
GridRule = Literal["smooth", "centres", "middle", "stretched"]
"""How a resampled grid lies on the one before. ``smooth``: edge to edge at its low end, and images are smoothed where
voxels get larger. The others are those of public models' preprocessing, without smoothing: ``centres``: first voxel on
first voxel (MONAI's ``Spacing``); ``middle``: as many whole voxels as fit, in the middle (TorchIO's ``Resample``);
``stretched``: as many as fit, stretched to both ends (PyTorch's ``interpolate`` to a size)."""


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edge lengths in millimetres of a 4x4 affine."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def box_around(mask: np.ndarray) -> tuple[int, ...] | None:
    """The smallest half-open box around a mask, first and last edge axis by axis; None where nothing is marked."""
    axes = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(axis=tuple(k for k in axes if k != axis))) for axis in axes]
    return tuple(int(edge) for span in spans for edge in (span[0], span[-1] + 1)) if len(spans[0]) else None


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; None where it cannot be computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


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

    @property
    def grid(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Its voxels along x, y, z, and its affine."""
        return self.hu.shape, self.affine


@dataclass(frozen=True)
class ScanHeader:
    """What a table says of a scan whose file does not say it, or says nothing.

    Attributes:
        slope, intercept: HU are the stored numbers times the one plus the other.
        affine: ``[4, 4]``, voxel index to RAS+ millimetres; None where the file's own holds.
    """

    slope: float = 1.0
    intercept: float = 0.0
    affine: np.ndarray | None = None


@dataclass(frozen=True)
class LabelMap:
    """Organ labels on a grid, numbered as the organ dictionary numbers them (0 is background).

    Attributes:
        labels: uint8 ``[x, y, z]``, RAS+, or ``[row, column]``.
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
class OrganRegion:
    """Where an organ lies in a standardised image.

    Attributes:
        organ: name in the organ dictionary.
        box: half-open, (x0, x1, y0, y1, z0, z1) in voxels of a scan, (row0, row1, column0, column1) in pixels of a
            radiograph; the whole image where nobody knows more.
    """

    organ: str
    box: tuple[int, ...]


@dataclass(frozen=True)
class OrganRow(OrganRegion):
    """One organ of one standardised scan as its masks show it: a row of ``organs.parquet`` (without the study's id).

    Attributes:
        box: half-open voxel box of the organ's ROI masks on the stored grid, before any margin.
        volume_ml: volume of the ROI masks in millilitres.
        mean_hu: mean HU inside them.
        touches_border: the mask reaches the field of view's border, so the organ may be cut off.
        sd_hu: standard deviation of the HU inside them; None where it was not measured.
    """

    box: Box
    volume_ml: float
    mean_hu: float
    touches_border: bool
    sd_hu: float | None = None


@dataclass(frozen=True)
class Region:
    """A region of ``cxr/regions.yaml`` on a radiograph: a half-open box, rows ``row0`` to ``row1``, columns ``column0``
    to ``column1``, in pixels."""

    name: str
    row0: int
    row1: int
    column0: int
    column1: int

    def columns(self) -> dict[str, Any]:
        """The box as columns of ``regions.parquet``."""
        values = asdict(self)
        return {"region": values.pop("name"), **values}


@dataclass(frozen=True)
class LesionAnnotation:
    """A finding where others drew it, on the stored grid: a row of ``lesions.parquet``.

    Attributes:
        organ: that it lies in, where its maker says so.
        abnormality: name in the dictionary, None where it has none for it.
        theirs: what its maker calls it.
        box: half-open, (x0, x1, y0, y1, z0, z1) in voxels of a scan, (row0, row1, column0, column1) in pixels of a
            radiograph.
        layer: its voxels are those of the array ``lesions_<layer>`` that hold ``number``; None where only the box is
            known.
    """

    organ: str | None
    abnormality: str | None
    theirs: str
    box: tuple[int, ...]
    layer: int | None = None
    number: int | None = None


@dataclass(frozen=True)
class Finding:
    """One row of ``findings.parquet``: what one sentence says of one organ and one abnormality.

    ``organ`` is null for an unplaced sentence, and then ``reason`` says why. ``abnormality`` is null when the
    sentence speaks of the organ without naming a dictionary abnormality (``status="normal"`` for "The liver is
    unremarkable."). ``organ`` may be a group such as ``kidneys`` when the sentence names no side.
    ``source`` says who found it: ``parser``, or the name of a data set or model whose findings were given.
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
    source: str = PARSER


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
        return {name: text for name, text in vars(self).items() if text}


@dataclass(frozen=True)
class Standardized:
    """One study on the recipe's grid: what is stored, and what a model sees.

    Attributes:
        image: int16 ``[x, y, z]`` HU of a scan, uint16 ``[row, column]`` grey values of a radiograph.
        organs: uint8 like the image, dictionary labels, or None where no masks are known.
        affine: float64 ``[4, 4]`` of both; of a radiograph (row, column, 0) to mm.
        rows: one entry for each organ of a scan that is present.
        checks: what was noticed on the way.
        regions: the boxes of a radiograph that are known.
    """

    image: np.ndarray
    organs: np.ndarray | None
    affine: np.ndarray
    rows: tuple[OrganRow, ...] = ()
    checks: tuple[QualityCheck, ...] = ()
    regions: tuple[Region, ...] = ()

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
