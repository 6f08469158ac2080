"""Scans as segmentation reads them: on voxels of one size, in patches of which a share lies on what is to be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, Int16, UInt8
from torch import Tensor

from ctglip.ct.geometry import regrid
from ctglip.ct.resample import to_grid
from ctglip.data.augment import augment_hu
from ctglip.data.crops import AIR_HU
from ctglip.data.scans import ScanSettings, render_scans
from ctglip.tasks.settings import CtSegmentationTaskSettings

_ANCHORS = 4096
Edges = tuple[float, float, float]


@dataclass(frozen=True)
class PatchVolume:
    """A scan on the voxels that a network sees.

    Attributes:
        hu: int16 ``[x, y, z]``.
        affine: voxel index to mm.
        classes: the class of each voxel, or None where nobody knows.
        anchors: some voxels of each class that is there, ``[n, 3]``, by its number.
    """

    hu: Int16[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    classes: UInt8[np.ndarray, "x y z"] | None = None
    anchors: Mapping[int, Int[np.ndarray, "n 3"]] = field(default_factory=dict)


def patch_volume(
    hu: Int16[np.ndarray, "x y z"],
    classes: UInt8[np.ndarray, "x y z"] | None,
    affine: Float[np.ndarray, "4 4"],
    spacing_mm: Edges | None,
) -> PatchVolume:
    """A standardised scan on voxels of a spacing (None: its own)."""
    if spacing_mm is not None:
        x, y, z = hu.shape
        shape, target = regrid(affine, (0, x, 0, y, 0, z), spacing_mm)
        hu = to_grid(hu, affine, shape, target, fill=AIR_HU)
        classes = None if classes is None else to_grid(classes, affine, shape, target, labels=True)
        affine = target
    return PatchVolume(hu, affine, classes, {} if classes is None else _anchors(classes))


def _anchors(classes: UInt8[np.ndarray, "x y z"]) -> dict[int, Int[np.ndarray, "n 3"]]:
    found = {}
    for number in np.flatnonzero(np.bincount(classes.ravel(), minlength=1)[1:]) + 1:
        flat = np.flatnonzero(classes == number)
        flat = flat[np.linspace(0, len(flat) - 1, min(len(flat), _ANCHORS)).astype(np.int64)]
        found[int(number)] = np.stack(np.unravel_index(flat, classes.shape), axis=1).astype(np.int32)
    return found


def patch_corner(
    volume: PatchVolume, patch: Sequence[int], foreground: float, rng: np.random.Generator
) -> Int[np.ndarray, " 3"]:
    """Where a patch begins: on a voxel of one of the volume's classes with the chance ``foreground``, else anywhere.

    A patch stays inside of the volume; one that is larger has the volume in its middle.
    """
    room = np.array(volume.hu.shape) - np.array(patch)
    centred = rng.random() < foreground
    anywhere = np.array([rng.integers(0, max(free, 0) + 1) for free in room])
    if centred and volume.anchors:
        numbers = sorted(volume.anchors)
        anchors = volume.anchors[numbers[rng.integers(len(numbers))]]
        anywhere = np.clip(anchors[rng.integers(len(anchors))] - np.array(patch) // 2, 0, np.maximum(room, 0))
    return np.where(room < 0, room // 2, anywhere)


def cut_patch(array: np.ndarray, corner: np.ndarray, patch: Sequence[int], fill: int) -> np.ndarray:
    """A patch of an array; ``fill`` beyond its faces."""
    out = np.full(tuple(patch), fill, array.dtype)
    low = np.maximum(corner, 0)
    high = np.minimum(corner + np.array(patch), array.shape)
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    out[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))] = array[inside]
    return out


def patch_batch(
    volumes: Sequence[PatchVolume],
    patch: Sequence[int],
    view: ScanSettings,
    settings: CtSegmentationTaskSettings,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "n c x y z"], Float[Tensor, "n 1 x y z"]]:
    """Patches of some scans with changed HU, and the class of each voxel."""
    images, targets = [], []
    for volume in volumes:
        assert volume.classes is not None
        for _ in range(settings.patches):
            corner = patch_corner(volume, patch, settings.foreground, rng)
            images.append(cut_patch(volume.hu, corner, patch, AIR_HU))
            targets.append(cut_patch(volume.classes, corner, patch, 0))
    hu = augment_hu(np.stack(images), settings.shift_hu, settings.noise_hu, rng)
    return torch.from_numpy(render_scans(hu, view)), torch.from_numpy(np.stack(targets)[:, None].astype(np.float32))
