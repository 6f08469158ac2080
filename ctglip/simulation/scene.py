"""One study in the making: its HU and labels, and the means to find places in organs and paint lesions there."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings, Share
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.canvas import Slices, Spacing, box_around, distance, smooth_noise
from ctglip.simulation.labels import lookup


class NoduleSettings(Settings):
    """Lung nodules over the classes of the Fleischner Society's guideline (2017): below 6, 6 to 8, above 8 mm.

    Attributes:
        sizes: share of nodules in each class; diameters are even within the lower two, their logarithms above.
        densities: share of solid, part-solid and pure ground-glass ones.
        pleura, vessel: share that sits on the pleura or a fissure, or on a vessel.
        spiculated: share of solid ones of 10 mm or more with spikes.
    """

    sizes: dict[Literal["4-6", "6-8", "8-30"], float]
    densities: dict[Literal["solid", "part-solid", "ground-glass"], float]
    pleura: Share
    vessel: Share
    spiculated: Share


class LesionSettings(Settings):
    """How lesions look.

    Attributes:
        supersample_mm: what is painted is averaged over each voxel from points this far apart, so that small lesions
            lose contrast as they do in thick slices; 0 takes each voxel's middle.
        irregular: how much rougher and less round than a ball.
        least: the smallest lesions, as a share of the smallest of the easy level.
        nodules: lung nodules of all sizes and densities; null for solid ones of 12 to 28 mm inside of a lobe.
    """

    supersample_mm: float = Field(default=0.0, ge=0)
    irregular: float = Field(default=0.0, ge=0, le=2)
    least: float = Field(default=1.0, gt=0, le=1)
    nodules: NoduleSettings | None = None


@dataclass(frozen=True)
class Lesion:
    """Where one abnormality lies in one study.

    Attributes:
        abnormality: name in the abnormality dictionary.
        organ: the most specific structure it lies in (a lobe, a vertebra).
        centre_mm: x, y, z in the scan's own millimetres once the study is done (voxels times spacing before).
        radius_mm: half the largest diameter.
        detail: what a report would say of it beside its size (a lobe, a level).
        density: of a nodule, where they differ.
    """

    abnormality: str
    organ: str
    centre_mm: tuple[float, float, float]
    radius_mm: float
    detail: str = ""
    density: str = ""


@dataclass
class Scene:
    """A deformed anatomy to paint on.

    Attributes:
        hu: float32 ``[x, y, z]``, changed in place.
        labels: uint8 ``[x, y, z]``, TotalSegmentator v2 numbers, changed in place where a lesion takes an organ's room.
        spacing_mm: edges of a voxel.
        anatomy: what the study was deformed from.
        style: how lesions look.
    """

    hu: np.ndarray
    labels: np.ndarray
    spacing_mm: Spacing
    anatomy: Anatomy
    style: LesionSettings = field(default_factory=LesionSettings)
    boxes: list[Slices | None] = field(init=False)

    @property
    def contrast(self) -> bool | None:
        """With contrast medium; None where unknown."""
        return self.anatomy.contrast

    @property
    def edges(self) -> np.ndarray:
        """``spacing_mm`` as float64 ``[3]``."""
        return np.array(self.spacing_mm)

    def __post_init__(self) -> None:
        self.boxes = ndimage.find_objects(self.labels, max_label=117)

    def reach_mm(self, mask: np.ndarray) -> float:
        """Half of the longest edge of a mask's grid."""
        return float(max(n * mm for n, mm in zip(mask.shape, self.spacing_mm, strict=True))) / 2

    def box(self, organs: Sequence[str], margin_mm: float = 0) -> Slices | None:
        """The box around organs with a margin, clipped to the grid; None where none of them is there."""
        return box_around(self.boxes, lookup(organs), self.hu.shape, self.spacing_mm, margin_mm)

    def mask(self, organs: Sequence[str], box: Slices) -> np.ndarray:
        """Which voxels of a box belong to any of the organs."""
        return lookup(organs)[self.labels[box]]

    def median_hu(self, organ: str) -> float:
        """Median HU inside an organ that is there."""
        box = self.box([organ])
        assert box is not None
        return float(np.median(self.hu[box][self.mask([organ], box)]))

    def spot(
        self, organs: Sequence[str], radius_mm: float, rng: np.random.Generator, inside: float = 0.9
    ) -> np.ndarray | None:
        """A random voxel (float ``[3]``) with ``inside`` of the ball around it in the organs; None if none is found."""
        box = self.box(organs)
        if box is None:
            return None
        voxels = np.argwhere(self.mask(organs, box)) + [part.start for part in box]
        table = lookup(organs)
        for voxel in voxels[rng.integers(len(voxels), size=60)] if len(voxels) else ():
            if self.share(voxel, radius_mm, table) >= inside:
                return voxel.astype(float)
        return None

    def share(self, centre: np.ndarray, radius_mm: float, labels: np.ndarray) -> float:
        """Which share of a ball around a voxel has one of ``labels`` (bool ``[256]``)."""
        around = np.rint(centre).astype(int) + _ball(radius_mm, self.spacing_mm)
        a, b, c = around[((around >= 0) & (around < self.hu.shape)).all(1)].T
        return float(labels[self.labels[a, b, c]].sum() / len(around))

    def soften(self, box: Slices, painted: np.ndarray) -> None:
        """Blur the border of what was painted with one value in a box, as a scanner would."""
        border = np.asarray(ndimage.binary_dilation(painted)) & ~eroded(painted)
        self.hu[box][border] = ndimage.gaussian_filter(self.hu[box], 0.5, truncate=2)[border]

    def paint(
        self,
        centre: np.ndarray,
        radii_mm: np.ndarray | float,
        hu: float,
        rng: np.random.Generator,
        *,
        edge_mm: float = 2.0,
        rough: float = 0.0,
        over: np.ndarray | None = None,
        strength: float = 1.0,
    ) -> tuple[Slices, np.ndarray]:
        """Blend a ball (or ellipsoid) of one HU into the image.

        Args:
            centre: voxel coordinates.
            radii_mm: one radius or three.
            hu: value at its middle.
            rng: draws the surface's roughness.
            edge_mm: width over which it fades out.
            rough: deviation of the surface, as a share of the radius.
            over: bool ``[256]``, labels that it may cover; None for any.
            strength: how much of what was there is replaced.

        Returns:
            the box that was touched, and which of its voxels are more lesion than not.
        """
        radii = np.broadcast_to(np.asarray(radii_mm, float), 3) / self.edges
        if self.style.irregular:
            radii = radii * np.exp(rng.normal(0, 0.12 * self.style.irregular, 3))
            rough *= 1 + self.style.irregular * float(rng.uniform(0, 2))
        reach = radii * (1 + 2 * rough) + edge_mm / self.edges + 1
        low = np.maximum(np.floor(centre - reach), 0).astype(int)
        high = np.minimum(np.ceil(centre + reach) + 1, self.hu.shape).astype(int)
        i, j, k = (slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
        box = (i, j, k)
        parts = self._parts(radii)
        grids = [
            ((np.arange(a * n, max(a, b) * n) + 0.5) / n - 0.5 - c) / r
            for a, b, c, r, n in zip(low, high, centre, radii, parts, strict=True)
        ]
        level = distance(grids)
        if rough and level.size:
            cell = max(2.0, float((radii * parts).min()) * 0.8)
            level = level + rough * smooth_noise(level.shape, cell, rng)
            if self.style.irregular:
                level = level + 0.5 * rough * smooth_noise(level.shape, max(1.5, 0.4 * cell), rng)
        weight = np.clip((1 - level) * float((radii * self.edges).min()) / edge_mm + 0.5, 0, 1) * strength
        if max(parts) > 1:
            sizes = [part for n, parts_n in zip(level.shape, parts, strict=True) for part in (n // parts_n, parts_n)]
            weight = weight.reshape(sizes).mean((1, 3, 5))
        if over is not None:
            weight = weight * over[self.labels[box]]
        self.hu[box] += (weight * (hu - self.hu[box])).astype(np.float32)
        return box, weight > 0.5 * strength

    def _parts(self, radii: np.ndarray) -> np.ndarray:
        """How many points a voxel is averaged from, along each axis; large lesions need fewer."""
        if not self.style.supersample_mm:
            return np.ones(3, int)
        counts = np.ceil(self.edges / max(self.style.supersample_mm, float((radii * self.edges).min()) / 8))
        return np.maximum(counts, 1).astype(int)

    def size_mm(self, rng: np.random.Generator, low: float, high: float) -> float:
        """A radius between the smallest and the largest of a kind of lesion."""
        return float(rng.uniform(low * self.style.least, high))

    def lesion(
        self, abnormality: str, organ: str, centre: np.ndarray, radius_mm: float, detail: str = "", density: str = ""
    ) -> Lesion:
        """A record of what was painted; ``centre`` in voxels."""
        x, y, z = (float(c) * mm for c, mm in zip(centre, self.spacing_mm, strict=True))
        return Lesion(abnormality, organ, (x, y, z), float(radius_mm), detail, density)


@functools.lru_cache(maxsize=64)
def _ball(radius_mm: float, spacing_mm: Spacing) -> np.ndarray:
    """Voxel offsets ``[n, 3]`` within a radius."""
    reaches = [int(np.ceil(radius_mm / mm)) for mm in spacing_mm]
    steps = [np.arange(-reach, reach + 1) for reach in reaches]
    offsets = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    shares = np.array(spacing_mm) / spacing_mm[0]
    return offsets[((offsets * shares) ** 2).sum(1) <= (radius_mm / spacing_mm[0]) ** 2]


def soft_tissue() -> np.ndarray:
    """Labels that a lesion may push into: everything but bone, spinal cord and the great vessels."""
    bones = ("spine", "ribs", "sternum", "hip_left", "hip_right", "sacrum")
    return ~lookup([*bones, "spinal_cord", "aorta", "inferior_vena_cava", "heart"])


def eroded(mask: np.ndarray) -> np.ndarray:
    """A bool mask without its surface voxels."""
    return np.asarray(ndimage.binary_erosion(mask), bool)


def depth_mm(mask: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Distance in mm of each voxel of a mask to the nearest voxel outside it; float32."""
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing_mm), np.float32)
