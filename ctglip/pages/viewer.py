"""The viewer of a scan page: NiiVue, taken from the installed ``ipyniivue`` when the page is written.

``ipyniivue`` ships NiiVue as one ES module behind anywidget's front-end interface; the page hosts it with a small
model object (``templates/niivue.js``). Without the package, or in a browser without WebGL 2, the page shows its still
pictures; on paper it always does.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ctglip.pages.pictures import PALETTE, SOFT_TISSUE_HU

MOST_VOXELS = 4_000_000
"""A volume with more voxels is thinned for the page, to keep the file small."""
HU_STEP = 4
"""HU are rounded to this in the page, for the same reason."""


@dataclass(frozen=True)
class ViewedOrgan:
    """One organ of the viewer; ``centre`` is a fraction (0 to 1) of the volume's x, y and z that lies in the organ."""

    name: str
    colour: str
    centre: tuple[float, float, float]


@dataclass(frozen=True)
class PlacedMap:
    """A heat map to be laid over the scan.

    Attributes:
        name: of the answer.
        organ: display name.
        values: ``[x, y, z]``, at most 1; what is below ``LEAST_HEAT`` is not shown.
        affine: ``[4, 4]``, voxel index to millimetres.
    """

    name: str
    organ: str
    values: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class ViewedMap:
    """One heat map of the viewer: base64 of a gzipped NIfTI file (0 to 255), and where its highest value lies."""

    name: str
    organ: str
    image: str
    peak: tuple[float, float, float]


@dataclass(frozen=True)
class Viewer:
    """What the viewer of one scan is given.

    Attributes:
        image: base64 of a gzipped NIfTI file of HU, rounded to ``HU_STEP``.
        labels: the same of the organs, numbered as ``organs`` from 1, or "" when there are none.
        shape: voxels of both along x, y and z.
        organs: in the order of their numbers; their names must be those of the answers to be found by them.
        window_hu: the HU first shown as black and as white.
        module: base64 of the gzipped ES module.
        maps: heat maps, one of which is shown when it is asked for.
    """

    image: str
    labels: str
    shape: tuple[int, int, int]
    organs: tuple[ViewedOrgan, ...]
    window_hu: tuple[float, float]
    module: str
    maps: tuple[ViewedMap, ...] = ()


def make_viewer(
    hu: np.ndarray,
    affine: np.ndarray,
    labels: np.ndarray | None = None,
    organs: Mapping[str, Collection[int]] | None = None,
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    maps: Sequence[PlacedMap] = (),
) -> Viewer | None:
    """A viewer of a volume, or None where ``ipyniivue`` is not installed.

    Args:
        hu: ``[x, y, z]`` RAS+.
        affine: ``[4, 4]``, voxel index to millimetres.
        labels: ``[x, y, z]`` whole numbers on the same grid, or None.
        organs: display name to label numbers; where two claim a voxel, the first has it.
        window_hu: the HU first shown as black and as white.
        maps: heat maps on grids of their own.
    """
    module = _module()
    if module is None:
        return None
    thin = _thinning(hu.shape)
    affine = affine @ np.diag([*thin, 1.0])
    step = tuple(slice(None, None, n) for n in thin)
    coarse = np.round(np.clip(hu[step], -1024, 3071) / HU_STEP) * HU_STEP
    x, y, z = (int(n) for n in coarse.shape)
    numbers = np.zeros((x, y, z), np.uint8)
    viewed: list[ViewedOrgan] = []
    for name, values in (organs or {}).items():
        if labels is None or len(viewed) == 255:
            break
        inside = np.isin(labels[step], list(values))
        if inside.any():
            viewed.append(ViewedOrgan(name, PALETTE[len(viewed) % len(PALETTE)], _centre(inside)))
            numbers[inside & (numbers == 0)] = len(viewed)
    return Viewer(
        image=_nifti(coarse.astype(np.int16), affine),
        labels=_nifti(numbers, affine, labels=True) if viewed else "",
        shape=(x, y, z),
        organs=tuple(viewed),
        window_hu=window_hu,
        module=module,
        maps=tuple(viewed_map(one, affine, (x, y, z)) for one in maps),
    )


def viewed_map(placed: PlacedMap, affine: np.ndarray, shape: tuple[int, int, int]) -> ViewedMap:
    """A map packed, its highest value found as fractions of the volume that it is laid over.

    Args:
        affine, shape: of that volume.
    """
    heat = np.round(np.clip(placed.values, 0, 1) * 255).astype(np.uint8)
    highest = np.unravel_index(int(placed.values.argmax()), placed.values.shape)
    position = np.linalg.solve(affine, placed.affine @ [*highest, 1.0])[:3]
    x, y, z = np.clip((position + 0.5) / shape, 0, 1).round(4).tolist()
    return ViewedMap(placed.name, placed.organ, _nifti(heat, placed.affine), (x, y, z))


def _thinning(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Every how many voxels are kept along x, y and z, halving the longest axis until there are few enough."""
    thin = [1, 1, 1]
    while np.prod([-(-n // t) for n, t in zip(shape, thin, strict=True)]) > MOST_VOXELS:
        thin[int(np.argmax([n / t for n, t in zip(shape, thin, strict=True)]))] *= 2
    return thin[0], thin[1], thin[2]


def _centre(inside: np.ndarray) -> tuple[float, float, float]:
    """A voxel of the organ near its middle, as fractions of the volume."""
    positions = np.argwhere(inside)
    nearest = positions[((positions - positions.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    x, y, z = (nearest + 0.5) / inside.shape
    return round(float(x), 4), round(float(y), 4), round(float(z), 4)


def _nifti(volume: np.ndarray, affine: np.ndarray, *, labels: bool = False) -> str:
    import nibabel as nib

    image = nib.Nifti1Image(volume, affine)
    if labels:
        image.header.set_intent("label")  # NiiVue draws outlines for these alone
    return _packed(image.to_bytes())


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode()


@cache
def _module() -> str | None:
    """The installed NiiVue module, packed."""
    path = niivue_module()
    return None if path is None else _packed(path.read_bytes())


def niivue_module() -> Path | None:
    """The file of the installed NiiVue module, or None without it; the package itself is not imported."""
    found = find_spec("ipyniivue")
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / "static" / "widget.js"
        if path.is_file():
            return path
    return None
