from __future__ import annotations

import math

import pytest
import torch

from ctglip.losses.correlation import correlation, patch_correlation
from ctglip.losses.masked import (
    masked_pixel,
    patchify,
    select_window,
    unpatchify,
    weighted_mlm,
    window_error,
    window_mask,
)
from ctglip.losses.tags import tag_bce


@pytest.mark.parametrize("sides", [(6, 4), (6, 4, 8)])
def test_patches_go_back_to_the_picture(sides):
    image = torch.randn(2, 3, *sides)
    patches = patchify(image, 2)
    grid = tuple(side // 2 for side in sides)
    assert torch.equal(unpatchify(patches, 2, grid), image)
    last = image[(slice(None), slice(None), *[slice(-2, None)] * len(sides))]
    torch.testing.assert_close(patches[:, -1].sum(1), last.flatten(1).sum(1))


def test_words_by_hand():
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 1] = math.log(3)
    labels = torch.tensor([[1, 0, 2]])
    first, other = -math.log(3 / 6), math.log(4)
    weights, masked = torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([[True, False, True]])
    total = 2 * first + 0.5 * other
    for denominator, count in (("all", 3), ("masked", 2)):
        loss = weighted_mlm(logits, labels, weights, masked, denominator)
        assert loss.item() == pytest.approx(total / count, abs=1e-6)
    assert weighted_mlm(logits, labels).item() == pytest.approx((first + 2 * other) / 3, abs=1e-6)


def test_pixels_count_where_they_were_hidden():
    target, mask = torch.zeros(1, 2, 4), torch.tensor([[0.0, 1.0]])
    prediction = torch.tensor([[[9.0] * 4, [1.0, 1.0, 3.0, 1.0]]])
    assert masked_pixel(prediction, target, mask).item() == pytest.approx(3)
    assert masked_pixel(prediction, target, mask, "all").item() == pytest.approx(1.5)


@pytest.mark.parametrize("grid", [(4, 5), (4, 5, 3)])
def test_a_window_is_found_and_drawn(grid):
    attention = torch.rand(2, *grid) * 0.1
    corner = torch.tensor([[1, 2, 0], [2, 0, 1]])[:, : len(grid)]
    for image, position in enumerate(corner.tolist()):
        attention[(image, *(slice(p, p + 2) for p in position))] += 1
    assert torch.equal(select_window(attention, 2), corner)
    drawn = window_mask(grid, corner, 2, scale=3)
    assert drawn.shape == (2, 1, *(3 * side for side in grid))
    assert drawn.sum().item() == 2 * 6 ** len(grid)
    assert drawn[(1, 0, *(3 * p for p in corner[1].tolist()))] == 1


def test_window_error_looks_only_inside():
    prediction, target = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    window = window_mask((2, 2), torch.tensor([[0, 1]]), 1, 2)
    assert window_error(prediction, target, window).item() == pytest.approx(1)
    assert window_error(prediction, target, window, "all").item() == pytest.approx(0.25)
    assert window_error(prediction * (1 - window), target, window).item() == 0


def test_open_tags_do_not_count():
    logits, tags = torch.tensor([[0.0, 100.0], [2.0, -3.0]]), torch.tensor([[1, 0], [1, 0]])
    valid = torch.tensor([[True, False], [True, True]])
    expected = (math.log(2) + math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))) / 3
    assert tag_bce(logits, tags, valid).item() == pytest.approx(expected, abs=1e-6)


def test_correlation_is_symmetric_one_with_itself_and_blind_to_scale_and_shift():
    patches = torch.randn(2, 6, 9, dtype=torch.float64)
    matrix = correlation(patches, patches)
    torch.testing.assert_close(matrix, matrix.transpose(1, 2))
    torch.testing.assert_close(matrix.diagonal(dim1=1, dim2=2), torch.ones(2, 6, dtype=torch.float64))
    torch.testing.assert_close(correlation(3 * patches + 7, patches), matrix)
    assert correlation(torch.ones(1, 2, 4), torch.randn(1, 2, 4)).abs().max() == 0


def test_patch_correlation_is_zero_for_the_truth_and_leaves_out_the_diagonal():
    torch.manual_seed(0)
    patches, features = torch.randn(2, 6, 9), torch.randn(2, 6, 5, requires_grad=True)
    assert patch_correlation(2 * patches + 1, patches).item() == pytest.approx(0, abs=1e-10)
    whole = patch_correlation(features, patches)
    off = (correlation(features, features) - correlation(patches, patches)).square()
    expected = (off.sum() - off.diagonal(dim1=1, dim2=2).sum()) / (2 * 6 * 5)
    torch.testing.assert_close(whole, expected)


SCALARS = {
    "words": lambda x: weighted_mlm(x, torch.tensor([[1, 0, 2], [3, 3, 1]]), torch.rand(2, 3).double()),
    "pixels": lambda x: masked_pixel(x, torch.arange(24.0).view(2, 3, 4), torch.tensor([[1.0, 0, 1], [0, 1, 0]])),
    "correlation": lambda x: patch_correlation(x, torch.arange(24.0).view(2, 3, 4).square() % 7),
    "tags": lambda x: tag_bce(x.flatten(1), torch.ones(2, 12), torch.rand(2, 12) > 0.3),
    "window": lambda x: window_error(x[:, None], torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4)),
}


@pytest.mark.parametrize("name", list(SCALARS))
def test_gradients(name):
    def loss(x):
        torch.manual_seed(0)
        return SCALARS[name](x)

    torch.manual_seed(1)
    assert torch.autograd.gradcheck(loss, torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True))


EMPTY = {
    "words": lambda x: weighted_mlm(x, torch.zeros(2, 3).long(), None, torch.zeros(2, 3) > 0, "masked"),
    "pixels": lambda x: masked_pixel(x, x * 0, torch.zeros(2, 3)),
    "correlation": lambda x: patch_correlation(x[:0], x[:0]),
    "tags": lambda x: tag_bce(x, x * 0, torch.zeros(2, 3, 4) > 0),
    "window": lambda x: window_error(x[:, None], x[:, None] * 0, torch.zeros(2, 1, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(EMPTY))
def test_nothing_to_compare_is_zero_with_a_gradient(name):
    x = torch.randn(2, 3, 4, requires_grad=True)
    loss = EMPTY[name](x)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(x.grad).all()
