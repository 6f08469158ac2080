"""Kernel, slices, dose, body width, metal and motion, measured on voxels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ctglip.simulation.acquisition import Acquisition, AcquisitionSettings, acquire
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.artefacts import METALS
from ctglip.simulation.labels import number
from ctglip.simulation.levels import level_settings
from ctglip.simulation.scene import Scene
from ctglip.simulation.study import SimulationSettings, simulate_study

SETTINGS = AcquisitionSettings(slice_mm={"3": 1}, kernels={"soft": 1}, noise_hu=10, modulation=1, metal=0, motion=0)
SILENT = SETTINGS.model_copy(update={"noise_hu": 0.0})
PLAN = Acquisition(3.0, "soft", 1.0, "", False, SETTINGS)


def _water(torso: Anatomy, width: int = 116) -> Scene:
    """A water cylinder 290 mm wide, or another width in voxels."""
    x, y = np.meshgrid(np.arange(140) - 69.5, np.arange(140) - 69.5, indexing="ij")
    disc = np.where(x**2 + y**2 < (width / 2) ** 2, 0.0, -1000.0)
    hu = np.repeat(disc[:, :, None], 40, axis=2).astype(np.float32)
    return Scene(hu, np.zeros(hu.shape, np.uint8), (2.5, 2.5, 3.0), replace(torso, noise=1.0))


def _middle(hu: np.ndarray) -> np.ndarray:
    return hu[54:86, 54:86, 2:-2]


def _noise(torso: Anatomy, plan: Acquisition, width: int = 116) -> np.ndarray:
    return _middle(acquire(_water(torso, width), plan, np.random.default_rng(3)).hu)


def _share_of_fine_noise(noise: np.ndarray) -> float:
    """Share of the noise power above half of the highest frequency within slices."""
    power = np.abs(np.fft.fft2(noise - noise.mean((0, 1)), axes=(0, 1))) ** 2
    frequency = np.abs(np.fft.fftfreq(noise.shape[0]))
    fine = np.hypot(frequency[:, None], frequency[None, :]) > 0.25
    return float(power[fine].sum() / power.sum())


def test_noise_goes_with_dose_and_thickness(torso: Anatomy) -> None:
    usual = _noise(torso, PLAN).std()
    assert usual == pytest.approx(10, rel=0.1)
    assert _noise(torso, replace(PLAN, dose=0.25)).std() == pytest.approx(2 * usual, rel=0.02)
    assert _noise(torso, replace(PLAN, slice_mm=0.75)).std() == pytest.approx(2 * usual, rel=0.02)


def test_wide_bodies_are_noisier_unless_the_tube_makes_up_for_it(torso: Anatomy) -> None:
    unmodulated = replace(PLAN, settings=SETTINGS.model_copy(update={"modulation": 0.0}))
    ratio = _noise(torso, unmodulated, 132).std() / _noise(torso, unmodulated, 116).std()
    assert ratio == pytest.approx(np.exp(0.019 * 40 / 2), rel=0.05)
    assert _noise(torso, PLAN, 132).std() == pytest.approx(_noise(torso, PLAN, 116).std(), rel=0.02)


def test_a_sharp_kernel_has_more_and_finer_noise(torso: Anatomy) -> None:
    soft, sharp = _noise(torso, PLAN), _noise(torso, replace(PLAN, kernel="sharp"))
    assert sharp.std() == pytest.approx(2 * soft.std(), rel=0.1)
    assert _share_of_fine_noise(sharp) > 3 * _share_of_fine_noise(soft)


def test_a_soft_kernel_blurs_and_a_sharp_one_overshoots(torso: Anatomy) -> None:
    soft, sharp = (
        acquire(_water(torso), replace(PLAN, kernel=kernel, settings=SILENT), np.random.default_rng(0)).hu[:, 70, 20]
        for kernel in ("soft", "sharp")
    )
    assert np.abs(np.diff(soft)).max() < 0.95 * np.abs(np.diff(sharp)).max()
    assert sharp.max() > 40
    assert soft.max() < 1


def test_thick_slices_are_means_of_layers(torso: Anatomy) -> None:
    body = _water(torso)
    body.hu[60:80, 60:80, 11] = 600
    body.labels[60:80, 60:80, 11] = 5
    shot = acquire(body, replace(PLAN, slice_mm=6.0, settings=SILENT), np.random.default_rng(0))
    assert shot.spacing_mm == (2.5, 2.5, 6.0)
    assert shot.hu.shape == shot.labels.shape == (140, 140, 20)
    assert shot.hu[70, 70, 5] == pytest.approx(300, abs=1)
    assert shot.hu[70, 70, 4] == pytest.approx(0, abs=1)
    assert shot.labels[70, 70, 5] == 5


def test_lesions_keep_their_place_in_thick_slices() -> None:
    settings = AcquisitionSettings(slice_mm={"5": 1}, kernels={"soft": 1}, noise_hu=0, modulation=1, metal=0, motion=0)
    cohort = SimulationSettings(bodies=1, contrast=0, acquisition=settings, second_studies=0)
    study = simulate_study(2, 0, cohort, pairs=["urinary_bladder:bladder_stone"])
    assert study.scan.spacing_mm == pytest.approx((3, 3, 5))
    for lesion in study.lesions:
        x, y, z = np.rint((np.linalg.inv(study.scan.affine) @ [*lesion.centre_mm, 1])[:3]).astype(int)
        near = study.scan.hu[x - 2 : x + 3, y - 2 : y + 3]
        assert near[:, :, z].max() > 100
        assert near[:, :, z].mean() > max(near[:, :, z - 3].mean(), near[:, :, z + 3].mean())


@pytest.mark.parametrize("metal", METALS)
def test_metal_is_dense_and_streaks(torso: Anatomy, metal: str) -> None:
    def shot(plan: Acquisition) -> np.ndarray:
        body = Scene(torso.hu.copy(), torso.labels, torso.spacing_mm, torso)
        return acquire(body, plan, np.random.default_rng(0)).hu

    bare, ill = (shot(replace(PLAN, settings=SILENT, metal=name)) for name in ("", metal))
    slices = (ill > 1800).any((0, 1))
    assert 2 <= slices.sum() < 90
    change = np.abs(ill - bare)
    tissue = (bare > -200) & (bare < 200) & (ill < 1000)
    assert np.quantile(change[:, :, slices][tissue[:, :, slices]], 0.9) > 12
    assert np.median(change[:, :, ~slices]) < 1


def test_motion_doubles_contours_around_the_diaphragm(torso: Anatomy) -> None:
    still, moved = (
        acquire(
            Scene(torso.hu.copy(), torso.labels, torso.spacing_mm, torso),
            replace(PLAN, settings=SILENT, motion=motion),
            np.random.default_rng(0),
        ).hu
        for motion in (False, True)
    )
    changed = np.flatnonzero(np.abs(moved - still).mean((0, 1)) > 1)
    liver = np.flatnonzero((torso.labels == number("liver")).any((0, 1)))
    assert 5 < len(changed) < 60
    assert changed.min() > liver.min()
    assert changed.max() < torso.labels.shape[2] - 20


def test_each_acquisition_is_drawn_at_its_rate() -> None:
    settings = level_settings("hard").acquisition
    assert settings is not None
    rng, count = np.random.default_rng(0), 3000
    drawn = [settings.draw(rng) for _ in range(count)]

    def near(found: float, share: float) -> bool:
        return abs(found - share) <= 4 * (share * (1 - share) / count) ** 0.5

    for name, share in settings.slice_mm.items():
        assert near(float(np.mean([plan.slice_mm == float(name) for plan in drawn])), share), name
    assert near(float(np.mean([plan.kernel == "sharp" for plan in drawn])), settings.kernels["sharp"])
    assert near(float(np.mean([bool(plan.metal) for plan in drawn])), settings.metal)
    assert near(float(np.mean([plan.motion for plan in drawn])), settings.motion)
    doses = np.array([plan.dose for plan in drawn])
    assert settings.dose[0] <= doses.min() < 1.1 * settings.dose[0]
    assert 0.9 * settings.dose[1] < doses.max() <= settings.dose[1]
    assert {plan.columns()["slice_thickness_mm"] for plan in drawn} == {1.0, 1.5, 2.0, 3.0, 5.0}
