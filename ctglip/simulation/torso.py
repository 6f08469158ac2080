"""The built-in torsos, painted from shapes: numbered bodies that differ in build, fat, sex, contrast phase and the lie
of the organs, after the plans of ``anatomies.yaml``.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings
from ctglip.errors import CTGLIPError
from ctglip.files import read_yaml
from ctglip.simulation.anatomy import Anatomy, Phase
from ctglip.simulation.canvas import Canvas, Patch, curve
from ctglip.simulation.frame import Frame
from ctglip.simulation.labels import number
from ctglip.simulation.lungs import carve_lungs, diaphragm_mm, paint_airways_and_vessels
from ctglip.simulation.skeleton import CavityOutline, paint_skeleton

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


class BodyPlan(Settings):
    """How one kind of torso differs from the standard one: a value of ``anatomies.yaml``.

    Attributes:
        about: what it is, in words.
        fat_mm: least and largest thickness of the fat under the skin.
        bone_hu: least and largest HU of spongy bone.
        age: least and largest age of its patients.
        diaphragm_mm: how much higher the diaphragm stands.
        dome: how high its domes are, as a share of the standard ones.
        without: organs that are not there.
        move: organ to (x, y, z) in mm that it lies elsewhere.
        scale: organ to the factor of its diameters.
        add: group of ``body.yaml`` to further shapes, painted last, moved and scaled as their organ is.
        frame: how the painted torso is stretched and bent.
    """

    about: str
    fat_mm: tuple[float, float] = (9, 22)
    bone_hu: tuple[float, float] = (130, 210)
    age: tuple[int, int] = (28, 90)
    diaphragm_mm: float = 0.0
    dome: float = 1.0
    without: tuple[str, ...] = ()
    move: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    scale: dict[str, float] = Field(default_factory=dict)
    add: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    frame: Frame = Frame()

    def roof_mm(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height in mm of the diaphragm above the point (x, y)."""
        return diaphragm_mm(x, y, self.diaphragm_mm, self.dome)


class Tissues:
    """HU of each tissue of ``body.yaml``; its number says on the canvas what contrast medium does to it."""

    def __init__(self, phase: int) -> None:
        self._hu = {name: values[phase] for name, values in _shapes()["tissues"].items()}

    def __getitem__(self, name: str) -> float:
        return self._hu[name]

    @staticmethod
    def number(name: str) -> int:
        """Number of a tissue, 1 first."""
        return list(_shapes()["tissues"]).index(name) + 1


STANDARD = "standard"
"""The plan of the torso that nothing is changed in."""


@functools.cache
def _shapes() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("body.yaml"))


def tissue_table() -> np.ndarray:
    """HU ``[tissue, 3]`` by tissue number (row 0 is no tissue): native, portal venous, arterial."""
    return np.array([[0, 0, 0], *_shapes()["tissues"].values()], np.float32)


@functools.cache
def tissues_of_labels() -> np.ndarray:
    """Tissue number by label number, uint8 ``[256]``: of the shape that an organ is painted with first."""
    table = np.zeros(256, np.uint8)
    for group in ("muscles", "abdomen", "vessels", "chest"):
        for entry in _shapes()[group]:
            organ = entry["organ"]
            for name in (organ, str(organ).replace("_right", "_left")) if organ else ():
                table[number(name)] = table[number(name)] or Tissues.number(entry["tissue"])
    table[[number("colon"), number("small_bowel")]] = Tissues.number("bowel_wall")
    return table


@functools.cache
def body_plans() -> dict[str, BodyPlan]:
    """The plans of ``anatomies.yaml`` by name, the standard one first."""
    plans = read_yaml(Path(__file__).with_name("anatomies.yaml"))
    return {name: BodyPlan.model_validate(plan) for name, plan in plans.items()}


def body_plan(name: str) -> BodyPlan:
    """A plan by its name.

    Raises:
        CTGLIPError: ``unknown_anatomy``.
    """
    if name not in body_plans():
        known = ", ".join(body_plans())
        raise CTGLIPError(f"No anatomy is called {name!r}.", code="unknown_anatomy", fix=f"Choose of: {known}.")
    return body_plans()[name]


@functools.lru_cache(maxsize=8)
def built_in_anatomy(body: int, contrast: bool, kind: str = STANDARD) -> Anatomy:
    """Body number ``body`` of a built-in torso; the same number is the same body, in either phase.

    Voxels of 2.5 mm (133 x 95 x 205 of the standard one), from the symphysis to the base of the neck.

    Raises:
        CTGLIPError: ``unknown_anatomy``.
    """
    plan, rng = body_plan(kind), np.random.default_rng([7, body])
    canvas = Canvas(SHAPE, SPACING_MM, rng)
    tissue = Tissues(1 if contrast else 0)
    sex: Literal["M", "F"] = "F" if body % 2 else "M"
    _paint(canvas, tissue, plan, sex, rng)
    soft = (canvas.labels > 0) | (canvas.zone == ZONES["wall"])
    canvas.hu += np.where(soft, canvas.grain * 0.5, canvas.grain * 0.8) * (canvas.zone > 0)
    hu = ndimage.gaussian_filter(canvas.hu, 0.55)
    spacing = (SPACING_MM, SPACING_MM, SPACING_MM)
    name = f"body-{body}" if kind == STANDARD else f"{kind}-{body}"
    phase: Phase = "portal" if contrast else "native"
    anatomy = Anatomy(hu, canvas.labels, spacing, name, phase, sex, kind=kind, tissue=canvas.tissue, age=plan.age)
    return plan.frame.apply(anatomy, (_SKIN_Z, _SKIN_WIDTH, _SKIN_DEPTH))


def _paint(canvas: Canvas, tissue: Tissues, plan: BodyPlan, sex: str, rng: np.random.Generator) -> None:
    """Everything, in an order in which later paint covers earlier paint."""
    _paint_wall(canvas, tissue, float(rng.uniform(*plan.fat_mm)), plan)
    _paint_group(canvas, "muscles", tissue, plan, rng)
    _paint_mesentery(canvas, tissue, rng)
    _paint_colon(canvas, tissue, rng)
    _paint_group(canvas, "abdomen", tissue, plan, rng)
    _paint_liver_vessels(canvas, tissue, rng)
    carve_lungs(canvas, ZONES, plan.roof_mm, rng)
    paint_skeleton(canvas, _CAVITY, float(rng.uniform(*plan.bone_hu)), rng)
    _paint_group(canvas, "vessels", tissue, plan, rng)
    _paint_group(canvas, "chest", tissue, plan, rng)
    paint_airways_and_vessels(canvas, Tissues.number("lung_vessel"), rng)
    _paint_pelvic_organs(canvas, tissue, sex)


def _paint_wall(canvas: Canvas, tissue: Tissues, fat_mm: float, plan: BodyPlan) -> None:
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
    roof = plan.roof_mm(x, y)
    canvas.zone[inside & (z < roof)] = ZONES["abdomen"]
    canvas.zone[inside & (z >= roof)] = ZONES["chest"]
    canvas.hu[inside] = tissue["visceral_fat"]
    canvas.hu[inside & (np.abs(z - roof) < 2)] = tissue["muscle"]


def _paint_group(canvas: Canvas, group: str, tissue: Tissues, plan: BodyPlan, rng: np.random.Generator) -> None:
    for entry in (*_shapes()[group], *plan.add.get(group, ())):
        drift = rng.normal(0, 2.0 if group != "muscles" else 0.8, 3)
        scale = float(np.clip(rng.normal(1, 0.045), 0.9, 1.1))
        for side in (1, -1) if entry.get("mirror") else (1,):
            one = entry if side > 0 else {**entry, "organ": entry["organ"].replace("_right", "_left")}
            owner = one.get("of") or one["organ"] or ""
            if owner not in plan.without:
                away = np.asarray(plan.move.get(owner, (0, 0, 0)), float)
                _paint_shape(canvas, one, tissue, (drift, away), scale * plan.scale.get(owner, 1.0), rng, side)


def _paint_shape(
    canvas: Canvas,
    entry: dict[str, Any],
    tissue: Tissues,
    shift: tuple[np.ndarray, np.ndarray],
    scale: float,
    rng: np.random.Generator,
    side: int,
) -> None:
    """One entry of ``body.yaml``; ``side`` -1 paints its mirror image, ``shift`` is of ellipsoids, then of all."""
    label = number(entry["organ"]) if entry["organ"] else entry.get("label")
    over = [number(name) for name in entry.get("over", ())]
    value, code, gas = tissue[entry["tissue"]], tissue.number(entry["tissue"]), entry.get("gas_y")
    drift, away = shift
    if "tube" in entry:
        knots = np.asarray(entry["tube"], float) * [side, 1, 1, scale]
        knots[:, :3] += rng.normal(0, 0.5, (len(knots), 3)) + away
        canvas.stamp(curve(knots), label, value, over=over, gas_y=gas, tissue=code)
        return
    box = np.asarray(entry["ellipsoid"], float)
    tilt = np.asarray(entry.get("tilt", (0, 0, 0)), float) * [1, side, side]
    centre = (box[:3] + drift) * [side, 1, 1] + away
    patch = canvas.ellipsoid(centre, box[3:] * scale, tilt, entry.get("power", 2.0), entry.get("rough", 0.05))
    hu = np.full(patch.inside.shape, value, np.float32)
    if gas is not None:
        _, y, _ = canvas.axes(patch.slices)
        hu[np.broadcast_to(y > gas, hu.shape)] = -960
    canvas.fill(patch, label, hu, [ZONES[name] for name in entry.get("zones", ())], over, code)


def _paint_colon(canvas: Canvas, tissue: Tissues, rng: np.random.Generator) -> None:
    """A tube with haustra, filled with mottled stool and gas in changing shares along its way."""
    label = number("colon")
    for line in _shapes()["colon"]:
        knots = np.asarray(line, float) + np.pad(rng.normal(0, 3, (len(line), 3)), ((0, 0), (0, 1)))
        knots[:, 3] *= rng.uniform(0.75, 1.1, len(knots))
        points = curve(knots, 2.5)
        points[:, 3] *= 1 + 0.13 * np.sin(np.arange(len(points)) * 0.5 + rng.uniform(0, 6))
        canvas.stamp(points, label, tissue["bowel_wall"], tissue=tissue.number("bowel_wall"))
        inner = points - np.array([0, 0, 0, 3.0])
        for start in range(0, len(inner), 14):
            piece = inner[start : start + 16]
            level = piece[:, 1].mean() + piece[:, 3].mean() * rng.uniform(-0.4, 1.4)
            canvas.stamp(piece, label, tissue["stool"], gas_y=float(level))
    mottled = (canvas.labels == label) & (np.abs(canvas.hu - tissue["stool"]) < 1)
    canvas.hu[mottled] = tissue["stool"] + 14 * canvas.grain[mottled] - 60


def _paint_mesentery(canvas: Canvas, tissue: Tissues, rng: np.random.Generator) -> None:
    """Loops of small bowel, and the vessels of the fat between them."""
    low, high = np.array([-74.0, 2, 66]), np.array([74.0, 58, 200])
    label = number("small_bowel")
    for _ in range(26):
        start, end = rng.uniform(low, high), rng.uniform(low, high) * [1, 0.6, 1] + [0, 12, 0]
        line = curve([[*start, 2.2], [*((start + end) / 2 + rng.normal(0, 12, 3)), 2.0], [*end, 1.6]])
        canvas.stamp(line, None, 30, tissue=tissue.number("mesenteric_vessel"))
    for _ in range(15):
        spot, heading = rng.uniform(low, high), rng.normal(0, 1, 3)
        knots = []
        for _ in range(int(rng.integers(4, 8))):
            heading = heading + rng.normal(0, 0.8, 3)
            spot = np.clip(spot + 22 * heading / np.linalg.norm(heading), low, high)
            knots.append([*spot, float(rng.uniform(8.5, 12))])
        points = curve(knots)
        canvas.stamp(points, label, tissue["bowel_wall"], tissue=tissue.number("bowel_wall"))
        gas = float(points[:, 1].max() + rng.uniform(-6, 25))
        canvas.stamp(points - np.array([0, 0, 0, 2.6]), label, tissue["chyme"], gas_y=gas)


def _paint_liver_vessels(canvas: Canvas, tissue: Tissues, rng: np.random.Generator) -> None:
    """Hepatic veins running to the vena cava and portal branches from the hilum; they stay part of the liver."""
    liver, value, code = number("liver"), tissue["liver_vessel"], tissue.number("liver_vessel")
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
        trunk = curve([[*start, 5.0], [*middle, 3.6], [*goal, 1.5]])
        canvas.stamp(trunk, None, value, over=[liver], tissue=code)
        twig = goal + rng.normal(0, 22, 3)
        canvas.stamp(curve([[*middle, 3.0], [*twig, 1.4]]), None, value, over=[liver], tissue=code)


def _paint_pelvic_organs(canvas: Canvas, tissue: Tissues, sex: str) -> None:
    if sex == "M":
        canvas.fill(
            canvas.ellipsoid((0, 14, 2), (22, 17, 15)),
            number("prostate"),
            tissue["gland"],
            tissue=tissue.number("gland"),
        )
        return
    womb = canvas.ellipsoid((4, -14, 52), (24, 16, 26), (30, 0, 0), rough=0.07)
    free = womb.inside & (canvas.labels[womb.slices] == 0)
    canvas.fill(Patch(womb.slices, free, womb.level), 0, tissue["gland"] + 8, tissue=tissue.number("gland"))
