"""The decoder of tags, heads with batch norm, and organs read from projected tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.heads import ProjectionHead
from ctglip.models.pooling import box_weights, pool_boxes, pool_organs
from ctglip.models.region_readers import Regions
from ctglip.models.tags import TagDecoder, TagSettings
from tests.models.building import dual_encoder

NAMES = ("edema", "mass", "tube")
STUDY = torch.tensor([0, 1, 1])


def built(dims: int = 2, **changes: Any) -> DualEncoder:
    torch.manual_seed(0)
    encoder = CNNSettings(spatial_dims=dims, widths=(8, 16), blocks=(0, 1))  # pyright: ignore[reportArgumentType]
    shape = {"in_channels": 1, "dim": 32, "embedding_dim": 8, "text_dim": 6, "anatomy": False, "sizes": False}
    return dual_encoder(encoder=encoder, **{**shape, **changes}).eval()


def test_each_tag_looks_for_itself():
    net = built(tag_names=NAMES, tags=TagSettings(layers=1, hidden=16))
    tokens, embeddings = torch.randn(2, 5, 16), torch.randn(3, 6)
    net.tag_decoder.embeddings.copy_(embeddings)
    logits = net.tags(tokens)
    assert logits.shape == (2, 3)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net.tags(tokens, embeddings[order]), logits[:, order])
    torch.testing.assert_close(net.tags(tokens[:, [4, 3, 2, 1, 0]]), logits)
    assert not torch.allclose(net.tags(tokens + 1), logits)


def test_known_tags_answer_alone_as_together_and_new_ones_beside_them():
    net = built(tag_names=NAMES, tags=TagSettings(layers=1, hidden=16))
    tokens, embeddings, new = torch.randn(2, 5, 16), torch.randn(3, 6), torch.randn(2, 6)
    net.tag_decoder.embeddings.copy_(embeddings)
    torch.testing.assert_close(net.tags(tokens, embeddings[1:2] + 1e-5), net.tags(tokens)[:, 1:2])
    mixed = net.tags(tokens, torch.stack([new[0], embeddings[2], new[1]]))
    fresh = built(tag_names=(*NAMES, "a", "b"), tags=TagSettings(layers=1, hidden=16))
    fresh.load_state_dict({**net.state_dict(), "tag_decoder.embeddings": torch.cat([embeddings, new])})
    torch.testing.assert_close(mixed, fresh.tags(tokens)[:, [3, 2, 4]])
    nameless = built(tags=TagSettings(layers=1, hidden=16))
    assert nameless.tags(tokens, new).shape == (2, 2)


def test_the_names_travel_with_the_weights():
    net = built(tag_names=NAMES, tags=TagSettings(layers=1, hidden=16))
    net.tag_decoder.embeddings.copy_(torch.randn(3, 6))
    again = DualEncoder(net.settings, net.inputs).eval()
    again.load_state_dict(net.state_dict())
    tokens = torch.randn(2, 5, 16)
    torch.testing.assert_close(again.tags(tokens), net.tags(tokens))
    assert again.inputs.tags == NAMES


def test_a_model_without_tags_has_the_weights_it_always_had():
    names = set(built().state_dict())
    assert not any(name.startswith("tag_decoder") for name in names)
    assert built(tags=TagSettings()).state_dict().keys() > names


def test_asg_has_25_million_weights_and_no_layer_for_equal_widths():
    decoder = TagDecoder(TagSettings(), (), 768, 768)
    assert sum(p.numel() for p in decoder.parameters()) == pytest.approx(25.2e6, rel=0.01)
    other = TagDecoder(TagSettings(), (), 768, 384)
    assert other.query.weight.shape == (768, 384)


def test_heads_with_batch_norm_follow_the_published_layers():
    torch.manual_seed(0)
    head, tokens = ProjectionHead(6, 4, 10, "batch"), torch.randn(3, 7, 6)
    first, last = head.layers[0], head.layers[3]
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(last, torch.nn.Linear)
    hidden = F.batch_norm(first(tokens).flatten(0, 1), None, None, training=True).relu()
    expected = F.normalize(F.batch_norm(last(hidden), None, None, training=True), dim=1)
    torch.testing.assert_close(head(tokens).flatten(0, 1), expected)
    assert [name for name, _ in head.named_parameters()] == [
        f"layers.{i}.{kind}" for i in (0, 1, 3) for kind in ("weight", "bias")
    ]


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_for_statistics_use_the_running_ones(rows):
    head = ProjectionHead(6, 4, 10, "batch")
    x = torch.randn(rows, 6)
    torch.testing.assert_close(head.train()(x), head.eval()(x))


def test_statistics_can_be_shared_by_ranks() -> None:
    """What ``training.ranks.share_batch_statistics`` does to a head: the same of all tokens, whatever their axes."""
    torch.manual_seed(0)
    head = ProjectionHead(6, 4, hidden=8, norm="batch")
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(head))
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in shared.modules()) == 2
    for x in (torch.randn(5, 6), torch.randn(3, 7, 6)):
        torch.testing.assert_close(shared(x), head(x))
    assert shared.state_dict().keys() == head.state_dict().keys()


def test_roi_align_as_weights_is_roi_align():
    from torchvision.ops import roi_align

    torch.manual_seed(0)
    features = torch.randn(2, 5, 6, 4, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.3, 2.9, 1.0, 3.5], [2.0, 6.0, 0.0, 4.0], [4.1, 4.3, 0.2, 0.4]], dtype=torch.float64)
    corners = torch.cat([STUDY[:, None].double(), boxes[:, [2, 0, 3, 1]]], dim=1)
    expected = roi_align(features, corners, 1, sampling_ratio=-1, aligned=False).flatten(1)
    found = pool_boxes(features, boxes, STUDY, "roi_align")
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    mine, theirs = (torch.autograd.grad((x * weight).sum(), features)[0] for x in (found, expected))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("reader", ["box", "mask"])
def test_projected_tokens_are_averaged_over_the_organ(reader, dims):
    regions = {"name": reader, "pooling": "tokens", "levels": (-1,)}
    net = built(dims, regions=regions, head_norm="batch", organs=2, organ_labels=((1,), (2,)))
    images = torch.randn(2, 1, *[16] * dims)
    low = torch.tensor([0.0, 0.0, 8.0])
    boxes = torch.stack([low, low + 8] + [torch.zeros(3), torch.full((3,), 16.0)] * (dims - 1), dim=1)
    labels = torch.zeros(2, *[16] * dims, dtype=torch.long)
    labels[:, :8], labels[:, 8:] = 1, 2
    asked = Regions(organ_id=torch.tensor([0, 0, 1]), study_index=STUDY, labels=labels, boxes=boxes)
    found = net(images, asked)
    level = net.encode_image(images).levels[-1]
    unit = net.region_reader.head(level.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones_like(unit[:, 0]))
    weights = box_weights(boxes / 4, tuple(level.shape[2:]))
    torch.testing.assert_close(found, pool_organs(unit, weights, STUDY))
    torch.testing.assert_close(net.diagnosis(found), F.normalize(found, dim=1))
    none = Regions(organ_id=STUDY[:0], study_index=STUDY[:0], labels=labels, boxes=boxes[:0])
    assert net(images, none).shape == (0, 8)


def test_what_is_known_of_the_images_is_not_computed_again():
    net = built(regions={"name": "box"})
    images, boxes = torch.randn(2, 1, 16, 16), torch.tensor([[0.0, 8, 0, 8]] * 3)
    asked = Regions(study_index=STUDY, boxes=boxes)
    torch.testing.assert_close(net(images, asked, net.encode_image(images)), net(images, asked))
