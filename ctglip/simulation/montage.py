"""Every abnormality beside its normal twin: the same study, from the same seed, without the lesion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import ndimage

from ctglip.files import atomic_path
from ctglip.simulation.anatomy import Anatomy, read_nifti
from ctglip.simulation.labels import number
from ctglip.simulation.lesions import Kind, possible_kinds
from ctglip.simulation.scene import Lesion
from ctglip.simulation.study import SimulatedStudy, SimulationSettings, anatomy_of, simulate_study
from ctglip.types import spacing_of

_LUNG, _SOFT, _BONE = (-1100, 300), (-110, 190), (-250, 750)
_WINDOWS = {
    "lung_nodule": _LUNG, "consolidation": _LUNG, "emphysema": (-1050, -600), "compression_fracture": _BONE,
    "aortic_calcification": (-150, 450), "renal_stone": (-100, 500), "hepatic_steatosis": (-60, 140),
    "liver_metastasis": (-40, 140), "liver_cyst": (-60, 140), "renal_cyst": (-70, 110), "hydronephrosis": (-70, 110),
    "pericardial_effusion": (-90, 120),
}  # fmt: skip
_PLANES = {"compression_fracture": 0, "splenomegaly": 1, "emphysema": 1, "hydronephrosis": 1, "cardiomegaly": 1}
"""Axis that a slice is cut across where it is not z."""
_BOXES = {"right_lung": "#4fc3ff", "left_lung": "#4fc3ff", "cardiac_silhouette": "#ff7a59", "spine": "#f4e74a"}
"""Regions drawn on radiographs, and their colours."""
_WIDE = ("pericardial_effusion", "liver_metastasis", "pleural_effusion", "gallstone")
"""Shown with more around them."""


def draw_montage(
    path: Path, seed: int, settings: SimulationSettings | None = None, template: Anatomy | None = None
) -> Path:
    """Write a PNG that shows each abnormality once, right of the same slice without it.

    Args:
        path: where to.
        seed: of the cohort; its first study is the twin.
        settings: as for the cohort.
        template: as for the cohort.
    """
    settings = settings or SimulationSettings()
    kinds = _one_each(possible_kinds(template or anatomy_of(seed, 0, settings)))
    normal = simulate_study(seed, 0, settings, template, pairs=())
    tiles: dict[str, np.ndarray] = {}
    for group in _groups(kinds):
        ill = simulate_study(seed, 0, settings, template, pairs=[kind.pair for kind in group])
        for kind in group:
            matching = [lesion for lesion in ill.lesions if lesion.abnormality == kind.abnormality]
            if matching:
                tiles[kind.abnormality] = _tile(normal, ill, max(matching, key=lambda lesion: lesion.radius_mm))
    _render(path, [(kind.abnormality, tiles[kind.abnormality]) for kind in kinds if kind.abnormality in tiles])
    return path


def _one_each(kinds: Sequence[Kind]) -> list[Kind]:
    """One pair for each abnormality, sides taken in turn."""
    chosen: dict[str, Kind] = {}
    for n, kind in enumerate(kinds):
        if kind.abnormality not in chosen or n % 3 == 0:
            chosen[kind.abnormality] = kind
    return list(chosen.values())


def _groups(kinds: Sequence[Kind]) -> list[list[Kind]]:
    """Pairs that can share a study: no two in one part of the body."""
    groups: list[list[Kind]] = []
    for kind in kinds:
        free = (group for group in groups if all(_part(other.organ) != _part(kind.organ) for other in group))
        group = next(free, None)
        if group is None:
            groups.append([kind])
        else:
            group.append(kind)
    return groups


def _part(organ: str) -> str:
    if organ.startswith(("lung", "pleura", "heart", "pericardium", "thoracic")):
        return "chest"
    return "left upper belly" if organ in ("spleen", "kidney_left") else organ


def _tile(normal: SimulatedStudy, ill: SimulatedStudy, lesion: Lesion) -> np.ndarray:
    """Grey values 0 to 1 ``[row, column]`` of a square around a lesion: normal, a gap, ill."""
    axis = _PLANES.get(lesion.abnormality, 2)
    low, high = _WINDOWS.get(lesion.abnormality, _SOFT)
    position = np.asarray(lesion.centre_mm)
    half = 85.0 if lesion.abnormality in _WIDE else float(np.clip(3.2 * lesion.radius_mm, 55, 110))
    pictures = []
    for study in (normal, ill):
        spacing = np.array(study.scan.spacing_mm)
        voxel = np.rint((position - ill.scan.affine[:3, 3]) / spacing).astype(int)
        plane = np.take(study.scan.hu, int(np.clip(voxel[axis], 0, study.scan.hu.shape[axis] - 1)), axis)
        centre, sizes = np.delete(voxel, axis), np.rint(half / np.delete(spacing, axis)).astype(int)
        padded = np.pad(plane, [(size, size) for size in sizes], constant_values=-1024)
        cut = padded[centre[0] : centre[0] + 2 * sizes[0], centre[1] : centre[1] + 2 * sizes[1]]
        if sizes[0] != sizes[1]:
            cut = np.asarray(ndimage.zoom(cut.astype(np.float32), sizes.max() / sizes, order=1))
        grey = np.clip((cut.T[::-1].astype(float) - low) / (high - low), 0, 1)
        pictures.append(grey if axis == 0 else grey[:, ::-1])
    return np.hstack([pictures[0], np.ones((len(pictures[0]), 2)), pictures[1]])


@contextmanager
def _figure(path: Path, wide: float, high: float, pad: float = 0.4, dpi: int = 110) -> Iterator[Any]:
    """A matplotlib figure of so many inches to draw on, written as PNG in the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high), facecolor="white")
    FigureCanvasAgg(figure)
    yield figure
    figure.tight_layout(pad=pad)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def _render(path: Path, tiles: Sequence[tuple[str, np.ndarray]]) -> None:
    columns = 3
    rows = max(1, -(-len(tiles) // columns))
    with _figure(path, columns * 4.2, rows * 2.35) as figure:
        for position, (name, tile) in enumerate(tiles, start=1):
            axes = figure.add_subplot(rows, columns, position)
            axes.imshow(tile, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
            axes.set_title(f"normal | {name.replace('_', ' ')}", fontsize=9)
            axes.axis("off")


def draw_gallery(path: Path, cohort: Path, most: int = 12) -> Path:
    """Write a PNG of the first scans of a simulated cohort: the middle of the body from the front, and a slice through
    the liver or the heart with the borders of its masks.

    Args:
        path: where to.
        cohort: ``cohort.csv`` of the cohort.
        most: scans to show.
    """
    rows = pl.read_csv(cohort, n_rows=most).to_dicts()
    lines = -(-len(rows) // 4)
    with _figure(path, 14, 3.1 * lines, pad=0.3, dpi=100) as figure:
        for n, row in enumerate(rows):
            (hu, affine), (labels, _) = (read_nifti(cohort.parent / row[name]) for name in ("image", "masks"))
            mm = spacing_of(affine)
            heights = np.flatnonzero((labels == number("liver" if n % 2 else "heart")).any((0, 1)))
            z = int(heights.mean()) if len(heights) else hu.shape[2] // 2
            front, across = hu[::-1, hu.shape[1] // 2].T[::-1], hu[::-1, :, z].T[::-1]
            panels = [figure.add_subplot(lines, 8, 2 * n + column) for column in (1, 2)]
            for axes, picture, aspect in zip(panels, (front, across), (mm[2] / mm[0], 1.0), strict=True):
                axes.imshow(picture, cmap="gray", vmin=_SOFT[0], vmax=_SOFT[1], aspect=aspect)
                axes.axis("off")
            outline = labels[::-1, :, z].T[::-1]
            border = outline != ndimage.minimum_filter(outline, 2)
            panels[1].contour(border, [0.5], colors="#ff7a59", linewidths=0.4)
            words = (row.get(name) for name in ("anatomy", "phase", "kernel", "slice_thickness_mm"))
            panels[1].set_title(", ".join(str(word) for word in words if word), fontsize=7, loc="right")
    return path


def draw_cxr_montage(path: Path, cohort: Path, most: int = 12) -> Path:
    """Write a PNG of the first radiographs of a simulated cohort, with the boxes of lungs, heart and spine.

    Args:
        path: where to.
        cohort: ``cohort.csv`` of the cohort; ``truth.csv`` stands beside it.
        most: radiographs to show.
    """
    from PIL import Image

    rows = pl.read_csv(cohort, n_rows=most).to_dicts()
    truth = {row.pop("study_id"): row for row in pl.read_csv(cohort.with_name("truth.csv"), n_rows=most).to_dicts()}
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    with _figure(path, columns * 3.0, lines * 3.3) as figure:
        for position, row in enumerate(rows, start=1):
            axes = figure.add_subplot(lines, columns, position)
            with Image.open(cohort.parent / row["image"]) as radiograph:
                axes.imshow(np.asarray(radiograph), cmap="gray", vmin=0, vmax=255)
            boxes = {box["region"]: box for box in pl.read_csv(cohort.parent / row["regions"]).to_dicts()}
            for name, colour in _BOXES.items():
                if box := boxes.get(name):
                    ends = (box["column0"], box["column1"], box["column1"], box["column0"], box["column0"])
                    axes.plot(ends, [box[f"row{n}"] for n in (0, 0, 1, 1, 0)], color=colour, linewidth=1)
            ill = [pair.split(":")[1].replace("_", " ") for pair, present in truth[row["study_id"]].items() if present]
            axes.set_title(", ".join(dict.fromkeys(ill)) or "nothing", fontsize=7, wrap=True)
            axes.axis("off")
    return path
