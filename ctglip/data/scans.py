"""A whole scan on a fixed grid: the only way a scan becomes a model's input, in training and for a single question.

Labels lie on the same grid, each voxel taking the label at its centre. Two grids are offered: the whole volume laid on
the grid, whatever its shape (scale then travels beside the voxels, as for crops), or the middle of the volume at a
fixed spacing, padded with air, as most published models have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int16, Num, UInt8

from ctglip.config import Settings
from ctglip.data.cache import MAX_FAILED_SHARE, check_damage
from ctglip.data.crops import AIR_HU, axis_weights, resampled, standardised_size, window_name
from ctglip.errors import CTGLIPError
from ctglip.parallel import worker_threads
from ctglip.store.tables import Store
from ctglip.types import Failure, OrganRow, spacing_of


class ScanSettings(Settings):
    """How a whole scan becomes a model's input. Part of the model: inference cuts as training did.

    Attributes:
        grid: voxels along x, y, z; the encoder's stride must divide them.
        spacing_mm: None lays the whole volume on the grid; else the volume's middle at this spacing, cropped or padded
            with air.
        windows_hu: one channel for each (lowest, highest) HU, scaled to -1 .. 1.
    """

    grid: tuple[int, int, int] = (64, 64, 64)
    spacing_mm: tuple[float, float, float] | None = None
    windows_hu: tuple[tuple[float, float], ...] = ((-1000.0, 1000.0), (-160.0, 240.0))

    @property
    def channels(self) -> int:
        """Channels of a rendered scan."""
        return len(self.windows_hu)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel shows."""
        return tuple(window_name(window) for window in self.windows_hu)


@dataclass(frozen=True)
class ScanCut:
    """A scan on the fixed grid, before windows.

    Attributes:
        hu: int16 ``[x, y, z]``; air where the grid leaves the scan.
        labels: uint8 ``[x, y, z]``, or None where the scan has no masks.
        low, high: lower and upper faces of the grid in voxels of the volume (a voxel i reaches from i to i + 1).
        voxel_mm: edge lengths of the grid's voxels.
    """

    hu: Int16[np.ndarray, "x y z"]
    labels: UInt8[np.ndarray, "x y z"] | None
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]
    voxel_mm: Float[np.ndarray, " 3"]

    def sizes(self, rows: Sequence[OrganRow]) -> Float[np.ndarray, "m 4"]:
        """What a model is told of the size of some organs (see ``data.crops``)."""
        sizes = [standardised_size(self.voxel_mm, row.volume_ml) for row in rows]
        return np.array(sizes, dtype=np.float32).reshape(len(rows), 4)

    def boxes(self, rows: Sequence[OrganRow]) -> Float[np.ndarray, "m 6"]:
        """The boxes of some organs, half-open ``(x0, x1, y0, y1, z0, z1)`` in voxels of the grid."""
        corners = np.array([row.box for row in rows], dtype=np.float64).reshape(len(rows), 3, 2)
        scale = np.array(self.hu.shape) / (self.high - self.low)
        placed = (corners - self.low[:, None]) * scale[:, None]
        return np.clip(placed, 0, np.array(self.hu.shape)[:, None]).reshape(len(rows), 6).astype(np.float32)


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
    return ScanCut(stored, _nearest(labels, low, high, grid), low, high, (high - low) * spacing / grid)


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


class ScanReader:
    """Scans of a store on the grid, cut when they are first asked for and kept as far as memory is allowed.

    Args:
        store: where the scans are.
        settings: grid.
        studies: how many there are; ``failures`` may be a twentieth of them.
        keep_gb: memory for scans that were cut; the others are cut again each time.
        threads: scans cut at a time.

    Attributes:
        failures: studies that could not be read.
    """

    def __init__(self, store: Store, settings: ScanSettings, studies: int, keep_gb: float, threads: int) -> None:
        self.store = store
        self.settings = settings
        self.studies = studies
        self.threads = threads
        self.failures: list[Failure] = []
        self._kept: dict[str, ScanCut] = {}
        each = 3 * int(np.prod(settings.grid))
        self._room = int(keep_gb * 1e9 / each)

    def read(self, study_ids: Sequence[str]) -> list[ScanCut | None]:
        """Some scans, in order; None for one that cannot be read.

        Raises:
            StoreError: code ``damaged_store``: more than a twentieth of the studies cannot be read.
        """
        wanted = [name for name in dict.fromkeys(study_ids) if name not in self._kept]
        known = {failure.study_id for failure in self.failures}
        found: dict[str, ScanCut | Failure] = {}
        if wanted:  # a pool takes milliseconds
            with worker_threads(self.threads) as pool:
                found = dict(zip(wanted, pool.map(self._cut, wanted), strict=True))
        for name, cut in found.items():
            if isinstance(cut, Failure):
                self.failures += [] if name in known else [cut]
            elif len(self._kept) < self._room:
                self._kept[name] = cut
        check_damage(self.failures, self.studies, MAX_FAILED_SHARE)
        cuts = (self._kept.get(name, found.get(name)) for name in study_ids)
        return [cut if isinstance(cut, ScanCut) else None for cut in cuts]

    def _cut(self, study_id: str) -> ScanCut | Failure:
        try:
            study = self.store.study(study_id)
            return cut_scan(study.image(), study.organs(), study.affine, self.settings)
        except (CTGLIPError, OSError, ValueError) as error:
            return Failure(study_id, "scans", getattr(error, "code", "unreadable"), str(error))
