"""The anatomies that studies are deformed from: a built-in torso painted from shapes, or a real CT with its masks.

The built-in torso comes as numbered bodies that differ in build, fat, sex, contrast phase and the lie of the organs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from ctglip.errors import MaskError, ScanError
from ctglip.files import read_yaml
from ctglip.simulation.canvas import Canvas, Patch, curve
from ctglip.simulation.labels import lookup, number, numbers_of
from ctglip.simulation.lungs import carve_lungs, diaphragm_mm, paint_airways_and_vessels
from ctglip.simulation.skeleton import CavityOutline, paint_skeleton
from ctglip.types import spacing_of

ZONES = {"wall": 1, "abdomen": 2, "chest": 3, "mediastinum": 4}
SHAPE, SPACING_MM = (133, 95, 205), 2.5
_SKIN_Z = (0, 60, 110, 180, 260, 340, 420, 465, 490, 512)
_SKIN_WIDTH = (156, 158, 150, 138, 143, 150, 150, 138, 116, 88)
_SKIN_DEPTH = (92, 98, 96, 92, 98, 102, 98, 88, 76, 66)
_CAVITY = CavityOutline(
    (0, 40, 80, 110, 150, 200, 260, 320, 360, 420, 455, 478, 492, 500),
    (60, 66, 92, 108, 106, 104, 114, 124, 124, 112, 88, 62, 34, 18),
    (56, 60, 60, 60, 60, 65, 73, 78, 78, 74, 64, 48, 28, 14),
    (10, 6, 8, 10, 9, 4, 1, 0, -2, -8, -12, -16, -18, -18),
)


@dataclass(frozen=True)
class Anatomy:
    """One body to deform.

    Attributes:
        hu: float32 ``[x, y, z]``, RAS+, without noise where built in.
        labels: uint8 ``[x, y, z]``, TotalSegmentator v2 numbers.
        spacing_mm: voxel edges.
        name: which body or template, for the records.
        contrast: portal venous phase (True), native (False) or unknown (None).
        sex: "M", "F" or None.
        noise: share of the simulated noise that is added (a real template has its own).
    """

    hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    name: str
    contrast: bool | None = None
    sex: Literal["M", "F"] | None = None
    noise: float = 1.0

    @functools.cached_property
    def boxes(self) -> list[tuple[slice, slice, slice] | None]:
        """Voxel box of each label, 1 first."""
        return ndimage.find_objects(self.labels, max_label=117)

    @functools.cached_property
    def volumes_ml(self) -> np.ndarray:
        """Volume in ml by label number, ``[256]``."""
        return np.bincount(self.labels.reshape(-1), minlength=256) * float(np.prod(self.spacing_mm)) / 1000

    def volume_ml(self, organ: str) -> float:
        """Volume in ml of an organ or group of the dictionary."""
        return float(self.volumes_ml[list(numbers_of(organ))].sum())

    def position(self, organ: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Centre and half-widths in mm of a TotalSegmentator v2 class, from the first voxel; None if it is absent."""
        box = self.boxes[number(organ) - 1]
        if box is None:
            return None
        spacing = np.array(self.spacing_mm)
        inside = np.argwhere(self.labels[box] == number(organ)) * spacing
        corner = np.array([part.start for part in box]) * spacing
        half = np.array([part.stop - part.start for part in box]) * spacing / 2
        return corner + inside.mean(0), half


@functools.cache
def _shapes() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("body.yaml"))


@functools.lru_cache(maxsize=16)
def built_in_anatomy(body: int, contrast: bool) -> Anatomy:
    """Body number ``body`` of the built-in torso; the same number is the same body, in either phase.

    133 x 95 x 205 voxels of 2.5 mm, from the symphysis to the base of the neck.
    """
    rng = np.random.default_rng([7, body])
    canvas = Canvas(SHAPE, SPACING_MM, rng)
    tissue = {name: values[1 if contrast else 0] for name, values in _shapes()["tissues"].items()}
    sex: Literal["M", "F"] = "F" if body % 2 else "M"
    _paint_wall(canvas, tissue, fat_mm=float(rng.uniform(9, 22)))
    _paint_group(canvas, "muscles", tissue, rng)
    _paint_mesentery(canvas, tissue, rng)
    _paint_colon(canvas, tissue, rng)
    _paint_group(canvas, "abdomen", tissue, rng)
    _paint_liver_vessels(canvas, tissue, rng)
    carve_lungs(canvas, ZONES, rng)
    paint_skeleton(canvas, _CAVITY, float(rng.uniform(130, 210)), rng)
    _paint_group(canvas, "vessels", tissue, rng)
    _paint_group(canvas, "chest", tissue, rng)
    paint_airways_and_vessels(canvas, rng)
    _paint_pelvic_organs(canvas, tissue, sex)
    soft = (canvas.labels > 0) | (canvas.zone == ZONES["wall"])
    canvas.hu += np.where(soft, canvas.grain * 0.5, canvas.grain * 0.8) * (canvas.zone > 0)
    hu = ndimage.gaussian_filter(canvas.hu, 0.55)
    return Anatomy(hu, canvas.labels, (SPACING_MM, SPACING_MM, SPACING_MM), f"body-{body}", contrast, sex)


def load_template(scan: Path, masks: Path) -> Anatomy:
    """A real CT and its TotalSegmentator v2 multilabel masks (NIfTI, one grid) as an anatomy.

    Dense spots in kidneys, gallbladder, bladder and aortic wall (its own stones and plaques) are filled with the
    organ's median, so that the truth of a study made from it is what was painted.

    Raises:
        ScanError: a file that cannot be read.
        MaskError: the two are on different grids, or the masks hold none of TotalSegmentator v2's numbers.
    """
    (hu, affine), (labels, other) = (_read_nifti(path) for path in (scan, masks))
    if hu.shape != labels.shape or not np.allclose(affine, other, atol=0.1):
        raise MaskError(
            f"Template {masks} has shape {labels.shape}, its scan {scan} has {hu.shape}, or their affines differ.",
            code="mask_grid",
            fix="Give masks on the scan's own grid.",
        )
    known = (labels >= 1) & (labels <= 117)
    if not known.any():
        raise MaskError(f"Template masks {masks} hold no TotalSegmentator v2 number (1 to 117).", code="mask_labels")
    hu = np.clip(hu, -1024, 3071)
    labels = np.where(known, labels, 0).astype(np.uint8)
    _remove_dense_spots(hu, labels)
    return Anatomy(hu, labels, spacing_of(affine), scan.name, noise=0.25)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (float32) and affine of a NIfTI file, RAS+."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nib.as_closest_canonical(nib.load(path))  # type: ignore[attr-defined]
        return np.asarray(image.dataobj, np.float32), np.asarray(image.affine)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise ScanError(f"Template {path} cannot be read as NIfTI: {error}.", fix="Check the file.") from error


def _remove_dense_spots(hu: np.ndarray, labels: np.ndarray) -> None:
    bone = lookup(["spine", "ribs", "hip_left", "hip_right", "sacrum"])[labels]
    for organ in ("kidney_left", "kidney_right", "gallbladder", "urinary_bladder", "aorta"):
        voxels = labels == number(organ)
        if not voxels.any():
            continue
        median, spread = float(np.median(hu[voxels])), 60 if organ != "aorta" else 90
        near = np.asarray(ndimage.binary_closing(np.pad(voxels, 6), iterations=5))[6:-6, 6:-6, 6:-6] & ~bone
        spots = ndimage.binary_dilation(near & (hu > median + spread)) & near & (hu > median + 20)
        hu[spots] = median


def _paint_wall(canvas: Canvas, tissue: dict[str, float], fat_mm: float) -> None:
    """Skin, fat under it, muscle, and the two cavities parted by the diaphragm."""
    x, y, z = canvas.axes()
    bump = 0.02 * canvas.bumps

    def within(width: np.ndarray, depth: np.ndarray, middle: np.ndarray | float, power: float) -> np.ndarray:
        flat = (np.abs(x) / width).astype(np.float32) ** power + bump
        return flat + (np.abs(y - middle) / depth).astype(np.float32) ** power < 1

    width, depth = np.interp(z, _SKIN_Z, _SKIN_WIDTH), np.interp(z, _SKIN_Z, _SKIN_DEPTH)
    fat = 2.5 + fat_mm * np.interp(z, (400, 490), (1.0, 0.55))
    wide, deep, middle = _CAVITY.at(z)
    thick = np.interp(z, (0, 90, 150, 230, 300, 512), (60, 30, 20, 16, 17, 30))
    body = within(width, depth, 0, 2.5)
    canvas.hu[body], canvas.zone[body] = tissue["skin"], ZONES["wall"]
    canvas.hu[within(width - 2.5, depth - 2.5, 0, 2.5)] = tissue["fat"]
    wall = within(width - fat, depth - fat, 0, 2.4)
    wall &= within(wide + thick, deep + 0.8 * thick + 8, middle - 6, 2.3)
    canvas.hu[wall] = tissue["muscle"]
    canvas.hu[wall & (canvas.bumps > 1.3)] = -40
    inside = within(wide, deep, middle, 2.3) & body
    roof = diaphragm_mm(x, y)
    canvas.zone[inside & (z < roof)] = ZONES["abdomen"]
    canvas.zone[inside & (z >= roof)] = ZONES["chest"]
    canvas.hu[inside] = tissue["visceral_fat"]
    canvas.hu[inside & (np.abs(z - roof) < 2)] = tissue["muscle"]


def _paint_group(canvas: Canvas, group: str, tissue: dict[str, float], rng: np.random.Generator) -> None:
    for entry in _shapes()[group]:
        drift = rng.normal(0, 2.0 if group != "muscles" else 0.8, 3)
        scale = float(np.clip(rng.normal(1, 0.045), 0.9, 1.1))
        _paint_shape(canvas, entry, tissue, drift, scale, rng)
        if entry.get("mirror"):
            organ = entry["organ"].replace("_right", "_left")
            _paint_shape(canvas, {**entry, "organ": organ}, tissue, drift, scale, rng, side=-1)


def _paint_shape(
    canvas: Canvas,
    entry: dict[str, Any],
    tissue: dict[str, float],
    drift: np.ndarray,
    scale: float,
    rng: np.random.Generator,
    side: int = 1,
) -> None:
    """One entry of ``body.yaml``; ``side`` -1 paints its mirror image."""
    label = number(entry["organ"]) if entry["organ"] else entry.get("label")
    over = [number(name) for name in entry.get("over", ())]
    value, gas = tissue[entry["tissue"]], entry.get("gas_y")
    if "tube" in entry:
        knots = np.asarray(entry["tube"], float) * [side, 1, 1, scale]
        knots[:, :3] += rng.normal(0, 0.5, (len(knots), 3))
        canvas.stamp(curve(knots), label, value, over=over, gas_y=gas)
        return
    box = np.asarray(entry["ellipsoid"], float)
    tilt = np.asarray(entry.get("tilt", (0, 0, 0)), float) * [1, side, side]
    centre = (box[:3] + drift) * [side, 1, 1]
    patch = canvas.ellipsoid(centre, box[3:] * scale, tilt, entry.get("power", 2.0), entry.get("rough", 0.05))
    hu = np.full(patch.inside.shape, value, np.float32)
    if gas is not None:
        _, y, _ = canvas.axes(patch.slices)
        hu[np.broadcast_to(y > gas, hu.shape)] = -960
    canvas.fill(patch, label, hu, [ZONES[name] for name in entry.get("zones", ())], over)


def _paint_colon(canvas: Canvas, tissue: dict[str, float], rng: np.random.Generator) -> None:
    """A tube with haustra, filled with mottled stool and gas in changing shares along its way."""
    label = number("colon")
    for line in _shapes()["colon"]:
        knots = np.asarray(line, float) + np.pad(rng.normal(0, 3, (len(line), 3)), ((0, 0), (0, 1)))
        knots[:, 3] *= rng.uniform(0.75, 1.1, len(knots))
        points = curve(knots, 2.5)
        points[:, 3] *= 1 + 0.13 * np.sin(np.arange(len(points)) * 0.5 + rng.uniform(0, 6))
        canvas.stamp(points, label, tissue["bowel_wall"])
        inner = points - np.array([0, 0, 0, 3.0])
        for start in range(0, len(inner), 14):
            piece = inner[start : start + 16]
            level = piece[:, 1].mean() + piece[:, 3].mean() * rng.uniform(-0.4, 1.4)
            canvas.stamp(piece, label, tissue["stool"], gas_y=float(level))
    mottled = (canvas.labels == label) & (np.abs(canvas.hu - tissue["stool"]) < 1)
    canvas.hu[mottled] = tissue["stool"] + 14 * canvas.grain[mottled] - 60


def _paint_mesentery(canvas: Canvas, tissue: dict[str, float], rng: np.random.Generator) -> None:
    """Loops of small bowel, and the vessels of the fat between them."""
    low, high = np.array([-74.0, 2, 66]), np.array([74.0, 58, 200])
    label = number("small_bowel")
    for _ in range(26):
        start, end = rng.uniform(low, high), rng.uniform(low, high) * [1, 0.6, 1] + [0, 12, 0]
        canvas.stamp(curve([[*start, 2.2], [*((start + end) / 2 + rng.normal(0, 12, 3)), 2.0], [*end, 1.6]]), None, 30)
    for _ in range(15):
        spot, heading = rng.uniform(low, high), rng.normal(0, 1, 3)
        knots = []
        for _ in range(int(rng.integers(4, 8))):
            heading = heading + rng.normal(0, 0.8, 3)
            spot = np.clip(spot + 22 * heading / np.linalg.norm(heading), low, high)
            knots.append([*spot, float(rng.uniform(8.5, 12))])
        points = curve(knots)
        canvas.stamp(points, label, tissue["bowel_wall"])
        gas = float(points[:, 1].max() + rng.uniform(-6, 25))
        canvas.stamp(points - np.array([0, 0, 0, 2.6]), label, tissue["chyme"], gas_y=gas)


def _paint_liver_vessels(canvas: Canvas, tissue: dict[str, float], rng: np.random.Generator) -> None:
    """Hepatic veins running to the vena cava and portal branches from the hilum; they stay part of the liver."""
    liver = number("liver")
    ends = (
        [100, -20, 300],
        [60, 40, 300],
        [10, 48, 300],
        [90, 20, 262],
        [110, -10, 250],
        [-30, 40, 296],
        [70, -36, 262],
    )
    for n, end in enumerate(ends):
        start = np.array([22, -4, 326]) if n < 3 else np.array([40, 6, 268])
        goal = np.asarray(end, float) + rng.normal(0, 8, 3)
        middle = (start + goal) / 2 + rng.normal(0, 7, 3)
        canvas.stamp(curve([[*start, 5.0], [*middle, 3.6], [*goal, 1.5]]), None, tissue["liver_vessel"], over=[liver])
        twig = goal + rng.normal(0, 22, 3)
        canvas.stamp(curve([[*middle, 3.0], [*twig, 1.4]]), None, tissue["liver_vessel"], over=[liver])


def _paint_pelvic_organs(canvas: Canvas, tissue: dict[str, float], sex: str) -> None:
    if sex == "M":
        canvas.fill(canvas.ellipsoid((0, 14, 2), (22, 17, 15)), number("prostate"), tissue["gland"])
        return
    womb = canvas.ellipsoid((4, -14, 52), (24, 16, 26), (30, 0, 0), rough=0.07)
    free = womb.inside & (canvas.labels[womb.slices] == 0)
    canvas.fill(Patch(womb.slices, free, womb.level), 0, tissue["gland"] + 8)
