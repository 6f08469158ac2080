from __future__ import annotations

import pytest
import torch

from ctglip.models.heads import ProjectionHead, group_directions
from ctglip.models.pooling import coverage, masked_pool


@pytest.mark.parametrize("dims", [2, 3])
def test_pooling_equals_a_loop_over_organs(dims):
    torch.manual_seed(0)
    features = torch.randn(5, 7, *[4] * dims, dtype=torch.float64)
    mask = (torch.rand(5, 1, *[16] * dims) > 0.7).double()
    pooled = masked_pool(features, mask)
    for organ in range(5):
        total, weight = torch.zeros(7, dtype=torch.float64), 0.0
        for voxel in mask[organ, 0].nonzero():
            total += features[organ][(slice(None), *(voxel // 4))]
            weight += 1
        torch.testing.assert_close(pooled[organ], total / weight)


def test_an_organ_smaller_than_a_feature_voxel_is_read_where_it_is():
    features = torch.zeros(1, 1, 4, 4, 4)
    features[0, 0, 2, 1, 3] = 5.0
    mask = torch.zeros(1, 1, 32, 32, 32)
    mask[0, 0, 17, 8, 31] = 1
    assert masked_pool(features, mask).item() == pytest.approx(5.0)
    assert coverage(mask, (4, 4, 4)).sum().item() == pytest.approx(1 / 512)


def test_an_organ_across_two_feature_voxels_is_weighted_by_area():
    features = torch.tensor([0.0, 8.0]).view(1, 1, 2, 1, 1)
    mask = torch.zeros(1, 1, 8, 1, 1)
    mask[0, 0, 1:5] = 1
    assert masked_pool(features, mask).item() == pytest.approx(2.0)


def test_a_mask_on_the_features_own_grid_is_its_coverage():
    torch.manual_seed(0)
    features, mask = torch.randn(2, 3, 4, 4, 4), (torch.rand(2, 1, 16, 16, 16) > 0.8).float()
    covered = coverage(mask, (4, 4, 4))
    assert coverage(covered, (4, 4, 4)) is covered
    assert torch.equal(masked_pool(features, covered), masked_pool(features, mask))


def test_an_empty_mask_reads_the_whole_map_and_passes_a_finite_gradient():
    features = torch.randn(2, 3, 2, 2, 2, requires_grad=True)
    mask = torch.zeros(2, 1, 4, 4, 4)
    mask[1, 0, 0, 0, 0] = 1
    pooled = masked_pool(features, mask)
    torch.testing.assert_close(pooled[0], features[0].flatten(1).mean(1))
    pooled.sum().backward()
    assert torch.isfinite(features.grad).all()


def test_no_organs_at_all():
    assert masked_pool(torch.zeros(0, 3, 2, 2, 2), torch.zeros(0, 1, 4, 4, 4)).shape == (0, 3)


def test_heads_give_unit_vectors_and_groups_their_mean_direction():
    vectors = ProjectionHead(6, 4, hidden=8)(torch.randn(5, 6))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    square = torch.eye(3)
    groups = group_directions(square, torch.tensor([1, 1, 0]), 3)
    expected = torch.tensor([[0, 0, 1], [0.5**0.5, 0.5**0.5, 0], [0, 0, 0]])
    torch.testing.assert_close(groups, expected)
