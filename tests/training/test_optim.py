"""Which parameters decay, which learn at which rate, and when."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from ctglip.errors import ConfigError
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.resnet import ResNetSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.objectives.base import LogitScale
from ctglip.training.optim import OptimSettings, build_optimizer, hold_encoder, layer_scales, set_learning_rate
from ctglip.training.schedule import learning_rate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        settings = ViTSettings(spatial_dims=2, patch=4, image_size=8, dim=12, depth=3, heads=2)
        self.encoder = build_encoder(settings, 1)
        self.queries = nn.Embedding(3, 12)
        self.head = nn.Linear(12, 4)
        self.scale = LogitScale()


def decay_of(module: nn.Module, settings: OptimSettings) -> dict[str, float]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = build_optimizer(module, settings).param_groups
    return {names[p]: group["weight_decay"] for group in groups for p in group["params"]}


def test_matrices_decay_and_nothing_else_does():
    decay = decay_of(Net(), OptimSettings(weight_decay=0.1))
    assert decay["head.weight"] == decay["encoder.embed.weight"] == 0.1
    assert decay["encoder.blocks.0.mlp.linear1.weight"] == 0.1
    still = ("head.bias", "encoder.norm.weight", "scale.log_scale", "queries.weight", "encoder.positions")
    assert {decay[name] for name in still} == {0.0}


def test_frozen_parameters_are_left_out():
    net = Net()
    net.encoder.requires_grad_(False)
    assert not any(name.startswith("encoder") for name in decay_of(net, OptimSettings()))


@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [
        (CNNSettings(widths=(8, 16, 16), blocks=(0, 1, 1), groups=4), "stem.0.weight", "stages.2.0.first.weight"),
        (ResNetSettings(layers=(1, 1, 1, 1), widths=(8, 8, 8, 8)), "net.conv1.weight", "net.layer4.0.conv1.weight"),
        (ViTSettings(patch=4, image_size=8, dim=12, depth=3, heads=2), "positions", "norm.weight"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_earlier_layers_of_an_encoder_learn_more_slowly(settings, first, last):
    net = nn.ModuleDict({"encoder": build_encoder(settings, 1), "head": nn.Linear(2, 2)})
    scales = layer_scales(net, 0.5)
    ordered = [scales[name] for name, _ in net.named_parameters() if name in scales]
    assert ordered == sorted(ordered)
    assert scales[f"encoder.{first}"] == min(ordered) < 0.5
    assert scales[f"encoder.{last}"] == 1
    assert "head.weight" not in scales


def test_every_group_gets_its_share_of_the_rate():
    settings = OptimSettings(lr=0.1, warmup=0, layer_decay=0.5)
    optimizer = build_optimizer(Net(), settings)
    rate = set_learning_rate(optimizer, 0, 10, settings)
    assert rate == pytest.approx(0.1)
    assert {group["lr"] for group in optimizer.param_groups} == {rate * 0.5**depth for depth in range(4)}


def test_the_rate_warms_up_and_falls_as_a_cosine():
    settings = OptimSettings(lr=2.0, warmup=4, final=0.1)
    rates = [learning_rate(step, 14, settings) for step in range(14)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0.2)
    assert all(after < before for before, after in pairwise(rates[4:]))


def test_a_step_moves_what_has_a_gradient():
    net = nn.Linear(2, 2)
    optimizer = build_optimizer(net, OptimSettings())
    before = net.weight.detach().clone()
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(net.weight, before)


def test_all_or_all_but_vectors_decay_where_that_is_published():
    everything = decay_of(Net(), OptimSettings(weight_decay=0.1, decayed="all"))
    assert set(everything.values()) == {0.1}
    but_vectors = decay_of(Net(), OptimSettings(weight_decay=0.1, decayed="not_1d"))
    assert {name for name, decay in but_vectors.items() if decay} == {
        name for name, parameter in Net().named_parameters() if parameter.ndim > 1
    }


def test_the_patch_embedding_learns_at_a_rate_of_its_own():
    settings = OptimSettings(lr=0.1, warmup=0, layer_decay=0.5, patch_rate=0.2)
    net = Net()
    names = {parameter: name for name, parameter in net.named_parameters()}
    scale = {names[p]: group["scale"] for group in build_optimizer(net, settings).param_groups for p in group["params"]}
    assert scale["encoder.embed.weight"] == scale["encoder.embed.bias"] == pytest.approx(0.2 * 0.5**3)
    assert scale["encoder.positions"] == 0.5**3
    assert scale["queries.weight"] == scale["head.weight"] == 1


def test_a_frozen_encoder_stays_until_its_time():
    net, settings = Net(), OptimSettings(lr=0.1, warmup=0, encoder_frozen=3)
    optimizer = build_optimizer(net, settings)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}

    def step(number: int) -> set[str]:
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        hold_encoder(optimizer, number, settings)
        optimizer.step()
        return {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}

    assert not any(name.startswith("encoder") for name in step(2))
    assert any(name.startswith("encoder") for name in step(3))


def test_a_rate_of_patches_that_nothing_embeds_is_refused():
    net = nn.ModuleDict({"encoder": build_encoder(CNNSettings(widths=(8, 16), blocks=(0, 1), groups=4), 1)})
    with pytest.raises(ConfigError, match="embeds no patches"):
        build_optimizer(net, OptimSettings(patch_rate=0.5))
