from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ctglip.losses.contrastive import class_prompts, soft_contrastive
from ctglip.losses.targets import equal_key


def test_two_pairs_by_hand():
    query = torch.eye(2, dtype=torch.float64)
    key = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    # scale 2: logits [[2, 1.2], [0, 1.6]]
    rows = math.log(math.exp(2) + math.exp(1.2)) - 2, math.log(1 + math.exp(1.6)) - 1.6
    columns = math.log(math.exp(2) + 1) - 2, math.log(math.exp(1.2) + math.exp(1.6)) - 1.6
    expected = (sum(rows) / 2 + sum(columns) / 2) / 2
    assert soft_contrastive(query, key, 2.0).item() == pytest.approx(expected, abs=1e-12)


def test_open_clip(golden):
    numbers = golden("openclip")
    x, y = F.normalize(numbers["imitate/x"], dim=1), F.normalize(numbers["imitate/y"], dim=1)
    assert soft_contrastive(x, y, 14.3).item() == pytest.approx(numbers["openclip/clip"].item(), abs=1e-5)


def test_equal_keys_share_the_positive_mass(pairs):
    query, key = pairs
    keys = torch.tensor([4, 9, 4, 7, 9, 4])
    logits = 3 * query @ key.T
    target = (keys[:, None] == keys[None, :]).double()
    target = target / target.sum(1, keepdim=True)
    expected = (
        -(target * logits.log_softmax(1)).sum(1).mean() / 2 - (target * logits.T.log_softmax(1)).sum(1).mean() / 2
    )
    loss = soft_contrastive(query, key, 3.0, target=equal_key, context=keys)
    torch.testing.assert_close(loss, expected)
    distinct = soft_contrastive(query, key, 3.0, target=equal_key, context=torch.arange(6))
    torch.testing.assert_close(distinct, soft_contrastive(query, key, 3.0))


def test_equal_key_without_context_says_so(pairs):
    with pytest.raises(ValueError, match="context"):
        soft_contrastive(*pairs, 1.0, target=equal_key)


def test_invalid_rows_leave_with_their_columns(pairs):
    query, key = pairs
    valid = torch.tensor([True, False, True, True, False, True])
    keys = torch.tensor([0, 0, 0, 1, 1, 1])
    whole = soft_contrastive(query, key, 5.0, target=equal_key, context=keys, valid=valid)
    part = soft_contrastive(query[valid], key[valid], 5.0, target=equal_key, context=keys[valid])
    torch.testing.assert_close(whole, part)


def test_dictionary_negatives_are_seen_by_their_rows_in_one_direction(pairs):
    query, key = pairs
    extra = F.normalize(torch.randn(4, 5, dtype=torch.float64), dim=1)
    index = torch.tensor([[0, 1], [2, -1], [-1, -1], [3, 3], [0, -1], [1, 2]])
    logits = 4 * query @ key.T
    rows = []
    for i in range(6):
        further = [4 * query[i] @ extra[j] for j in index[i].tolist() if j >= 0]
        rows.append(torch.logsumexp(torch.stack([*logits[i], *further]), 0) - logits[i, i])
    expected = (torch.stack(rows).mean() + F.cross_entropy(logits.T, torch.arange(6))) / 2
    torch.testing.assert_close(soft_contrastive(query, key, 4.0, extra=extra, extra_index=index), expected)


@pytest.mark.parametrize("extra", [torch.zeros(0, 5), torch.randn(3, 5)])
def test_rows_without_dictionary_negatives_change_nothing(pairs, extra):
    query, key = pairs
    none = torch.full((6, 2), -1)
    torch.testing.assert_close(
        soft_contrastive(query, key, 4.0, extra=extra.double(), extra_index=none), soft_contrastive(query, key, 4.0)
    )


def test_gradients_reach_embeddings_temperature_and_negatives(pairs):
    query, key = (value.clone().requires_grad_() for value in pairs)
    extra = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    keys, index = torch.tensor([0, 1, 1, 2, 3, 3]), torch.tensor([[0], [1], [-1], [2], [0], [-1]])

    def loss(query, key, scale, extra):
        return soft_contrastive(
            query, key, scale, target=equal_key, context=keys, extra=extra, extra_index=index,
            valid=torch.tensor([True, True, True, False, True, True]),
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, (query, key, scale, extra))


@pytest.mark.parametrize("valid", [None, torch.zeros(3, dtype=torch.bool)])
def test_nothing_to_compare_is_zero_with_a_gradient(valid):
    count = 0 if valid is None else 3
    query, key = torch.randn(2, count, 5).requires_grad_().unbind()
    scale = torch.tensor(2.0, requires_grad=True)
    loss = soft_contrastive(query, key, scale, valid=valid) + class_prompts(
        query, torch.randn(4, 5), torch.zeros(count, dtype=torch.long), scale, valid
    )
    loss.backward()
    assert loss.item() == 0
    assert scale.grad.item() == 0


def test_half_precision_and_autocast_compute_in_float32(pairs):
    query, key = (value.float() for value in pairs)
    plain = soft_contrastive(query, key, 50.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = soft_contrastive(query, key, 50.0)
    assert torch.equal(inside, plain)
    half = soft_contrastive(query.bfloat16(), key.bfloat16(), 50.0)
    assert half.dtype == torch.float32


def test_class_prompts_is_cross_entropy_of_valid_rows(pairs):
    query, classes = pairs
    labels, valid = torch.tensor([0, 3, 5, 1, 1, 2]), torch.tensor([True, True, False, True, True, False])
    expected = F.cross_entropy((7 * query @ classes.T)[valid], labels[valid])
    torch.testing.assert_close(class_prompts(query, classes, labels, 7.0, valid), expected)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    leaves = (query.clone().requires_grad_(), classes.clone().requires_grad_(), labels, scale)
    assert torch.autograd.gradcheck(class_prompts, leaves)
