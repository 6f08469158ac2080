"""Organs in whole images: every vectorised form against a loop, ragged and empty."""

from __future__ import annotations

import pytest
import torch

from ctglip.models.decoders import QueryDecoder
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.pooling import (
    AttentionPool,
    box_coverage,
    coverage,
    label_coverage,
    masked_pool,
    pool_boxes,
    pool_labels,
    pool_organs,
)
from ctglip.models.region_readers import REGION_READERS, Regions
from tests.models.building import dual_encoder

STUDY = torch.tensor([2, 0, 0, 2, 0])  # study 1 has no organ
MEMBER = torch.tensor([[0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 0]])


def maps(dims: int, fine: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    shape = [4, 6, 2][:dims]
    features = torch.randn(3, 5, *shape, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (3, *[side * fine for side in shape]))
    return features, labels.to(torch.uint8)


def blown_up(features: torch.Tensor, fine: int) -> torch.Tensor:
    for axis in range(2, features.dim()):
        features = features.repeat_interleave(fine, axis)
    return features


@pytest.mark.parametrize("fine", [1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_label_maps_equal_a_loop_in_value_and_gradient(dims, fine):
    features, labels = maps(dims, fine)
    large = blown_up(features, fine)
    rows = []
    for study, member in zip(STUDY, MEMBER, strict=True):
        inside = member.bool()[labels[study].long()]
        rows.append(large[study][:, inside].mean(1))
    pooled = pool_labels(features, labels, MEMBER, STUDY)
    torch.testing.assert_close(pooled, torch.stack(rows))
    weight = torch.randn_like(pooled)
    mine, theirs = (torch.autograd.grad((v * weight).sum(), features)[0] for v in (pooled, torch.stack(rows)))
    torch.testing.assert_close(mine, theirs)


def test_an_organ_that_is_not_there_reads_the_whole_map():
    features, labels = maps(3)
    labels[labels == 3] = 0
    pooled = pool_labels(features, labels, MEMBER, STUDY)
    torch.testing.assert_close(pooled[2], features[0].flatten(1).mean(1))


@pytest.mark.parametrize("count", [0, 104])
def test_no_organs_and_many(count):
    features, labels = maps(3)
    study = torch.zeros(count, dtype=torch.long)
    member = torch.ones(count, 4)
    assert pool_labels(features, labels, member, study).shape == (count, 5)
    weights = torch.rand(count, 48)
    assert pool_organs(features, weights, study).shape == (count, 5)
    attention = AttentionPool(8, 104)
    found = attention(torch.randn(3, 8, 4, 6, 2), torch.arange(count), study, weights)
    assert found.shape == (count, 8)
    found.sum().backward()


def test_soft_coverage_reads_a_single_voxel():
    features, labels = maps(3, fine=4)
    labels[:] = 0
    labels[2, 5, 9, 2] = 1
    pooled = pool_labels(features, labels, MEMBER[:1], STUDY[:1])
    torch.testing.assert_close(pooled[0], features[2, :, 1, 2, 0])
    filled = label_coverage(labels, 4, (4, 6, 2))
    torch.testing.assert_close(filled.sum(1), torch.ones(3, 48))
    assert filled[2, 1].sum().item() == pytest.approx(1 / 64)


def test_masks_and_coverages_agree():
    features, labels = maps(3, fine=2)
    masks = torch.stack([m.bool()[labels[s].long()] for s, m in zip(STUDY, MEMBER, strict=True)])[:, None].double()
    weights = coverage(masks, (4, 6, 2)).flatten(1)
    alone = masked_pool(features[STUDY], masks)
    torch.testing.assert_close(pool_organs(features, weights, STUDY), alone)
    torch.testing.assert_close(pool_labels(features, labels, MEMBER, STUDY), alone)


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_are_exact_to_fractions(dims):
    features, _ = maps(dims)
    box = torch.tensor([[0.5, 3.0, 1.0, 1.25, 0.0, 2.0]])[:, : 2 * dims]
    weights = box_coverage(box, tuple(features.shape[2:])).view(features.shape[2:])
    assert weights.sum().item() == pytest.approx(2.5 * 0.25 * (2 if dims == 3 else 1))
    pooled = pool_boxes(features, box.double(), torch.tensor([1]))[0]
    line = features[1][:, :, 1].flatten(2).mean(-1) if dims == 3 else features[1][:, :, 1]
    torch.testing.assert_close(pooled, (0.5 * line[:, 0] + line[:, 1] + line[:, 2]) / 2.5)


def test_roi_align_is_for_radiographs():
    with pytest.raises(ValueError, match="radiographs"):
        pool_boxes(maps(3)[0], torch.zeros(1, 6), torch.zeros(1, dtype=torch.long), how="roi_align")


def test_attention_stays_inside_the_organ_and_studies_do_not_mix():
    torch.manual_seed(0)
    features, organ = torch.randn(3, 8, 4, 6, 2), torch.tensor([0, 1, 2, 0, 2])
    weights = (torch.rand(5, 48) > 0.6).float()
    pool = AttentionPool(8, organs=3)
    found = pool(features, organ, STUDY, weights)
    outside = features.clone()
    outside[2] += 5 * (weights[0] == 0).view(4, 6, 2)
    outside[:2] += 1
    torch.testing.assert_close(pool(outside, organ, STUDY, weights)[0], found[0])
    assert not torch.allclose(pool(outside, organ, STUDY, weights)[1], found[1])
    whole = pool(features, organ, STUDY)
    torch.testing.assert_close(pool(features, organ, STUDY, torch.ones(5, 48)), whole, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(whole[1], whole[4])  # one study, two queries


def test_queries_may_change_places_and_absent_tokens_are_not_read():
    torch.manual_seed(0)
    decoder = QueryDecoder(8, layers=2, heads=2, hidden=16).eval()
    queries, tokens = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    out, where = decoder(queries, tokens)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(decoder(queries[:, order], tokens)[0], out[:, order])
    torch.testing.assert_close(where.sum(2), torch.ones(2, 5))
    ignored = torch.zeros(2, 7, dtype=torch.bool)
    ignored[:, 4:] = True
    torch.testing.assert_close(decoder(queries, tokens, ignored)[0], decoder(queries, tokens[:, :4])[0])


def model(**changes) -> DualEncoder:
    torch.manual_seed(0)
    encoder = CNNSettings(widths=(8, 16), blocks=(0, 1))
    return dual_encoder(encoder=encoder, in_channels=1, dim=16, text_dim=4, **changes)


READERS = [
    {"name": "mask"}, {"name": "mask", "pooling": "attention"}, {"name": "mask", "pooling": "tokens"},
    {"name": "box"}, {"name": "box", "pooling": "attention"}, {"name": "box", "pooling": "tokens"}, {"name": "query"},
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: " ".join(reader.values()))
def test_each_organ_sees_its_own_study(reader):
    net = model(regions=reader, organs=3, organ_labels=((1,), (1, 2), (3,)))
    images, boxes = torch.randn(3, 1, 16, 16, 16), torch.tensor([0.0, 9, 3, 16, 0, 12]).repeat(5, 1)
    regions = Regions(
        size=torch.randn(5, 4),
        organ_id=torch.tensor([0, 1, 2, 0, 2]),
        study_index=STUDY,
        labels=torch.randint(0, 5, (3, 16, 16, 16)),  # 4 belongs to no organ
        boxes=boxes,
    )
    found = net(images, regions)
    changed = images.clone()
    changed[0] += 1
    same = (found - net(changed, regions)).abs().amax(1) < 1e-5
    assert torch.equal(same, STUDY != 0)
    assert found.shape == (5, net.feature_dim)
    torch.testing.assert_close(net.diagnosis(found).norm(dim=1), torch.ones(5))
    assert net.anatomy(found).shape == net.diagnosis(found).shape


def test_every_reader_is_tested():
    assert {"crop", *(reader["name"] for reader in READERS)} == set(REGION_READERS)
