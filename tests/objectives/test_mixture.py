from __future__ import annotations

import pytest
import torch

from ctglip.errors import ConfigError
from ctglip.objectives.base import StepContext
from ctglip.objectives.mixture import Mixture, weight_at
from tests.objectives.toys import EVERY, global_pair


def test_weights_follow_their_schedule():
    points = [(0.2, 1.0), (0.6, 3.0), (0.8, 0.0)]
    found = [weight_at(points, progress) for progress in (0, 0.2, 0.4, 0.6, 0.7, 1)]
    assert found == pytest.approx([1, 1, 2, 3, 1.5, 0])


def test_losses_are_the_weighted_losses_of_the_parts(bank):
    mixture, samples = EVERY["mixture"](bank, 2)
    batch = mixture.collate(samples)
    step = StepContext(progress=0.25)
    losses, report = mixture(batch, step)
    assert report["global_pair/weight"] == pytest.approx(0.6)
    alone, _ = mixture.parts["global_pair"](batch.parts["global_pair"], step)
    torch.testing.assert_close(losses["global_pair/global_pair"], 0.6 * alone["global_pair"])
    organs, _ = mixture.parts["organ_text"](batch.parts["organ_text"])
    torch.testing.assert_close(losses["organ_text/anatomy"], organs["anatomy"])
    assert len(list(mixture.parameters())) == len({id(p) for p in mixture.parameters()})


def test_weights_and_parts_must_agree(bank):
    part = global_pair(bank, 2)
    with pytest.raises(ConfigError, match="weights for"):
        Mixture({"a": part}, {"b": 1.0})
    with pytest.raises(ConfigError, match="growing"):
        Mixture({"a": part}, {"a": [(0.5, 1.0), (0.2, 0.0)]})
