"""Half precision: losses that are scaled, steps that are skipped, a scale that is kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ctglip.errors import ModelError
from ctglip.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from ctglip.training.optim import OptimSettings, build_optimizer
from ctglip.training.precision import Precision


def made(name: str = "fp16") -> tuple[nn.Linear, torch.optim.Optimizer, Precision]:
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    return net, build_optimizer(net, OptimSettings(lr=0.1, warmup=0)), Precision(name)  # pyright: ignore[reportArgumentType]


def take(net: nn.Linear, optimizer: torch.optim.Optimizer, precision: Precision, factor: float = 1.0) -> float:
    optimizer.zero_grad()
    with precision.autocast():
        loss = net(torch.ones(2, 3)).square().mean()
    precision.backward(loss.float() * factor)
    norm = precision.clip(optimizer, list(net.parameters()), float("inf"))
    precision.step(optimizer)
    return float(norm)


def test_float16_takes_the_step_of_float32():
    plain, halves = made("fp32"), made("fp16")
    norms = [take(*halves) for _ in range(8)]  # the first ones overflow, until the scale is low enough
    finite = next(number for number, norm in enumerate(norms) if math.isfinite(norm))
    assert norms[finite:] == pytest.approx([take(*plain) for _ in norms[finite:]], rel=2e-2)
    torch.testing.assert_close(halves[0].weight, plain[0].weight, atol=1e-2, rtol=0)


def test_a_gradient_that_overflows_takes_no_step_and_lowers_the_scale():
    net, optimizer, precision = made()
    before, scale = net.weight.detach().clone(), precision.scaler.get_scale()
    take(net, optimizer, precision, float("inf"))
    assert torch.equal(net.weight, before)
    assert precision.scaler.get_scale() == scale / 2


def test_a_loss_that_overflows_at_every_scale_is_an_error():
    net, optimizer, precision = made()
    for _ in range(16):
        take(net, optimizer, precision, float("inf"))
    with pytest.raises(ModelError, match=r"loop\.precision"):
        take(net, optimizer, precision, float("inf"))


def test_the_scale_goes_on_from_a_checkpoint(tmp_path):
    net, optimizer, precision = made()
    take(net, optimizer, precision, float("inf"))
    save_checkpoint(tmp_path, 1, TrainingState(net, optimizer, precision=precision))
    other, its_optimizer, fresh = made()
    load_checkpoint(tmp_path, TrainingState(other, its_optimizer, precision=fresh))
    assert fresh.scaler.get_scale() == precision.scaler.get_scale()


def test_gradients_of_small_maps_on_a_cpu_are_those_of_float32():
    """oneDNN's in bfloat16 hold what lay in memory before, here large numbers."""
    image, weight = torch.randn(2, 32, 2, 2, 2), torch.randn(32, 32, 3, 3, 3)
    found = []
    for name in ("fp32", "bf16"):
        precision, learned = Precision(name), weight.clone().requires_grad_()
        freed = [torch.full((size,), 3e38) for size in range(200, 400_000, 3000)]
        del freed
        with precision.autocast():
            maps = nn.functional.conv3d(image, learned, padding=1)
        precision.backward(maps.float().square().mean())
        found.append(learned.grad)
    assert torch.equal(*found)
