"""Micro-batches give the gradient of the full batch, with everything random replayed."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from ctglip.errors import ModelError
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.resnet import ResNetSettings
from ctglip.objectives.base import Features, total
from ctglip.objectives.text_contrast import OrganText
from ctglip.training.gradcache import accumulated_backward, cached_backward, micro_batches
from tests.objectives.toys import EVERY, PROMPTS, global_pair, organ_samples, organ_text, pair_samples
from tests.training.conftest import gradients


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("name", ["organ_text", "organ_query, box", "global_pair, sigmoid"])
def test_gradient_is_that_of_the_full_batch(toy_bank, name, size):
    objective, samples = EVERY[name](toy_bank, 2)
    objective.double()
    losses, report = objective(objective.collate(samples))
    total(losses).backward()
    full = gradients(objective)
    parts = [objective.collate(samples[i : i + size]) for i in range(0, len(samples), size)]
    cached, cached_report = cached_backward(objective, parts)
    again = gradients(objective)
    assert again.keys() == full.keys()
    for key, gradient in full.items():
        torch.testing.assert_close(again[key], gradient, atol=1e-10, rtol=0)
    torch.testing.assert_close(cached, losses)
    assert cached_report == pytest.approx(report, nan_ok=True)


class Watched(OrganText):
    """Tells how many micro-batches are on the device each time that one is encoded."""

    def __init__(self, *parts) -> None:
        super().__init__(*parts)
        self.seen, self.there = [], []

    def encode(self, batch) -> Features:
        self.seen.append(weakref.ref(batch))
        self.there.append(sum(one() is not None for one in self.seen))
        return super().encode(batch)


@pytest.mark.parametrize("backward", [cached_backward, accumulated_backward])
def test_each_micro_batch_is_moved_when_its_turn_comes_and_let_go(toy_bank, backward):
    plain = organ_text(toy_bank, 3)
    objective = Watched(plain.model, toy_bank, toy_bank.ids(PROMPTS), torch.tensor([0, 1, 0, 1])).double()
    samples = organ_samples(toy_bank)
    parts = micro_batches(objective.collate(samples), 2)
    assert len(parts) > 2
    backward(objective, parts)
    times = 2 if backward is cached_backward else 1
    assert objective.there == [1] * (times * len(parts))


class Dropped(OrganText):
    """Drops features at random inside of ``encode``."""

    def encode(self, batch) -> Features:
        features = super().encode(batch)
        return {**features, "organ": nn.functional.dropout(features["organ"], 0.5)}


def test_dropout_is_the_same_both_times(toy_bank):
    plain = organ_text(toy_bank, 3)
    owner = torch.tensor([0, 1, 0, 1])
    objective = Dropped(plain.model, toy_bank, toy_bank.ids(PROMPTS), owner).double()
    samples = organ_samples(toy_bank)
    parts = [objective.collate(samples[:4]), objective.collate(samples[4:])]
    torch.manual_seed(5)
    encoded = [objective.encode(part) for part in parts]
    losses, _ = objective.compute({key: torch.cat([e[key] for e in encoded]) for key in encoded[0]})
    total(losses).backward()
    full = gradients(objective)
    torch.manual_seed(5)
    cached_backward(objective, parts)
    for key, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, full[key], atol=1e-10, rtol=0)


def test_mixtures_go_through_too(toy_bank):
    objective, samples = EVERY["mixture"](toy_bank, 2)
    objective.double()
    total(objective(objective.collate(samples))[0]).backward()
    full = gradients(objective)
    halves = [{name: some[part] for name, some in samples.items()} for part in (slice(0, 4), slice(4, 8))]
    cached_backward(objective, [objective.collate(half) for half in halves])
    for key, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, full[key], atol=1e-10, rtol=0)


def test_an_encoder_with_batch_statistics_is_refused(toy_bank):
    plain = organ_text(toy_bank, 3)
    encoder = ResNetSettings(
        spatial_dims=3, layers=(1, 1, 1, 1), widths=(8, 8, 8, 8), norm="batch", stem_kernel=3, max_pool=False
    )
    model = DualEncoder(plain.model.settings.model_copy(update={"encoder": encoder}), plain.model.inputs)
    objective = OrganText(model, toy_bank, toy_bank.ids(PROMPTS), torch.tensor([0, 1, 0, 1]))
    parts = [objective.collate(organ_samples(toy_bank))]
    with pytest.raises(ModelError, match=r"model\.encoder\.net\.bn1 \(BatchNorm3d\)") as error:
        cached_backward(objective, parts)
    assert error.value.code == "batch_statistics"
    objective.eval()
    cached_backward(objective, parts)


def test_batch_statistics_in_compute_are_welcome(toy_bank):
    objective = global_pair(toy_bank, 2)
    objective.model.image_head.head = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16))
    parts = [objective.collate(pair_samples(toy_bank, 2)[i : i + 4]) for i in (0, 4)]
    losses, _ = cached_backward(objective, parts)
    assert torch.isfinite(total(losses))
