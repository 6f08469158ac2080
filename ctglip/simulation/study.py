"""One simulated study: drawn from a seed, deformed, made ill, photographed with noise, and reported.

Every field of ``SimulationSettings`` below ``organ_hu`` is off by default: the easy level. ``hard.yaml`` sets them.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal
from zlib import crc32

import numpy as np
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings, Share
from ctglip.simulation.acquisition import Acquisition, AcquisitionSettings, acquire
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.canvas import Spacing, periodic_piece
from ctglip.simulation.lesions import Kind, possible_kinds
from ctglip.simulation.phases import PhaseSettings, in_phase, timing_hu
from ctglip.simulation.reader import ReaderSettings, read, slips
from ctglip.simulation.reports import ReportRates, operations, write_report
from ctglip.simulation.scene import Lesion, LesionSettings, Scene
from ctglip.simulation.segmenter import MaskSettings, draw_masks
from ctglip.simulation.torso import STANDARD, built_in_anatomy
from ctglip.simulation.warp import Pose, draw_pose, sample
from ctglip.types import LabelMap, Scan

SCANNERS = ("Simulated A", "Simulated B", "Simulated C")
_FIRST, _PATIENT, _ILLNESS, _LESION, _IMAGE, _REPORT, _SCAN = range(7)


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
        anatomies: kinds of built-in torsos (``anatomies.yaml``); the bodies are dealt out among them.
        habitus: how much more than usual patients differ in size and fat.
        phases: contrast phases, in place of ``contrast``.
        lesions: how lesions look.
        acquisition: how scans are acquired (``spacing_mm`` is then the edge within a slice); null for cubes with
            ``noise_hu``.
        masks: faults of the masks.
        reader: errors of the reports.
    """

    spacing_mm: float = Field(default=3.0, gt=0.5, le=10)
    prevalence: Share = 0.25
    rates: dict[str, float] = Field(default_factory=dict)
    reports: ReportRates = Field(default_factory=ReportRates)
    contrast: Share = 0.3
    second_studies: float = Field(default=0.1, ge=0, lt=0.5)
    bodies: int = Field(default=8, ge=1, le=64)
    noise_hu: tuple[float, float] = (8.0, 16.0)
    organ_hu: float = Field(default=3.0, ge=0)
    anatomies: tuple[str, ...] = Field(default=(STANDARD,), min_length=1)
    habitus: float = Field(default=1.0, gt=0, le=3)
    phases: PhaseSettings = PhaseSettings()
    lesions: LesionSettings = LesionSettings()
    acquisition: AcquisitionSettings | None = None
    masks: MaskSettings = MaskSettings()
    reader: ReaderSettings = ReaderSettings()

    @property
    def easy(self) -> bool:
        """Whether everything that makes studies hard is off."""
        names = ("anatomies", "habitus", "phases", "lesions", "acquisition", "masks", "reader")
        return all(getattr(self, name) == type(self).model_fields[name].get_default() for name in names)


@dataclass(frozen=True)
class _Streams:
    """Random numbers of one study: those of its own, and those that a patient's studies have in common."""

    seed: int
    index: int
    patient: int

    def of_study(self, stream: int, extra: int = 0) -> np.random.Generator:
        return _rng(self.seed, self.index, stream, extra)

    def of_patient(self, stream: int, extra: int = 0) -> np.random.Generator:
        return _rng(self.seed, self.patient, stream, extra)


@dataclass(frozen=True)
class SimulatedStudy:
    """A study and everything that is known about it.

    Attributes:
        scan: int16 HU, RAS+.
        labels: TotalSegmentator v2 numbers on the same grid, as a segmenter draws them.
        report: text with a technique, a findings and an impression section.
        truth: 0 or 1 for each ``organ:abnormality`` that the anatomy has the organ for: what is in the image.
        lesions: where it is, in the scan's millimetres.
        patient: number of the patient's first study.
        age: in years.
        about: columns of the cohort table on anatomy, phase and acquisition; empty at the easy level.
        mask_faults: (organ, fault) of the masks.
        report_errors: (pair, error) where the report says other than the truth.
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
    about: dict[str, Any]
    mask_faults: tuple[tuple[str, str], ...] = ()
    report_errors: tuple[tuple[str, str], ...] = ()


def _rng(seed: int, index: int, stream: int, extra: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, index, stream, extra])


def patient_of(seed: int, index: int, settings: SimulationSettings) -> int:
    """Number of the first study of the patient whom study ``index`` shows: its own or the one before."""

    share = settings.second_studies / (1 - settings.second_studies)

    def second(study: int) -> bool:
        return study > 0 and _rng(seed, study, _FIRST).random() < share

    return index - 1 if second(index) and not second(index - 1) else index


def body_of(seed: int, index: int, settings: SimulationSettings) -> tuple[int, bool, str]:
    """What ``built_in_anatomy`` makes the body of study ``index`` from: number, whether with contrast, kind."""
    body = int(_rng(seed, patient_of(seed, index, settings), _PATIENT, 1).integers(settings.bodies))
    contrast = not settings.phases.shares and body < round(settings.bodies * settings.contrast)
    return body, contrast, settings.anatomies[body % len(settings.anatomies)]


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

    Examples:
        >>> import ctglip
        >>> from ctglip.simulation import level_settings
        >>> easy = level_settings("easy", None, ())
        >>> study = ctglip.simulate_study(seed=0, index=0, settings=easy, pairs=["gallbladder:gallstone"])
        >>> study.scan.hu.shape == study.labels.labels.shape
        True
        >>> study.truth["gallbladder:gallstone"]
        1
    """
    settings = settings or SimulationSettings()
    patient = patient_of(seed, index, settings)
    streams = _Streams(seed, index, patient)
    rng, scan_rng = streams.of_patient(_PATIENT), streams.of_study(_SCAN)
    phase, plan = settings.phases.draw(scan_rng), settings.acquisition and settings.acquisition.draw(scan_rng)
    anatomy = template or anatomy_of(seed, index, settings)
    pose, age = draw_pose(anatomy, rng, settings.habitus), int(rng.integers(*anatomy.age))
    sex = anatomy.sex or ("M" if rng.random() < 0.5 else "F")
    kinds = possible_kinds(anatomy)
    chosen = _sampled_pairs(kinds, streams, settings) if pairs is None else set(pairs)
    ill = tuple(kind for kind in kinds if kind.pair in chosen)
    anatomy = in_phase(anatomy, phase) if phase else anatomy
    scene, lesions = _make(anatomy, pose, ill, streams, settings, _grid(settings, plan))
    truth = {kind.pair: int(kind.pair in lesions) for kind in kinds}
    scan, labels, origin = _photograph(scene, streams, settings, plan)
    masks, faults = draw_masks(labels, scan.hu, scan.spacing_mm, settings.masks, streams.of_study(_SCAN, 1))
    report, errors = _report(truth, lesions, anatomy, streams, settings)
    placed = tuple(
        replace(lesion, centre_mm=_moved(lesion.centre_mm, origin)) for found in lesions.values() for lesion in found
    )
    scanner = SCANNERS[int(streams.of_study(_IMAGE, 3).integers(len(SCANNERS)))]
    columns = {} if settings.easy else {"anatomy": anatomy.kind, "phase": anatomy.phase or "unknown"}
    columns |= plan.columns() if plan else {}
    return SimulatedStudy(
        scan, LabelMap(masks, scan.affine), report, truth, placed, patient, age + (index > patient), sex, scanner,
        columns, tuple(faults), errors,
    )  # fmt: skip


def _grid(settings: SimulationSettings, plan: Acquisition | None) -> Spacing:
    """Edges of the voxels that the scene is made of: a part of a slice thick."""
    mm = settings.spacing_mm
    return (mm, mm, plan.slice_mm / plan.parts) if plan else (mm, mm, mm)


def _report(
    truth: dict[str, int],
    lesions: dict[str, list[Lesion]],
    anatomy: Anatomy,
    streams: _Streams,
    settings: SimulationSettings,
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The report, and where it says other than the truth."""
    reader, rng = settings.reader, streams.of_study(_SCAN, 2)
    reading = read(truth, lesions, reader, rng)
    reading = replace(reading, history=operations(anatomy, reader.history, rng))
    named = bool(rng.random() < reader.phase)
    text = write_report(reading, anatomy, settings.reports, streams.of_study(_REPORT), names_phase=named)
    return slips(text, reader.slip, rng), reading.departures


def _moved(point: tuple[float, float, float], origin: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (round(float(p + o), 1) for p, o in zip(point, origin, strict=True))
    return x, y, z


def _sampled_pairs(kinds: tuple[Kind, ...], streams: _Streams, settings: SimulationSettings) -> set[str]:
    """Pairs of one study. A second study keeps most of what the first one had."""
    limits = np.array([settings.rates.get(kind.abnormality, settings.prevalence) for kind in kinds])
    has = streams.of_patient(_ILLNESS).random(len(kinds)) < limits
    if streams.index != streams.patient:
        anew = streams.of_study(_ILLNESS, 1).random(len(kinds)) < 0.3
        has = np.where(anew, streams.of_study(_ILLNESS).random(len(kinds)) < limits, has)
    return {kind.pair for kind, present in zip(kinds, has, strict=True) if present}


def _make(
    anatomy: Anatomy,
    pose: Pose,
    ill: tuple[Kind, ...],
    streams: _Streams,
    settings: SimulationSettings,
    spacing_mm: Spacing,
) -> tuple[Scene, dict[str, list[Lesion]]]:
    """Deform, then paint each abnormality from its own random numbers, so that one does not move another."""

    def chance(kind: Kind) -> np.random.Generator:
        return streams.of_patient(_LESION, crc32(kind.pair.encode()))

    warps = [kind.warp(anatomy, kind.organ, chance(kind)) for kind in ill if kind.warp]
    hu, labels = sample(anatomy, pose, warps, spacing_mm, streams.of_study(_IMAGE, 4))
    if anatomy.phase and settings.phases.timing:
        amount = float(streams.of_study(_SCAN, 3).normal(0, settings.phases.timing))
        hu += timing_hu(anatomy.phase, amount)[labels]
    scene = Scene(hu, labels, spacing_mm, anatomy, settings.lesions)
    lesions: dict[str, list[Lesion]] = {}
    for kind in ill:
        found = kind.paint(scene, kind.organ, chance(kind))
        if found:
            lesions[kind.pair] = found
    return scene, lesions


def _photograph(
    scene: Scene, streams: _Streams, settings: SimulationSettings, plan: Acquisition | None
) -> tuple[Scan, np.ndarray, np.ndarray]:
    """Each organ's own HU, noise, rounding, and a place in scanner space.

    Returns:
        the scan, its true labels, and the place in mm of the scene's first voxel.
    """
    rng, personal = streams.of_study(_IMAGE, 1), streams.of_patient(_IMAGE, 2)
    offset_hu = personal.normal(0, settings.organ_hu, 256).astype(np.float32)
    offset_hu[0] = 0
    offset_hu[10:15] = personal.normal(0, 14)
    offset_hu[25:51] = offset_hu[92:117] = personal.normal(0, 12)
    scene.hu = hu = scene.hu + offset_hu[scene.labels]
    labels, spacing = scene.labels, scene.spacing_mm
    if plan is None:
        sigma = float(rng.uniform(*settings.noise_hu)) * scene.anatomy.noise
        hu = hu + sigma * periodic_piece(_noise(), hu.shape, rng)
    else:
        shot = acquire(scene, plan, streams.of_study(_SCAN, 4))
        hu, labels, spacing = shot.hu, shot.labels, shot.spacing_mm
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.round(rng.uniform(-30, 30, 3) - np.array([*hu.shape[:2], 0]) * settings.spacing_mm / 2, 1)
    image = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    first = affine[:3, 3] - [0, 0, (spacing[2] - scene.spacing_mm[2]) / 2]
    return Scan(image, affine), labels, first


@functools.cache
def _noise() -> np.ndarray:
    """Correlated noise of deviation 1, float32, that studies take shifted pieces of."""
    white = np.random.default_rng(11).standard_normal((150, 120, 200), np.float32)
    field = ndimage.gaussian_filter(white, 0.6, mode="wrap", truncate=3)
    return field / field.std()
