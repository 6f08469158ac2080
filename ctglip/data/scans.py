"""A whole scan on a fixed grid: the only way a scan becomes a model's input, in training and for a single question.

Labels lie on the same grid, each voxel taking the label at its centre. Two grids are offered: the whole volume laid on
the grid, whatever its shape (scale then travels beside the voxels, as for crops), or the middle of the volume at a
fixed spacing, padded with air, as most published models have it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Float, Int16, Num, UInt8
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.crops import AIR_HU, CropSettings, axis_weights, resampled, standardised_size, window_name
from ctglip.data.reader import StandardizedStudy
from ctglip.data.settings import DataSettings
from ctglip.reports.tags import TagList
from ctglip.types import OrganRegion, OrganRow, spacing_of


class ScanGrid(Settings):
    """The grid of a whole scan.

    Attributes:
        grid: voxels along x, y, z; the encoder's stride must divide them.
        spacing_mm: None lays the whole volume on the grid; else the volume's middle at this spacing, cropped or padded
            with air.
    """

    grid: tuple[int, int, int] = (64, 64, 64)
    spacing_mm: tuple[float, float, float] | None = None


class ScanSettings(ScanGrid):
    """How a whole scan becomes a model's input. Part of the model: inference cuts as training did.

    Attributes:
        windows_hu: one channel for each (lowest, highest) HU, scaled to -1 .. 1.
    """

    windows_hu: tuple[tuple[float, float], ...] = ((-1000.0, 1000.0), (-160.0, 240.0))

    @property
    def channels(self) -> int:
        """Channels of a rendered scan."""
        return len(self.windows_hu)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel shows."""
        return tuple(window_name(window) for window in self.windows_hu)


class ScanBatchSettings(Settings):
    """Batches of whole scans.

    Attributes:
        batch: scans in a batch, over all ranks.
        text: what a scan is paired with where it has one text: its whole report (findings and impression), or one
            sentence of it, drawn anew at each step.
        keep_gb: memory for scans that were cut; beyond it they are read from the store again.
        copies: views of each scan, changed independently of each other; for objectives that compare views.
        shift_voxels: largest shift of a view along each axis, or along x, y, z (SPECTRE's 64, 64, 32). What comes in at
            a face repeats that face.
        flip: share of views that are mirrored along each axis. It contradicts the sides that reports name (fVLM's 0.2,
            SPECTRE's 0.5).
        shift_hu: standard deviation of a shift of all HU of a view.
        noise_hu: standard deviation of noise on each voxel.
        tags: which list of tags a report is read for, ``tags`` (ASG's 40) or ``entities`` (ECAMP's).
    """

    batch: int = Field(default=8, ge=2)
    text: Literal["report", "sentence"] = "report"
    keep_gb: float = Field(default=4.0, ge=0)
    copies: int = Field(default=1, ge=1, le=4)
    shift_voxels: Annotated[int, Field(ge=0)] | tuple[int, int, int] = 0
    flip: float = Field(default=0.0, ge=0, le=1)
    shift_hu: float = Field(default=5.0, ge=0)
    noise_hu: float = Field(default=0.0, ge=0)
    tags: TagList = "tags"


class ScansBesideCrops(ScanBatchSettings):
    """Whole scans that one encoder sees beside crops, with the same windows.

    Attributes:
        input: how a scan becomes an input.
    """

    input: ScanGrid = ScanGrid()


class ScanInputSettings(DataSettings):
    """How scans are read, themselves or as cached tokens.

    Attributes:
        input: how a scan becomes an input.
        truncated: what to do with organs that the field of view cuts off: keep them, or leave them out.
    """

    input: ScanSettings = ScanSettings()
    truncated: Literal["keep", "drop"] = "keep"

    @property
    def channels(self) -> int:
        """Channels of a scan."""
        return self.input.channels

    @property
    def crops(self) -> CropSettings:
        """Which organs of a scan count."""
        return CropSettings(truncated=self.truncated)


class ScanDataSettings(ScanInputSettings, ScanBatchSettings):
    """Training on whole scans."""

    name: Literal["scans"] = "scans"  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True, kw_only=True)
class PlacedScan:
    """Where a grid lies in a scan.

    Attributes:
        low, high: lower and upper faces of the grid in voxels of the volume (a voxel i reaches from i to i + 1).
        voxel_mm: edge lengths of the grid's voxels.
    """

    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]
    voxel_mm: Float[np.ndarray, " 3"]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Voxels of the grid."""

    @abstractmethod
    def image(self, settings: ScanSettings) -> Float[np.ndarray, ...]:
        """What a model sees, as it is."""

    @abstractmethod
    def location(self, count: int) -> Num[np.ndarray, ...]:
        """What a model finds organs by (``models.region_readers.Regions.labels``), of labels below ``count``; nothing
        is anywhere where the scan has no masks."""

    @property
    @abstractmethod
    def present(self) -> Bool[np.ndarray, " 256"]:
        """Which labels are on the grid."""

    def sizes(self, rows: Sequence[OrganRegion]) -> Float[np.ndarray, "m 4"]:
        """What a model is told of the size of some organs (see ``data.crops``); 0 of those that nobody measured."""
        sizes = [
            standardised_size(self.voxel_mm, row.volume_ml) if isinstance(row, OrganRow) else np.zeros(4)
            for row in rows
        ]
        return np.array(sizes, dtype=np.float32).reshape(len(rows), 4)

    def boxes(self, rows: Sequence[OrganRegion]) -> Float[np.ndarray, "m 6"]:
        """The boxes of some organs, half-open ``(x0, x1, y0, y1, z0, z1)`` in voxels of the grid."""
        corners = np.array([row.box for row in rows], dtype=np.float64).reshape(len(rows), 3, 2)
        scale = np.array(self.shape) / (self.high - self.low)
        placed = (corners - self.low[:, None]) * scale[:, None]
        return np.clip(placed, 0, np.array(self.shape)[:, None]).reshape(len(rows), 6).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ScanCut(PlacedScan):
    """A scan on the fixed grid, before windows.

    Attributes:
        hu: int16 ``[x, y, z]``; air where the grid leaves the scan.
        labels: uint8 ``[x, y, z]``, or None where the scan has no masks.
    """

    hu: Int16[np.ndarray, "x y z"]
    labels: UInt8[np.ndarray, "x y z"] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``PlacedScan``."""
        return self.hu.shape

    def image(self, settings: ScanSettings) -> Float[np.ndarray, "c x y z"]:
        """Its windows."""
        return render_scans(self.hu, settings)

    def location(self, count: int) -> UInt8[np.ndarray, "x y z"]:  # noqa: ARG002
        """The label map."""
        return np.zeros(self.hu.shape, np.uint8) if self.labels is None else self.labels

    @property
    def present(self) -> Bool[np.ndarray, " 256"]:
        """See ``PlacedScan``."""
        labels = np.zeros(0, np.uint8) if self.labels is None else self.labels.ravel()
        return np.bincount(labels, minlength=256) > 0


def cut_scan(
    image: Int16[np.ndarray, "x y z"],
    labels: UInt8[np.ndarray, "x y z"] | None,
    affine: np.ndarray,
    settings: ScanSettings,
) -> ScanCut:
    """Lay a standardised volume on the model's grid: one anti-aliased linear resampling, labels by nearest voxel.

    Args:
        image: HU of the whole volume.
        labels: organ labels on the same grid, or None.
        affine: voxel index to mm.
        settings: grid and spacing.
    """
    spacing, shape, grid = np.array(spacing_of(affine)), np.array(image.shape), np.array(settings.grid)
    extent = shape if settings.spacing_mm is None else grid * np.array(settings.spacing_mm) / spacing
    low, high = (shape - extent) / 2.0, (shape + extent) / 2.0
    weights = [axis_weights(a, b, n, 0, full) for a, b, n, full in zip(low, high, grid, shape, strict=True)]
    hu = np.rint(resampled(image.astype(np.float32) - AIR_HU, weights)).astype(np.int32) + AIR_HU
    stored = np.clip(hu, -32768, 32767).astype(np.int16)
    return ScanCut(
        hu=stored,
        labels=_nearest(labels, low, high, grid),
        low=low,
        high=high,
        voxel_mm=(high - low) * spacing / grid,
    )


def scan_on_grid(study: StandardizedStudy, settings: ScanSettings) -> ScanCut:
    """A whole standardised study on the model's grid."""
    return cut_scan(study.image(), study.organs(), study.affine, settings)


def _nearest(labels: np.ndarray | None, low: np.ndarray, high: np.ndarray, grid: np.ndarray) -> np.ndarray | None:
    """The label at the centre of each voxel of the grid; 0 beyond the volume."""
    if labels is None:
        return None
    centres = [a + (np.arange(n) + 0.5) * (b - a) / n for a, b, n in zip(low, high, grid, strict=True)]
    positions = list(zip((np.floor(centre).astype(int) for centre in centres), labels.shape, strict=True))
    inside = [(index >= 0) & (index < n) for index, n in positions]
    picked = labels[np.ix_(*(np.clip(index, 0, n - 1) for index, n in positions))]
    return np.where(inside[0][:, None, None] & inside[1][:, None] & inside[2], picked, 0).astype(np.uint8)


def render_scans(hu: Num[np.ndarray, "*n x y z"], settings: ScanSettings) -> Float[np.ndarray, "*n c x y z"]:
    """The channels that a model sees, float32: one for each window.

    Args:
        hu: one scan or a stack of scans on the grid (float or int16).
        settings: which windows.
    """
    out = np.empty((*hu.shape[:-3], settings.channels, *hu.shape[-3:]), dtype=np.float32)
    for channel, (low, high) in enumerate(settings.windows_hu):
        scaled = (hu.astype(np.float32) - low) * (2.0 / (high - low)) - 1.0
        np.clip(scaled, -1.0, 1.0, out=out[..., channel, :, :, :])
    return out
