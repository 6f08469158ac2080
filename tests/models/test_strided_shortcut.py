"""The CNN's strided shortcuts of a few channels on several threads: right gradients, and no write past a workspace."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings, ResidualBlock

TRAINS = """
import torch
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings

torch.set_num_threads(2)
torch.manual_seed(0)
encoder = build_encoder(CNNSettings(spatial_dims=2, widths=(4, 8, 12, 16), blocks=(0, 1, 1, 1), groups=2), 1)
for step in range(60):
    encoder(torch.randn(4 + step % 5, 1, 64, 64)).pooled.square().mean().backward()
print("trained")
"""


def test_a_cnn_of_a_few_channels_trains_on_two_threads() -> None:
    """In a process of its own: what a write past a workspace does is seen at some later step, or by a crash."""
    done = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.strip()) == (0, "trained"), done.stderr[-2000:]


def test_no_projection_in_2d_has_a_stride_and_a_few_channels() -> None:
    encoder = build_encoder(CNNSettings(spatial_dims=2, widths=(2, 8, 15, 16, 24), blocks=(0, 2, 1, 1, 1), groups=1), 3)
    found = [m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [(m.in_channels, m.stride) for m in found] == [(2, (1, 1)), (8, (1, 1)), (15, (1, 1)), (16, (2, 2))]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("before", [4, 24])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_shortcut_is_a_strided_projection(dims: int, before: int, stride: int) -> None:
    """Value and gradients of the formula, with sides that the stride does not divide too."""
    torch.manual_seed(0)
    block = ResidualBlock(dims, before, 8, stride, lambda width: nn.GroupNorm(2, width)).double()
    weights = list(block.parameters())
    convolve = F.conv3d if dims == 3 else F.conv2d
    assert isinstance(block.shortcut, nn.Sequential)
    projection = block.shortcut[0].weight
    for side in (6, 7):
        x = torch.randn(3, before, *[side] * dims, dtype=torch.float64, requires_grad=True)
        y = F.relu(block.first_norm(convolve(x, block.first.weight, stride=stride, padding=1)))
        y = block.second_norm(convolve(y, block.second.weight, padding=1))
        expected = F.relu(y + block.shortcut[1](convolve(x, projection, stride=stride)))
        found = block(x)
        torch.testing.assert_close(found, expected)
        by = torch.randn_like(found)
        pairs = [torch.autograd.grad(out, [x, *weights], by) for out in (found, expected)]
        for own, other in zip(*pairs, strict=True):
            torch.testing.assert_close(own, other)


def test_weights_of_before_keep_their_names() -> None:
    encoder = build_encoder(CNNSettings(spatial_dims=2, widths=(4, 8), blocks=(0, 1), groups=2), 1)
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items() if "shortcut" in name}
    first = {"stages.1.0.shortcut.0.weight": (8, 4, 1, 1)}
    assert shapes == {**first, "stages.1.0.shortcut.1.weight": (8,), "stages.1.0.shortcut.1.bias": (8,)}
