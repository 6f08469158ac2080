"""One simulated chest radiograph: a simulated body, a beam through it, boxes of what is where, findings and
impression."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from ctglip.config import Settings, Share
from ctglip.errors import CTGLIPError
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.labels import lookup
from ctglip.simulation.lesions import KINDS
from ctglip.simulation.phases import PhaseSettings
from ctglip.simulation.projection import BeamSettings, Geometry, View, expose, line_integrals, set_up
from ctglip.simulation.reader import Reading, read
from ctglip.simulation.reports import report_sections, wording
from ctglip.simulation.scene import Lesion
from ctglip.simulation.segmenter import MaskSettings
from ctglip.simulation.study import SimulatedStudy, SimulationSettings, body_of, simulate_study
from ctglip.simulation.torso import built_in_anatomy
from ctglip.types import LabelMap, Region, Report, Scan
from ctglip.vocabulary.organs import load_organs

SHOWN = ("pleural_effusion", "lung_nodule", "consolidation", "emphysema", "cardiomegaly")
"""The abnormalities that a radiograph shows and its report may speak of."""
_CXR, _TEXT, _MISSING, _READ = 11, 12, 13, 14
_BODY_HU = -300
_MARGIN_MM = 75.0


class CxrSettings(Settings):
    """How simulated bodies become radiographs.

    Attributes:
        beam: the X-ray set.
        lateral: share of radiographs that are left lateral ones; the others are frontal (PA).
        shift_mm: deviation of the radiograph's place from the middle of the lungs.
        no_findings, no_impression: share of reports without that section (never both).
    """

    beam: BeamSettings = BeamSettings()
    lateral: Share = 0.0
    shift_mm: float = Field(default=4.0, ge=0)
    no_findings: float = Field(default=0.05, ge=0, le=0.5)
    no_impression: float = Field(default=0.05, ge=0, le=0.5)


@dataclass(frozen=True)
class Projected:
    """A radiograph and where things are on it.

    Attributes:
        pixels: uint8 ``[row, column]``, bone bright, the patient's right on the left.
        regions: boxes in pixels; names of ``cxr/regions.yaml``.
        geometry: how points of the body come to lie on it.
    """

    pixels: np.ndarray
    regions: tuple[Region, ...]
    geometry: Geometry


@dataclass(frozen=True)
class LesionOnCxr:
    """Where a lesion lies on the radiograph, in pixels."""

    organ: str
    abnormality: str
    row: float
    column: float
    radius: float


@dataclass(frozen=True)
class SimulatedCxr:
    """A radiograph and everything that is known about it; ``truth`` holds what radiographs show, ``report_errors``
    where the report says otherwise."""

    radiograph: Projected
    report: Report
    truth: dict[str, int]
    lesions: tuple[LesionOnCxr, ...]
    study: SimulatedStudy
    view: View
    report_errors: tuple[tuple[str, str], ...] = ()


def cxr_bodies(settings: SimulationSettings) -> SimulationSettings:
    """The settings with only those abnormalities that a radiograph shows, of bodies without a scanner's traces."""
    others = {kind.abnormality: 0.0 for kind in KINDS if kind.abnormality not in SHOWN}
    bare = {"acquisition": None, "masks": MaskSettings(), "phases": PhaseSettings()}
    return settings.model_copy(update={"rates": {**settings.rates, **others}, **bare})


def simulate_radiograph(
    seed: int,
    index: int,
    settings: SimulationSettings | None = None,
    radiographs: CxrSettings | None = None,
    template: Anatomy | None = None,
    pairs: tuple[str, ...] | None = None,
) -> SimulatedCxr:
    """Radiograph number ``index`` of the cohort of ``seed``; the same arguments give the same radiograph, to the bit.

    Args:
        template: chest to deform (``chest_of``); None for the built-in ones.
        pairs: the ``organ:abnormality`` pairs to make, in place of drawing them.
        Others as in ``simulate_study``.
    """
    radiographs = radiographs or CxrSettings()
    settings = cxr_bodies(settings or SimulationSettings())
    chest = template or _built_in_chest(*body_of(seed, index, settings))
    study = simulate_study(seed, index, settings, chest, pairs)
    rng = np.random.default_rng([seed, index, _CXR])
    view: View = "lateral" if rng.random() < radiographs.lateral else "pa"
    radiograph = project(study.scan, study.labels, radiographs.beam, view, rng, shift_mm=radiographs.shift_mm)
    truth = {pair: present for pair, present in study.truth.items() if pair.split(":")[1] in SHOWN}
    by_pair = {
        pair: [lesion for lesion in study.lesions if _belongs(lesion, pair)]
        for pair, present in truth.items()
        if present
    }
    reading = read(truth, by_pair, settings.reader, np.random.default_rng([seed, index, _READ]))
    report = _report(reading, chest, settings, radiographs, view, seed, index)
    lesions = tuple(
        _on_radiograph(m, pair.split(":")[0], study.scan, radiograph) for pair, found in by_pair.items() for m in found
    )
    return SimulatedCxr(radiograph, report, truth, lesions, study, view, reading.departures)


def _belongs(lesion: Lesion, pair: str) -> bool:
    organ, abnormality = pair.split(":")
    side = organ.rsplit("_", 1)[-1]
    return lesion.abnormality == abnormality and (lesion.organ == organ or lesion.organ.endswith(f"_{side}"))


def _on_radiograph(lesion: Lesion, organ: str, scan: Scan, radiograph: Projected) -> LesionOnCxr:
    point = np.asarray(lesion.centre_mm) - scan.affine[:3, 3]
    row, column = radiograph.geometry.to_radiograph(point[None])[0]
    radius = lesion.radius_mm * radiograph.geometry.enlargement(point) / radiograph.geometry.pixel_mm
    return LesionOnCxr(organ, lesion.abnormality, round(float(row), 1), round(float(column), 1), round(radius, 1))


def _report(
    reading: Reading,
    chest: Anatomy,
    settings: SimulationSettings,
    radiographs: CxrSettings,
    view: View,
    seed: int,
    index: int,
) -> Report:
    rng = np.random.default_rng([seed, index, _TEXT])
    made = report_sections(reading, chest, settings.reports, rng, wording("cxr_wording.yaml"), view)
    sections = {name: " ".join(sentences) for name, sentences in made.items()}
    chance = np.random.default_rng([seed, index, _MISSING]).random()
    if chance < radiographs.no_findings:
        sections["findings"] = ""
    elif chance > 1 - radiographs.no_impression:
        sections["impression"] = ""
    return Report(
        findings=sections["findings"] or None,
        impression=sections["impression"] or None,
        technique=sections["technique"],
    )


@functools.lru_cache(maxsize=16)
def _built_in_chest(body: int, contrast: bool, kind: str) -> Anatomy:
    return chest_of(built_in_anatomy(body, contrast, kind))


def chest_of(anatomy: Anatomy) -> Anatomy:
    """The part of a body that a chest radiograph shows: from a little below the lungs upwards.

    Raises:
        CTGLIPError: ``no_lungs``.
    """
    heights: np.ndarray = np.flatnonzero(lookup(["lungs"])[anatomy.labels].any((0, 1)))
    if len(heights) < 10 or anatomy.volume_ml("lungs") < 500:
        raise CTGLIPError("The body has no lungs, so no chest radiograph can be made of it.", code="no_lungs")
    low = max(0, int(heights[0]) - round(_MARGIN_MM / anatomy.spacing_mm[2]))
    return replace(anatomy, hu=anatomy.hu[:, :, low:].copy(), labels=anatomy.labels[:, :, low:].copy(), tissue=None)


def project(
    scan: Scan,
    labels: LabelMap,
    beam: BeamSettings,
    view: View,
    rng: np.random.Generator,
    *,
    shift_mm: float = 0.0,
) -> Projected:
    """A radiograph of a CT whose voxels are cubes.

    Args:
        scan: RAS+, of a chest.
        labels: numbers of the organ dictionary (TotalSegmentator v2's among them) on its grid, at least of the lungs.
        rng: draws the noise and the radiograph's place.
        shift_mm: deviation of that place.

    Raises:
        CTGLIPError: ``no_lungs``, or ``not_cubic``.
    """
    spacing = scan.spacing_mm
    if max(spacing) > 1.02 * min(spacing):
        raise CTGLIPError(
            f"The voxels are {spacing} mm, expected cubes.", code="not_cubic", fix="Resample the scan first."
        )
    lungs = _mask(labels.labels, ("lungs",))
    if not lungs.any():
        raise CTGLIPError("No lungs are labelled, so the radiograph has no middle.", code="no_lungs")
    shift = rng.normal(0, shift_mm, 2) if shift_mm else np.zeros(2)
    geometry = set_up(scan.hu > _BODY_HU, lungs, spacing[0], view, beam, shift)
    pixels = expose(line_integrals(scan.hu, geometry, beam), geometry, beam, rng)
    return Projected(pixels, cxr_regions(labels.labels, geometry), geometry)


def _mask(labels: np.ndarray, organs: tuple[str, ...]) -> np.ndarray:
    """Where any of the organs is."""
    table = np.zeros(256, bool)
    for organ in organs:
        table[list(load_organs().labels_of(organ))] = True
    return table[labels]


_WHOLE = {
    "right_lung": ("lung_right",),
    "left_lung": ("lung_left",),
    "cardiac_silhouette": ("heart", "atrial_appendage_left"),
    "trachea": ("trachea",),
    "spine": ("spine",),
    "mediastinum": ("heart", "atrial_appendage_left", "aorta", "trachea", "esophagus", "pulmonary_vein"),
    "right_clavicle": ("clavicula_right",),
    "left_clavicle": ("clavicula_left",),
}
"""Regions that are the shadow of organs."""


def cxr_regions(labels: np.ndarray, geometry: Geometry) -> tuple[Region, ...]:
    """Boxes of lungs, heart, spine and so on, and of the zones that lie between them; clipped to the radiograph."""
    boxes: dict[str, np.ndarray] = {}
    lungs = np.flatnonzero(_mask(labels, ("lungs",)).any((0, 1)))
    for name, organs in _WHOLE.items():
        mask = _mask(labels, organs)
        if name == "mediastinum":
            mask[:, :, : lungs[0]] = mask[:, :, lungs[-1] + 1 :] = False
        if mask.any():
            boxes[name] = _shadow(mask, geometry)
    arch = _mask(labels, ("aorta",))
    if arch.any():
        top = int(np.flatnonzero(arch.any((0, 1)))[-1])
        arch[:, :, : max(0, top - round(38 / geometry.spacing_mm))] = False
        boxes["aortic_arch"] = _shadow(arch, geometry)
    if geometry.view == "pa":
        for side in ("right", "left"):
            if f"{side}_lung" in boxes:
                boxes |= _zones(side, boxes, labels, geometry)
    rows, columns = geometry.size
    found = []
    for name, (row0, row1, column0, column1) in boxes.items():
        box = max(0, int(row0)), min(rows, int(row1)), max(0, int(column0)), min(columns, int(column1))
        if box[1] - box[0] >= 4 and box[3] - box[2] >= 4:
            found.append(Region(name, *box))
    return tuple(sorted(found, key=lambda region: region.name))


def _shadow(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The box (row0, row1, column0, column1) of a mask's shadow; the outermost of its slices decide."""
    depth = 1 if geometry.view == "pa" else 0
    ends = [_ends(mask, axis, depth) for axis in (0, 1, 2) if axis != depth]
    radiograph = geometry.to_radiograph(np.concatenate(ends) * geometry.spacing_mm)
    half = 0.5 * geometry.spacing_mm / geometry.pixel_mm
    low, high = radiograph.min(0) - half, radiograph.max(0) + half
    return np.array([np.floor(low[0]), np.ceil(high[0]), np.floor(low[1]), np.ceil(high[1])])


def _ends(mask: np.ndarray, axis: int, depth: int) -> np.ndarray:
    """Voxels ``[n, 3]`` that are first or last along ``axis`` at their depth along the beam."""
    other = ({0, 1, 2} - {axis, depth}).pop()
    flat = np.asarray(mask.any(other))
    flat = flat if axis < depth else flat.T
    columns = np.flatnonzero(flat.any(0))
    filled = flat[:, columns]
    first, last = filled.argmax(0), len(filled) - 1 - filled[::-1].argmax(0)
    points = np.empty((2 * len(columns), 3))
    points[:, axis] = np.concatenate([first, last])
    points[:, depth] = np.concatenate([columns, columns])
    points[:, other] = np.flatnonzero(mask.any((axis, depth))).mean()
    return points


def _zones(side: str, boxes: dict[str, np.ndarray], labels: np.ndarray, geometry: Geometry) -> dict[str, np.ndarray]:
    """Zones of one lung on a frontal radiograph: thirds by height, apex, hilum, diaphragm and costophrenic angle."""
    row0, row1, column0, column1 = boxes[f"{side}_lung"]
    height, width = row1 - row0, column1 - column0
    dome = _dome(_mask(labels, (f"lung_{side}",)), geometry)
    medial = (column1 - 0.36 * width, column1) if side == "right" else (column0, column0 + 0.36 * width)
    lateral = (column0, column0 + 0.3 * width) if side == "right" else (column1 - 0.3 * width, column1)
    third = (dome - row0) / 3
    return {
        f"{side}_apical_zone": np.array([row0, row0 + 0.5 * third, column0, column1]),
        f"{side}_upper_lung_zone": np.array([row0, row0 + third, column0, column1]),
        f"{side}_mid_lung_zone": np.array([row0 + third, row0 + 2 * third, column0, column1]),
        f"{side}_lower_lung_zone": np.array([row0 + 2 * third, row1, column0, column1]),
        f"{side}_hilar_structures": np.array([row0 + 1.15 * third, row0 + 2.1 * third, *medial]),
        f"{side}_hemidiaphragm": np.array([dome - 0.03 * height, row1, column0, column1]),
        f"{side}_costophrenic_angle": np.array([row1 - 0.16 * height, row1, *lateral]),
    }


def _dome(lung: np.ndarray, geometry: Geometry) -> float:
    """The radiograph's row of the diaphragm's dome: the highest underside of the lung where it is deep."""
    deep = lung.sum(2)
    bottom = np.argmax(lung, axis=2)
    inside = deep > 0.4 * deep.max()
    x, y = np.nonzero(inside)
    heights = bottom[inside]
    top = np.percentile(heights, 90)
    at = int(np.argmin(np.abs(heights - top)))
    point = np.array([[x[at], y[at], heights[at]]], float) * geometry.spacing_mm
    row, _ = geometry.to_radiograph(point)[0].tolist()
    return float(row)
