"""Projection heads of the published kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.heads import ProjectionHead
from ctglip.models.image_heads import PooledHeadSettings
from ctglip.models.region_readers import ModelInputs
from ctglip.objectives.base import LogitScale


def kinds(head: ProjectionHead) -> list[str]:
    return [type(layer).__name__ for layer in head.layers]


def test_a_clip_projection_is_one_matrix():
    head = ProjectionHead(6, 4, norm="none")
    assert [(name, tuple(p.shape)) for name, p in head.named_parameters()] == [("layers.0.weight", (4, 6))]


def test_batch_norm_heads_end_without_weights():
    head = ProjectionHead(6, 4, 5, "batch")
    assert kinds(head) == ["Linear", "RowBatchNorm", "ReLU", "Linear", "RowBatchNorm"]
    assert (head.layers[1].affine, head.layers[4].affine) == (True, False)


def test_a_weight_normed_head_ends_in_cosines():
    torch.manual_seed(0)
    head = ProjectionHead(6, 4, 8, "weight")
    rows = torch.randn(3, 6)
    found = head.unscaled(rows)
    assert float(found.detach().abs().max()) <= 1 + 1e-6, "unit features meet unit rows"
    before = {name: p.detach().clone() for name, p in head.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=1.0)
    found.square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[name], p) for name, p in head.named_parameters() if name in before)
    lengths = head.layers[-1].weight.detach().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))


def test_images_and_texts_have_heads_of_their_own_width():
    encoder = CNNSettings(widths=(8, 16), blocks=(0, 1), groups=4)
    settings = DualEncoderSettings(
        encoder=encoder, image=PooledHeadSettings(), dim=32, head_hidden=24, text_hidden=12, embedding_dim=4,
        head_norm="batch",
    )  # fmt: skip
    model = DualEncoder(settings, ModelInputs(text_dim=10))
    widths = [[layer.out_features for layer in head.layers if isinstance(layer, nn.Linear)]
              for head in (model.global_head.head, model.text_head)]  # fmt: skip
    assert widths == [[24, 4], [12, 4]]


@pytest.mark.parametrize(
    ("start", "largest", "least", "scale"),
    [(0.1, None, 0, 10), (1e-4, None, 0, 1e4), (1e-4, 1000, 2, 1000), (2, 1000, 2, 2)],
)
def test_a_learned_temperature_stays_between_its_limits(start, largest, least, scale):
    assert float(LogitScale(start, max_scale=largest, min_scale=least)().detach()) == pytest.approx(scale, rel=1e-4)
