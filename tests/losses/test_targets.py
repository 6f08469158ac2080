from __future__ import annotations

import numpy as np
import pytest
import torch

from ctglip.losses.contrastive import soft_contrastive
from ctglip.losses.targets import (
    EXCLUDED,
    Block,
    clinical_prior,
    equal_key,
    hierarchy_aware,
    identity,
    tag_overlap,
)

EVERY = {
    "identity": (identity, torch.zeros(5)),
    "equal": (equal_key, torch.tensor([0, 1, 0, 2, 1])),
    "prior": (clinical_prior(0.07), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))),
    "tags": (tag_overlap(), torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 0]])),
}


@pytest.mark.parametrize("name", list(EVERY))
def test_a_block_of_rows_is_a_part_of_the_matrix(name):
    target, context = EVERY[name]
    whole = target(Block(torch.arange(5), 5, context, context))
    rows = torch.tensor([3, 1])
    torch.testing.assert_close(target(Block(rows, 5, context[rows], context)), whole[rows])


def test_rows_of_equal_keys_and_of_tags_sum_to_one():
    for name in ("equal", "tags"):
        target, context = EVERY[name]
        torch.testing.assert_close(target(Block(torch.arange(5), 5, context, context)).sum(1), torch.ones(5))


def test_images_without_tags_keep_their_own_text():
    target, context = EVERY["tags"]
    row = target(Block(torch.tensor([1]), 5, context[1:2], context))[0]
    assert row[1] > 0.99


def test_correlated_reports_are_partly_positive_and_others_are_not():
    base = torch.tensor([[1.0, 2, 3, 4], [2, 4, 6, 9], [4, 3, 2, 1]])
    weights = clinical_prior(0.5, lam=0.2)(Block(torch.arange(3), 3, base, base))
    assert weights[0, 0] == 1
    assert weights[0, 1] == pytest.approx(0.5 * (1 - torch.exp(torch.tensor(-0.2 * 0.9945)).item()), abs=1e-3)
    assert weights[0, 2] == 0


def related() -> torch.Tensor:
    """0 lesion; 1 cyst, a lesion; 2 stone."""
    matrix = torch.eye(3, dtype=torch.bool)
    matrix[1, 0] = True
    return matrix


def test_texts_that_imply_one_another_are_neither_positive_nor_negative():
    #            key lesion cyst stone
    context = torch.tensor([[0, 0, 1, 0], [1, 1, 0, 0], [2, 0, 0, 1], [3, 0, 0, 0], [0, 0, 1, 0], [4, 0, 1, 1]])
    weights = hierarchy_aware(related())(Block(torch.arange(6), 6, context, context))
    cyst = weights[0]
    assert cyst[0] == cyst[4] == 0.5
    assert cyst[1] == EXCLUDED  # "a lesion" is true of a cyst
    assert cyst[2] == cyst[3] == 0  # a stone, and normal, are not
    assert cyst[5] == EXCLUDED  # "a cyst and a stone" implies a cyst
    assert weights[1, 0] == EXCLUDED
    assert weights[3].tolist() == [0, 0, 0, 1, 0, 0]  # normal implies nothing


def test_ignored_pairs_do_not_enter_the_loss():
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    context = torch.tensor([[0, 0, 1, 0], [1, 1, 0, 0], [2, 0, 0, 1]])
    loss = soft_contrastive(query, key, 1.0, target=hierarchy_aware(related()), context=context)
    logits = (query @ key.T).clone()
    logits[0, 1] = logits[1, 0] = -torch.inf
    plain = torch.nn.functional.cross_entropy
    torch.testing.assert_close(loss, (plain(logits, torch.arange(3)) + plain(logits.T, torch.arange(3))) / 2)


def test_soft_positives_may_weigh_as_among_fewer_columns():
    base = torch.tensor([[1.0, 2, 3, 4], [2, 4, 6, 9], [4, 3, 2, 1]])
    every = Block(torch.arange(3), 3, base, base)
    plain, kept = clinical_prior(0.5)(every), clinical_prior(0.5, columns=2)(every)
    assert torch.equal(kept.diagonal(), plain.diagonal())
    assert kept[0, 1] == pytest.approx(float(plain[0, 1]) / 2), "one other report of two"
    assert torch.equal(clinical_prior(0.5, columns=7)(every), plain), "there are no more than that"
    tags = torch.tensor([[1, 0], [1, 0], [0, 1]])
    rows = tag_overlap(0.2, 0.0, columns=2)(Block(torch.arange(3), 3, tags, tags))
    assert rows[0].tolist() == pytest.approx([1 / 1.1, 0.1 / 1.1, 0.0]), "1 and 0.2 / 2, of their sum"


def test_the_soft_mass_of_a_row_is_that_of_the_published_batch():
    torch.manual_seed(0)
    text = torch.rand(1024, 16) + torch.rand(1, 16) * 4  # reports that are all somewhat alike

    def mass(count: int, columns: int | None = None) -> float:
        block = Block(torch.arange(count), count, text[:count], text[:count])
        return float((clinical_prior(0.07, columns=columns)(block).sum(1) - 1).mean())

    assert mass(1024) > 7 * mass(128)
    assert mass(1024, 128) == pytest.approx(mass(128), rel=0.05)


def test_loss_and_gradient_of_targets_of_kept_mass_are_those_of_the_formula():
    similarity = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.9, 0.1], [0.0, 0.3, 0.8]], dtype=torch.float64)
    query = similarity.clone().requires_grad_()
    key = torch.eye(3, dtype=torch.float64)
    base = torch.tensor([[1.0, 2, 3, 4], [2, 4, 6, 9], [4, 3, 2, 1]], dtype=torch.float64)
    soft_contrastive(query, key, 2.0, target=clinical_prior(0.5, columns=2), context=base).backward()
    r = np.corrcoef(base.numpy()).clip(0)
    np.fill_diagonal(r, 0)
    weights = np.eye(3) + 0.5 * (1 - np.exp(-0.2 * r)) / 2
    z = 2 * similarity.numpy()
    rows, columns = (np.exp(z) / np.exp(z).sum(axis, keepdims=True) for axis in (1, 0))
    by_rows = weights.sum(1, keepdims=True) * rows - weights
    by_columns = weights.T.sum(0, keepdims=True) * columns - weights.T
    np.testing.assert_allclose(query.grad.numpy(), 2 * (by_rows + by_columns) / 2 / 3, atol=1e-12)
