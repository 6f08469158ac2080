"""What a page looks at: volumes, organs and heat maps as NIfTI for NiiVue, radiographs as PNG."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctglip.cxr.recipe import CXR_MAX
from ctglip.errors import ModelError
from ctglip.files import atomic_path, read_json, write_json
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.maps import resample_map
from ctglip.pages.cxr import cxr_picture, map_picture
from ctglip.pages.parts import Picture
from ctglip.pages.pictures import window_for
from ctglip.pages.viewer import PlacedMap, make_viewer, viewed_map
from ctglip.types import Standardized
from ctglip.vocabulary.organs import OrganDictionary

RADIOGRAPH_PX = 1024


def picture_bytes(picture: Picture) -> bytes:
    """The PNG of a picture."""
    return base64.b64decode(picture.uri.partition(",")[2])


def write_views(made: Standardized, organs: OrganDictionary, folder: Path) -> None:
    """Write what a page shows of a standardised image: ``image.nii.gz``, ``labels.nii.gz`` (organs numbered from 1) and
    ``view.json``; of a radiograph ``image.png``."""
    if made.image.ndim == 2:
        picture = cxr_picture(made.image, CXR_MAX, longest_px=RADIOGRAPH_PX, subject="radiograph")
        (folder / "image.png").write_bytes(picture_bytes(picture))
        write_json(folder / "view.json", {"size": picture.size, "organs": []})
        return
    drawn = {row.organ: organs.labels_of(row.organ) for row in made.rows if organs.labels_of(row.organ)}
    there = set().union(*drawn.values())
    single = {name: (label,) for label, name in organs.label_names().items() if label in there}
    viewer = make_viewer(made.image, made.affine, made.organs, single)
    if viewer is None:
        raise ModelError("The package ipyniivue is missing.", code="missing_extra", fix="pip install 'ctglip[serve]'")
    (folder / "image.nii.gz").write_bytes(base64.b64decode(viewer.image))
    if viewer.labels:
        (folder / "labels.nii.gz").write_bytes(base64.b64decode(viewer.labels))
    numbers = {one.name: number for number, one in enumerate(viewer.organs, start=1)}
    of_label = {label: numbers[name] for name, (label,) in single.items() if name in numbers}
    centres = {numbers[one.name]: one.centre for one in viewer.organs}
    view: dict[str, Any] = {"shape": viewer.shape, "window": window_for(list(drawn)), "organs": []}
    for name, labels in drawn.items():
        numbers = sorted(of_label[label] for label in labels if label in of_label)
        if numbers:
            colour = viewer.organs[numbers[0] - 1].colour
            view["organs"].append({"organ": name, "numbers": numbers, "colour": colour, "centre": centres[numbers[0]]})
    write_json(folder / "view.json", view | {"affine": _thinned(made, viewer.shape).tolist()})


def _thinned(made: Standardized, shape: tuple[int, int, int]) -> np.ndarray:
    """The affine of the volume that is shown, which may hold every second voxel only."""
    steps = [-(-full // numbers) for full, numbers in zip(made.image.shape, shape, strict=True)]
    return made.affine @ np.diag([*steps, 1.0])


def read_view(folder: Path) -> Mapping[str, Any]:
    """What ``write_views`` said of the organs."""
    return read_json(folder / "view.json")


def write_map(one: HeatMap, made: Standardized, folder: Path) -> Path:
    """Write a heat map as the page lays it over the image, with ``.json`` beside it: where its peak is, and whether
    something in it speaks for the answer."""
    view = read_view(folder)
    stem = folder / "maps" / f"{one.organ}-{one.abnormality}"
    if made.image.ndim == 2:
        rows, columns = made.image.shape
        values = resample_map(one.values, np.linalg.inv(made.affine) @ one.affine, (rows, columns))
        picture = map_picture(values, tuple(view["size"]), "Heat map.")
        return _written(stem, ".png", picture_bytes(picture), {"peak": None, "speaks": True})
    placed = PlacedMap(one.abnormality, one.organ, one.values, one.affine)
    x, y, z = view["shape"]
    viewed = viewed_map(placed, np.array(view["affine"]), (x, y, z))
    about = {"peak": viewed.peak, "speaks": bool(one.speaks)}
    return _written(stem, ".nii.gz", base64.b64decode(viewed.image), about)


def _written(stem: Path, suffix: str, data: bytes, about: dict[str, Any]) -> Path:
    path = stem.with_name(stem.name + suffix)
    write_json(stem.with_name(stem.name + ".json"), about)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path
