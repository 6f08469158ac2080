"""Lung nodules over the Fleischner classes; partial volume and irregular borders, on voxels."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.labels import lookup
from ctglip.simulation.levels import level_settings
from ctglip.simulation.lungs import LOBES
from ctglip.simulation.nodules import nodules
from ctglip.simulation.scene import Lesion, LesionSettings, NoduleSettings, Scene

RATES = level_settings("hard").lesions.nodules


def scene(torso: Anatomy, mm: tuple[float, float, float] = (2.5, 2.5, 2.5), **style: object) -> Scene:
    step = round(mm[2] / 2.5)
    labels = torso.labels[:, :, ::step].copy()
    hu = torso.hu[:, :, ::step].copy()
    return Scene(hu, labels, mm, torso, LesionSettings.model_validate(style))


def _found(torso: Anatomy, rates: NoduleSettings, times: int) -> list[Lesion]:
    rng, body = np.random.default_rng(4), scene(torso)
    return [lesion for _ in range(times) for lesion in nodules(body, LOBES["right"], rates, rng)]


def test_sizes_and_densities_have_their_shares(torso: Anatomy) -> None:
    assert RATES is not None
    found = _found(torso, RATES, 260)
    diameters = np.array([2 * lesion.radius_mm for lesion in found])
    assert 4 <= diameters.min() < 4.6
    assert 24 < diameters.max() <= 30
    bands = {"4-6": (4, 6), "6-8": (6, 8), "8-30": (8, 30)}
    for name, (low, high) in bands.items():
        share = float(((diameters >= low) & (diameters < high)).mean())
        expected = RATES.sizes[name]  # pyright: ignore[reportArgumentType]
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(found)) ** 0.5), name
    for density, expected in RATES.densities.items():
        share = np.mean([lesion.density == density for lesion in found])
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(found)) ** 0.5), density


def _only(density: str, size: str = "8-30", pleura: float = 0.0, vessel: float = 0.0) -> NoduleSettings:
    return NoduleSettings.model_validate(
        {"sizes": {size: 1}, "densities": {density: 1}, "pleura": pleura, "vessel": vessel, "spiculated": 0}
    )


def _around(body: Scene, lesion: Lesion, share: float) -> np.ndarray:
    grids = np.meshgrid(
        *[np.arange(n) * mm - c for n, mm, c in zip(body.hu.shape, body.spacing_mm, lesion.centre_mm, strict=True)],
        indexing="ij",
    )
    return body.hu[sum(grid**2 for grid in grids) <= (share * lesion.radius_mm) ** 2]


def test_densities_are_what_they_say(torso: Anatomy) -> None:
    """Ground glass stays below soft tissue; a part-solid nodule has a solid core that takes a part of it."""
    shares: dict[str, list[float]] = {"solid": [], "part-solid": [], "ground-glass": []}
    for density, found in shares.items():
        for seed in range(12):
            body = scene(torso, supersample_mm=1.0)
            made = nodules(body, LOBES["left"], _only(density), np.random.default_rng(seed))
            large = [lesion for lesion in made if lesion.radius_mm > 6]
            found += [float((_around(body, lesion, 0.8) > -250).mean()) for lesion in large]
    assert np.median(shares["solid"]) > 0.85
    assert 0.02 < np.median(shares["part-solid"]) < 0.6
    assert np.median(shares["ground-glass"]) < 0.1


def test_nodules_sit_on_pleura_and_vessels_when_asked(torso: Anatomy) -> None:
    def shares(rates: NoduleSettings) -> tuple[float, float]:
        outside, vessel = [], []
        rng, body = np.random.default_rng(1), scene(torso)
        clean = body.hu.copy()
        for lesion in (one for _ in range(25) for one in nodules(body, LOBES["right"], rates, rng)):
            place = tuple(np.rint(np.array(lesion.centre_mm) / 2.5).astype(int))
            outside.append(1 - body.share(np.array(place), 3, lookup([lesion.organ])))
            vessel.append(clean[place] > -450)
        return float(np.mean(outside)), float(np.mean(vessel))

    free, pleura, vessel = (shares(_only("solid", "4-6", *rates)) for rates in ((0, 0), (1, 0), (0, 1)))
    assert pleura[0] > free[0] + 0.2
    assert vessel[1] > 0.85
    assert free[1] < 0.5


def test_a_small_nodule_loses_contrast_in_thick_slices(torso: Anatomy) -> None:
    """What is painted is the mean over the voxel: the same mass at any thickness, a lower peak in thick slices."""
    peaks, masses = {}, {}
    for thick in (2.5, 5.0):
        body = scene(torso, (2.5, 2.5, thick), supersample_mm=0.5)
        body.hu[:] = -850
        body.labels[:] = 10
        body.paint(np.array([30.3, 40.2, 40.4]), 2.5, 50, np.random.default_rng(0), edge_mm=1)
        peaks[thick] = body.hu.max()
        masses[thick] = float((body.hu + 850).sum()) * 2.5 * 2.5 * thick
    assert peaks[5.0] < peaks[2.5] - 150
    assert masses[5.0] == pytest.approx(masses[2.5], rel=0.08)
    assert masses[2.5] == pytest.approx(900 * 4 / 3 * np.pi * 2.5**3, rel=0.12)


def test_irregular_lesions_are_less_round(torso: Anatomy) -> None:
    def roundness(irregular: float) -> float:
        shares = []
        for seed in range(10):
            body = scene(torso, irregular=irregular)
            body.hu[:], body.labels[:] = 0, 5
            body.paint(np.array([60.0, 40, 100]), 20, 100, np.random.default_rng(seed), rough=0.1)
            inside = np.argwhere(body.hu > 50) * 2.5
            reach = np.linalg.norm(inside - inside.mean(0), axis=1).max()
            shares.append(len(inside) * 2.5**3 / (4 / 3 * np.pi * reach**3))
        return float(np.mean(shares))

    assert roundness(1.0) < 0.8 * roundness(0.0)


def test_least_makes_smaller_lesions(torso: Anatomy) -> None:
    rng = np.random.default_rng(0)
    sizes = [scene(torso, least=0.5).size_mm(rng, 8, 18) for _ in range(300)]
    assert 4 <= min(sizes) < 5
    assert max(sizes) <= 18
