"""Every arm of the experiments on radiographs has a config that is accepted."""

from __future__ import annotations

import pytest

from experiments.cxr_headline import work as cxr_headline
from experiments.place import __main__ as place


@pytest.mark.parametrize("arm", place.ARMS)
def test_an_arm_of_place_trains_without_what_it_leaves_out(arm: str) -> None:
    config = place.config_of(arm, 10, 0, 64)
    weights = config.objective.model_dump()
    assert (config.model.resampler is None) == (not weights["batch_weight"] and not weights["sentence_weight"])


@pytest.mark.parametrize("size", cxr_headline.SIZES)
@pytest.mark.parametrize("arm", cxr_headline.ABLATION)
def test_an_arm_of_the_headline_on_radiographs_is_accepted(arm: str, size: str) -> None:
    asked = cxr_headline.SIZES[size]
    config = cxr_headline.config_of(cxr_headline.ABLATION[arm], asked, 3)
    assert (config.seed, config.loop.steps, config.data.size) == (3, asked["steps"], asked["pixels"])
