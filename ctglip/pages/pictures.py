"""Slices of a CT volume as pictures: windowed, at true proportions, with numbered organ outlines.

Display convention, stated in every caption: radiological. In axial and coronal pictures the patient's right is on the
picture's left; axial pictures have anterior on top, coronal and sagittal ones the head; sagittal pictures have
anterior on the left. The letters R L A P H F at the edges say the same.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from ctglip.pages.parts import LegendEntry, Picture

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
SOFT_TISSUE_HU = (-160.0, 240.0)
LUNG_HU = (-1350.0, 150.0)
BONE_HU = (-450.0, 1050.0)
MOST_OUTLINES = 12
LEAST_HEAT = 0.2
"""Heat below this share of a map's highest value is not shown."""
HEAT_OPACITY = 0.5
"""Of the highest heat, so that what lies under it stays visible; less heat is more transparent."""
OUTLINED_HEAT = 0.5
"""The share of a map's highest value that its outline encloses."""

PALETTE = (
    "#4fc3ff", "#ffb000", "#3ddc97", "#ff7a59", "#e58bd0", "#f4e74a",
    "#8fa8ff", "#b5e655", "#ff9fb2", "#5fe3e0", "#d7b07a", "#c8a2ff",
)  # fmt: skip
_AXIS: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}
_EDGES: dict[Plane, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "H", "F"),
    "sagittal": ("A", "P", "H", "F"),
}
_SIDES: dict[Plane, str] = {
    "axial": "Patient's right is on the left, anterior on top.",
    "coronal": "Patient's right is on the left, head on top.",
    "sagittal": "Anterior is on the left, head on top.",
}


def window_for(organs: Sequence[str]) -> tuple[float, float]:
    """The window that organs are shown in: the lung's where most of them are airways, lungs or pleura."""
    thin = sum(organ.startswith(("lung", "pleura", "bronch")) for organ in organs)
    return LUNG_HU if 2 * thin > len(organs) else SOFT_TISSUE_HU


def slice_pictures(
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    labels: np.ndarray | None = None,
    organs: Mapping[str, Collection[int]] | None = None,
    *,
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    longest_px: int = 512,
    subject: str = "",
) -> tuple[Picture, ...]:
    """An axial, a coronal and a sagittal slice of a volume, each where most of the organs show.

    Args:
        hu: ``[x, y, z]`` RAS+.
        spacing_mm: voxel edge lengths.
        labels: ``[x, y, z]`` whole numbers on the same grid, or None for no outlines.
        organs: display name to label numbers, in the order of importance; at most ``MOST_OUTLINES`` of those present
            are outlined, numbered alike in the three pictures.
        window_hu: the HU shown as black and as white.
        longest_px: pixels of the longest side of each picture.
        subject: what is shown, for the alt text: "Chest CT of patient s001".
    """
    present = _present(labels, organs)
    return tuple(
        slice_picture(
            hu, spacing_mm, plane, best_slice(hu.shape, plane, labels, present),
            labels, present, window_hu=window_hu, longest_px=longest_px, subject=subject,
        )
        for plane in PLANES
    )  # fmt: skip


def slice_picture(
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    plane: Plane,
    index: int,
    labels: np.ndarray | None = None,
    organs: Mapping[str, Collection[int]] | None = None,
    *,
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
    longest_px: int = 512,
    subject: str = "",
    numbered: bool = True,
) -> Picture:
    """One slice as a picture, every organ given outlined and numbered by its place in ``organs``.

    Args:
        index: voxel index along the plane's axis (z for axial, y for coronal, x for sagittal).
        numbered: write the organs' numbers on them.
        Others as in :func:`slice_pictures`.
    """
    from PIL import Image

    axis = _AXIS[plane]
    width_mm, height_mm = (n * s for n, s in _in_plane(hu.shape, spacing_mm, axis))
    scale = longest_px / max(width_mm, height_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    low, high = window_hu
    grey = np.clip((displayed(hu, plane, index).astype(np.float32) - low) / (high - low), 0, 1)
    picture = Image.fromarray(np.round(grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.repeat(np.asarray(picture)[..., None], 3, axis=2)
    legend: list[LegendEntry] = []
    tags: list[tuple[int, int, LegendEntry]] = []
    marks = displayed(labels, plane, index) if labels is not None else None
    for number, (name, values) in enumerate((organs or {}).items(), start=1):
        if marks is None or not (inside := np.isin(marks, list(values))).any():
            continue
        entry = LegendEntry(number, name, PALETTE[(number - 1) % len(PALETTE)])
        mask = _smooth(inside, size)
        pixels[_edge(mask)] = _rgb(entry.colour)
        legend.append(entry)
        if numbered and (position := _position(mask, [(x, y) for x, y, _ in tags])) is not None:
            tags.append((*position, entry))
    uri = _uri(_lettered(pixels, _EDGES[plane], tags))
    return Picture(
        uri, _alt(plane, subject, legend), _caption(plane, index, hu.shape[axis], window_hu), size, tuple(legend)
    )


def heat_picture(heat: np.ndarray, plane: Plane, size: tuple[int, int], alt: str, *, outline: bool = False) -> Picture:
    """A heat map to be laid over a slice's picture: transparent where little is added, from dark red to yellow.

    Args:
        heat: ``[x, y, z]`` with one voxel along the plane's axis, at most 1.
        plane: of the slice.
        size: of the slice's picture.
        alt: what it shows.
        outline: only a line around the highest heat, with nothing over what it encloses.
    """
    from PIL import Image

    resized = Image.fromarray(displayed(heat, plane, 0).astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    coloured = (heat_outline if outline else heat_colours)(np.asarray(resized))
    return Picture(_uri(coloured), alt, size=size)


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """uint8 ``[row, column, 4]`` of shares of a map's highest value: dark red to yellow, the less the more transparent,
    nothing below ``LEAST_HEAT``."""
    strength = np.clip((heat - LEAST_HEAT) / (1 - LEAST_HEAT), 0, 1)
    pixels = np.zeros((*strength.shape, 4), np.uint8)
    pixels[..., 0] = 192 + 63 * strength
    pixels[..., 1] = 255 * strength
    pixels[..., 3] = np.round(255 * HEAT_OPACITY * np.sqrt(strength))
    return pixels


def heat_outline(heat: np.ndarray) -> np.ndarray:
    """uint8 ``[row, column, 4]``: a yellow line around what reaches ``OUTLINED_HEAT`` of the map's highest value."""
    pixels = np.zeros((*heat.shape, 4), np.uint8)
    pixels[_edge(heat >= OUTLINED_HEAT)] = (255, 220, 0, 255)
    return pixels


def displayed(volume: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """A slice of a RAS+ volume ``[x, y, z]`` as picture rows and columns ``[row, column]``, radiologically."""
    return np.take(volume, index, axis=_AXIS[plane])[::-1, ::-1].T


def best_slice(
    shape: tuple[int, ...],
    plane: Plane,
    labels: np.ndarray | None = None,
    organs: Mapping[str, Collection[int]] | None = None,
) -> int:
    """The slice that shows most of the organs, each measured by its own largest area; the middle without organs."""
    axis = _AXIS[plane]
    if labels is None or not organs:
        return shape[axis] // 2
    width = int(labels.max()) + 1
    first = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(3)]) * width
    areas = np.bincount((first + labels).ravel(), minlength=shape[axis] * width).reshape(shape[axis], width)
    total = np.zeros(shape[axis])
    for values in organs.values():
        area = areas[:, [value for value in values if value < width]].sum(axis=1)
        total += area / max(area.max(), 1)
    return int(total.argmax()) if total.any() else shape[axis] // 2


def file_picture(path: Path, alt: str, caption: str = "") -> Picture:
    """A PNG or JPEG file as a picture.

    Raises:
        ValueError: the file is no PNG or JPEG.
    """
    from PIL import Image

    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        kind, size = image.format, image.size
    if kind not in ("PNG", "JPEG"):
        raise ValueError(f"{path} is {kind}, expected PNG or JPEG.")
    return Picture(f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}", alt, caption, size)


def _in_plane(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float], axis: int
) -> tuple[tuple[int, float], tuple[int, float]]:
    """(voxels, millimetres a voxel) of a slice's columns and rows."""
    column, row = (i for i in range(3) if i != axis)
    return (shape[column], spacing_mm[column]), (shape[row], spacing_mm[row])


def _present(labels: np.ndarray | None, organs: Mapping[str, Collection[int]] | None) -> dict[str, Collection[int]]:
    """The first organs that have voxels."""
    if labels is None or not organs:
        return {}
    there = set(np.unique(labels).tolist())
    found = {name: values for name, values in organs.items() if there & set(values)}
    return dict(list(found.items())[:MOST_OUTLINES])


def _smooth(inside: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask ``[row, column]`` brought to picture size with smooth borders."""
    from PIL import Image

    image = Image.fromarray(inside.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image) > 127


def _edge(mask: np.ndarray) -> np.ndarray:
    """The inner border of a mask, two pixels wide (one where the picture is small)."""
    width = 2 if max(mask.shape) >= 320 else 1
    return mask & np.logical_not(ndimage.binary_erosion(mask, iterations=width))


def _position(mask: np.ndarray, taken: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Where a tag fits: far from the mask's border and from other tags; (column, row), None in an empty mask."""
    if not mask.any():
        return None
    room = np.minimum(np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1], 40.0)
    rows, columns = np.indices(mask.shape)
    for x, y in taken:
        room = np.minimum(room, np.hypot(columns - x, rows - y) / 2)
    row, column = np.unravel_index(int(np.where(mask, room, -1).argmax()), mask.shape)
    return int(column), int(row)


def _lettered(
    pixels: np.ndarray, edges: tuple[str, str, str, str], tags: list[tuple[int, int, LegendEntry]]
) -> np.ndarray:
    """The pixels with organ numbers and the letters of the four directions written on them."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    points = max(11, round(max(image.size) / 26))
    font = ImageFont.load_default(size=points)
    width, height = image.size
    gap = points * 0.8
    positions = ((gap, height / 2), (width - gap, height / 2), (width / 2, gap), (width / 2, height - gap))
    for letter, position in zip(edges, positions, strict=True):
        draw.text(position, letter, "#c9d1d6", font, anchor="mm", stroke_width=2, stroke_fill="black")
    for x, y, entry in tags:
        draw.text((x, y), str(entry.number), entry.colour, font, anchor="mm", stroke_width=2, stroke_fill="black")
    return np.asarray(image)


def _uri(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _alt(plane: Plane, subject: str, legend: list[LegendEntry]) -> str:
    names = ", ".join(entry.name for entry in legend)
    return (
        f"{plane.capitalize()} slice{' of ' + subject if subject else ''}"
        f"{', with outlines of ' + names if names else ''}. {_SIDES[plane]}"
    )


def _caption(plane: Plane, index: int, count: int, window_hu: tuple[float, float]) -> str:
    low, high = (f"{value:.0f}".replace("-", "\u2212") for value in window_hu)
    return f"{plane.capitalize()}, slice {index + 1} of {count}, {low} to {high} HU. {_SIDES[plane]}"
