"""Simulated studies that several tests look at."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.study import SimulatedStudy, SimulationSettings, simulate_study
from ctglip.simulation.torso import built_in_anatomy


@pytest.fixture(scope="session")
def one_body() -> SimulationSettings:
    """One native body, little noise: the same anatomy for every test."""
    return SimulationSettings(bodies=1, contrast=0, noise_hu=(4, 4.001), second_studies=0)


@pytest.fixture(scope="session")
def torso() -> Anatomy:
    return built_in_anatomy(0, False)


@pytest.fixture(scope="session")
def twins(one_body: SimulationSettings) -> Callable[..., SimulatedStudy]:
    """``twins()`` is a healthy study, ``twins("liver:liver_cyst")`` the same one with a lesion."""

    @functools.cache
    def make(*pairs: str) -> SimulatedStudy:
        return simulate_study(2, 0, one_body, pairs=pairs)

    return make
