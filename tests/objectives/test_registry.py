"""Every registered objective is tried in the tests of all objectives, and says what it is."""

from __future__ import annotations

import pytest

from ctglip.models.region_readers import REGION_READERS
from ctglip.objectives.base import ModelNeeds, ObjectiveSettings
from ctglip.objectives.mixture import Mixture
from ctglip.objectives.registry import OBJECTIVES
from tests.objectives.toys import EVERY

ELSEWHERE = {"ecamp", "ecamp_organs", "place_organs", "mim", "dino"}
"""Their losses are never zero or need other samples: ``test_ecamp``, ``test_place``, ``test_mim``, ``test_dino``
and ``tests/training``."""


def test_every_objective_is_tested(bank):
    made = [make(bank, 2)[0] for make in EVERY.values()]
    kinds = {type(one).Settings().name for one in made if not isinstance(one, Mixture)}
    assert kinds | ELSEWHERE == set(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_says_what_it_is(name):
    kind = OBJECTIVES[name]
    settings = kind.Settings()
    assert isinstance(settings, ObjectiveSettings)
    assert settings.name == name
    needs = kind.needs(settings)
    assert isinstance(needs, ModelNeeds)
    assert set(needs.readers) <= set(REGION_READERS)
    assert bool(needs.readers) or needs.image
    assert kind.input_kind in ("organs", "pairs", "reports", "images")
