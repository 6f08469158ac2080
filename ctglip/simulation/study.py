"""One simulated study: drawn from a seed, deformed, made ill, photographed with noise, and reported."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings
from ctglip.simulation.anatomy import Anatomy, built_in_anatomy
from ctglip.simulation.lesions import Kind, possible_kinds
from ctglip.simulation.reports import ReportRates, write_report
from ctglip.simulation.scene import Lesion, Scene
from ctglip.simulation.warp import Pose, draw_pose, sample
from ctglip.types import LabelMap, Scan

SCANNERS = ("Simulated A", "Simulated B", "Simulated C")
_FIRST, _PATIENT, _ILLNESS, _LESION, _IMAGE, _REPORT = range(6)


class SimulationSettings(Settings):
    """What a simulated cohort is like.

    Attributes:
        spacing_mm: edge of a voxel.
        prevalence: share of studies that have each (organ, abnormality) pair.
        rates: other prevalences by abnormality name.
        reports: how often findings and their absence are mentioned.
        contrast: share of the built-in bodies that are in the portal venous phase, the others are native.
        second_studies: share of studies that are a patient's second one.
        bodies: how many built-in bodies studies are deformed from.
        noise_hu: least and largest deviation of the image noise.
        organ_hu: deviation of each soft organ's own HU between patients.
    """

    spacing_mm: float = Field(default=3.0, gt=0.5, le=10)
    prevalence: float = Field(default=0.25, ge=0, le=1)
    rates: dict[str, float] = Field(default_factory=dict)
    reports: ReportRates = Field(default_factory=ReportRates)
    contrast: float = Field(default=0.3, ge=0, le=1)
    second_studies: float = Field(default=0.1, ge=0, lt=0.5)
    bodies: int = Field(default=8, ge=1, le=64)
    noise_hu: tuple[float, float] = (8.0, 16.0)
    organ_hu: float = Field(default=3.0, ge=0)


@dataclass(frozen=True)
class SimulatedStudy:
    """A study and everything that is known about it.

    Attributes:
        scan: int16 HU, RAS+.
        labels: TotalSegmentator v2 numbers on the same grid.
        report: text with a technique, a findings and an impression section.
        truth: 0 or 1 for each ``organ:abnormality`` that the anatomy has the organ for: what is in the image.
        lesions: where it is, in the scan's millimetres.
        patient: number of the patient's first study.
        age: in years.
    """

    scan: Scan
    labels: LabelMap
    report: str
    truth: dict[str, int]
    lesions: tuple[Lesion, ...]
    patient: int
    age: int
    sex: Literal["M", "F"]
    scanner: str


def _rng(seed: int, index: int, stream: int, extra: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, index, stream, extra])


def patient_of(seed: int, index: int, settings: SimulationSettings) -> int:
    """Number of the first study of the patient whom study ``index`` shows: its own or the one before."""

    share = settings.second_studies / (1 - settings.second_studies)

    def second(study: int) -> bool:
        return study > 0 and _rng(seed, study, _FIRST).random() < share

    return index - 1 if second(index) and not second(index - 1) else index


def body_of(seed: int, index: int, settings: SimulationSettings) -> tuple[int, bool]:
    """Number of the built-in body that study ``index`` is deformed from, and whether that body has contrast."""
    body = int(_rng(seed, patient_of(seed, index, settings), _PATIENT, 1).integers(settings.bodies))
    return body, body < round(settings.bodies * settings.contrast)


def anatomy_of(seed: int, index: int, settings: SimulationSettings) -> Anatomy:
    """The built-in anatomy that study ``index`` is deformed from."""
    return built_in_anatomy(*body_of(seed, index, settings))


def simulate_study(
    seed: int,
    index: int,
    settings: SimulationSettings | None = None,
    template: Anatomy | None = None,
    pairs: Collection[str] | None = None,
) -> SimulatedStudy:
    """Study number ``index`` of the cohort of ``seed``; the same arguments give the same study, to the bit.

    Args:
        seed: of the cohort.
        index: of the study in it.
        settings: what the cohort is like.
        template: anatomy to deform; None for the built-in torso.
        pairs: the ``organ:abnormality`` pairs to make, in place of drawing them.
    """
    settings = settings or SimulationSettings()
    patient = patient_of(seed, index, settings)
    rng = _rng(seed, patient, _PATIENT)
    anatomy = template or anatomy_of(seed, index, settings)
    pose, age = draw_pose(anatomy, rng), int(rng.integers(28, 90))
    sex = anatomy.sex or ("M" if rng.random() < 0.5 else "F")
    kinds = possible_kinds(anatomy)
    chosen = _sampled_pairs(kinds, seed, index, patient, settings) if pairs is None else set(pairs)
    ill = tuple(kind for kind in kinds if kind.pair in chosen)
    scene, lesions = _make(anatomy, pose, ill, seed, index, patient, settings.spacing_mm)
    truth = {kind.pair: int(kind.pair in lesions) for kind in kinds}
    scan, labels = _photograph(scene, _rng(seed, index, _IMAGE, 1), _rng(seed, patient, _IMAGE, 2), settings)
    report = write_report(truth, lesions, anatomy, settings.reports, _rng(seed, index, _REPORT))
    origin = scan.affine[:3, 3]
    placed = tuple(
        Lesion(m.abnormality, m.organ, _moved(m.centre_mm, origin), m.radius_mm, m.detail)
        for found in lesions.values()
        for m in found
    )
    scanner = SCANNERS[int(_rng(seed, index, _IMAGE, 3).integers(len(SCANNERS)))]
    return SimulatedStudy(scan, labels, report, truth, placed, patient, age + (index > patient), sex, scanner)


def _moved(point: tuple[float, float, float], origin: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (round(float(p + o), 1) for p, o in zip(point, origin, strict=True))
    return x, y, z


def _sampled_pairs(
    kinds: tuple[Kind, ...], seed: int, index: int, patient: int, settings: SimulationSettings
) -> set[str]:
    """Pairs of one study. A second study keeps most of what the first one had."""

    def draws(study: int) -> np.ndarray:
        return _rng(seed, study, _ILLNESS).random(len(kinds))

    limits = np.array([settings.rates.get(kind.abnormality, settings.prevalence) for kind in kinds])
    has = draws(patient) < limits
    if index != patient:
        anew = _rng(seed, index, _ILLNESS, 1).random(len(kinds)) < 0.3
        has = np.where(anew, draws(index) < limits, has)
    return {kind.pair for kind, present in zip(kinds, has, strict=True) if present}


def _make(
    anatomy: Anatomy, pose: Pose, ill: tuple[Kind, ...], seed: int, index: int, patient: int, spacing_mm: float
) -> tuple[Scene, dict[str, list[Lesion]]]:
    """Deform, then paint each abnormality from its own random numbers, so that one does not move another."""
    streams = {kind.pair: crc32(kind.pair.encode()) for kind in ill}
    warps = [
        kind.warp(anatomy, kind.organ, _rng(seed, patient, _LESION, streams[kind.pair])) for kind in ill if kind.warp
    ]
    hu, labels = sample(anatomy, pose, warps, spacing_mm, _rng(seed, index, _IMAGE, 4))
    scene = Scene(hu, labels, spacing_mm, anatomy)
    lesions: dict[str, list[Lesion]] = {}
    for kind in ill:
        found = kind.paint(scene, kind.organ, _rng(seed, patient, _LESION, streams[kind.pair]))
        if found:
            lesions[kind.pair] = found
    return scene, lesions


def _photograph(
    scene: Scene, rng: np.random.Generator, patient: np.random.Generator, settings: SimulationSettings
) -> tuple[Scan, LabelMap]:
    """Each organ's own HU, noise, rounding, and a place in scanner space."""
    offset_hu = patient.normal(0, settings.organ_hu, 256).astype(np.float32)
    offset_hu[0] = 0
    offset_hu[10:15] = patient.normal(0, 14)
    offset_hu[25:51] = offset_hu[92:117] = patient.normal(0, 12)
    hu = scene.hu + offset_hu[scene.labels]
    noise = _noise()
    sigma = float(rng.uniform(*settings.noise_hu)) * scene.anatomy.noise
    start = [int(rng.integers(n)) for n in noise.shape]
    rows = [(np.arange(n) + first) % full for n, first, full in zip(hu.shape, start, noise.shape, strict=True)]
    hu += sigma * noise[np.ix_(*rows)]
    affine = np.diag([settings.spacing_mm] * 3 + [1.0])
    affine[:3, 3] = np.round(rng.uniform(-30, 30, 3) - np.array([*hu.shape[:2], 0]) * settings.spacing_mm / 2, 1)
    image = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return Scan(image, affine), LabelMap(scene.labels, affine)


@functools.cache
def _noise() -> np.ndarray:
    """Correlated noise of deviation 1, float32, that studies take shifted pieces of."""
    white = np.random.default_rng(11).standard_normal((150, 120, 200), np.float32)
    field = ndimage.gaussian_filter(white, 0.6, mode="wrap", truncate=3)
    return field / field.std()
