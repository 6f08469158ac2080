"""From a body to a scan: slices, kernel, dose and noise, metal and motion, as steps that act on one shot."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings, Share
from ctglip.simulation.artefacts import METALS, double_contours, insert_metal, streaks
from ctglip.simulation.canvas import periodic_piece
from ctglip.simulation.draws import choose
from ctglip.simulation.scene import Scene

ScanKernel = Literal["soft", "sharp"]
_FINEST_PART_MM = 3.0
_USUAL_MM, _USUAL_BODY_MM, _WATER_PER_MM = 3.0, 290.0, 0.019
_SHARP_NOISE = 2.0


class AcquisitionSettings(Settings):
    """How scans are acquired and reconstructed.

    Attributes:
        slice_mm: slice thickness in mm (as text) to the share of studies that have it.
        kernels: share of studies reconstructed with a soft and with a sharp kernel.
        dose: least and largest dose, as a share of the usual one (even in its logarithm); noise goes with its root.
        noise_hu: noise of a soft kernel at 3 mm, the usual dose and a body 290 mm thick.
        modulation: how much of a wider or narrower body's noise the tube current makes up for.
        metal: share of studies with an implant and its streaks.
        motion: share of studies with double contours around the diaphragm.
    """

    slice_mm: dict[str, float] = Field(min_length=1)
    kernels: dict[ScanKernel, float] = Field(min_length=1)
    dose: tuple[float, float] = (1.0, 1.0)
    noise_hu: float = Field(ge=0)
    modulation: Share
    metal: Share
    motion: Share

    def draw(self, rng: np.random.Generator) -> Acquisition:
        """The acquisition of one study."""
        thick = float(choose(self.slice_mm, rng))
        kernel = choose(self.kernels, rng)
        dose = float(np.exp(rng.uniform(*np.log(self.dose))))
        metal = str(rng.choice(METALS)) if rng.random() < self.metal else ""
        return Acquisition(thick, kernel, dose, metal, bool(rng.random() < self.motion), self)


@dataclass(frozen=True)
class Acquisition:
    """How one scan is made.

    Attributes:
        slice_mm: slice thickness; slices neither overlap nor leave gaps.
        kernel, dose, metal, motion: as drawn; ``metal`` names the implant, empty for none.
        settings: what it was drawn from.
    """

    slice_mm: float
    kernel: ScanKernel
    dose: float
    metal: str
    motion: bool
    settings: AcquisitionSettings

    @property
    def parts(self) -> int:
        """How many layers of the body a slice is the mean of."""
        return int(np.ceil(self.slice_mm / _FINEST_PART_MM))

    def columns(self) -> dict[str, Any]:
        """What the cohort table says of it."""
        return {"kernel": self.kernel, "slice_thickness_mm": self.slice_mm}


@dataclass
class Shot:
    """A scan in the making; steps change its arrays in place or replace them.

    Attributes:
        hu: float32 ``[x, y, z]``.
        labels: uint8 like it.
        spacing_mm: voxel edges.
        plan: how it is made.
        noise: share of the simulated noise that is added.
    """

    hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    plan: Acquisition
    noise: float


ScanStep = Callable[[Shot, np.random.Generator], None]


def acquire(scene: Scene, plan: Acquisition, rng: np.random.Generator) -> Shot:
    """A scan of a scene. Each step draws from its own random numbers, so that none moves another."""
    shot = Shot(scene.hu, scene.labels, scene.spacing_mm, plan, scene.anatomy.noise)
    for step, stream in zip(STEPS, rng.spawn(len(STEPS)), strict=True):
        step(shot, stream)
    return shot


def _implant(shot: Shot, rng: np.random.Generator) -> None:
    if shot.plan.metal:
        insert_metal(shot.plan.metal, shot.hu, shot.labels, shot.spacing_mm, rng)


def _slices(shot: Shot, _rng: np.random.Generator) -> None:
    """Thick slices are means of thinner layers; their labels are those of the middle layer."""
    parts = shot.plan.parts
    if parts == 1:
        return
    x, y, z = shot.hu.shape
    layers = shot.hu[:, :, : z // parts * parts]
    shot.hu = layers.reshape(x, y, z // parts, parts).mean(3)
    shot.labels = np.ascontiguousarray(shot.labels[:, :, parts // 2 :: parts][:, :, : z // parts])
    shot.spacing_mm = (*shot.spacing_mm[:2], shot.spacing_mm[2] * parts)


def _motion(shot: Shot, rng: np.random.Generator) -> None:
    if shot.plan.motion:
        double_contours(shot.hu, shot.labels, shot.spacing_mm, rng)


def _kernel(shot: Shot, _rng: np.random.Generator) -> None:
    """A soft kernel blurs within the slice, a sharp one overshoots at borders."""
    blurred = shot.hu
    for axis in (0, 1):
        blurred = ndimage.gaussian_filter1d(blurred, 0.5, axis, truncate=3)
    shot.hu = blurred if shot.plan.kernel == "soft" else shot.hu + np.float32(0.5) * (shot.hu - blurred)


def _streaks(shot: Shot, rng: np.random.Generator) -> None:
    if shot.plan.metal:
        streaks(shot.hu, shot.spacing_mm, rng)


def _noise(shot: Shot, rng: np.random.Generator) -> None:
    """Noise in the kernel's colour: more in thin slices, at a low dose, and where the body is wide."""
    settings, plan = shot.plan.settings, shot.plan
    sigma = settings.noise_hu * shot.noise * np.sqrt(_USUAL_MM / plan.slice_mm / plan.dose)
    sigma *= _SHARP_NOISE if plan.kernel == "sharp" else 1.0
    wide = body_width_mm(shot.hu, shot.spacing_mm)
    by_slice = sigma * np.exp((1 - settings.modulation) * _WATER_PER_MM * (wide - _USUAL_BODY_MM) / 2)
    shot.hu = shot.hu + by_slice.astype(np.float32) * periodic_piece(_field(plan.kernel), shot.hu.shape, rng)


STEPS: tuple[ScanStep, ...] = (_implant, _slices, _motion, _kernel, _streaks, _noise)


def body_width_mm(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Diameter in mm of the water cylinder that weakens X-rays as much as each slice, ``[z]``."""
    water = np.clip(hu[::2, ::2] / 1000 + 1, 0, 2).sum((0, 1)) * 4 * spacing_mm[0] * spacing_mm[1]
    return 2 * np.sqrt(water / np.pi)


@functools.cache
def _field(kernel: ScanKernel) -> np.ndarray:
    """Noise of deviation 1, float32, periodic; studies take shifted pieces of it."""
    white = np.random.default_rng(13).standard_normal((150, 120, 200), np.float32)
    smooth = ndimage.gaussian_filter(white, (0.75, 0.75, 0.35), mode="wrap", truncate=3)
    field = smooth if kernel == "soft" else white - smooth
    return field / field.std()
