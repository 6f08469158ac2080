from __future__ import annotations

import math

import pytest
import torch

from ctglip.objectives.contrast import Contrast, ContrastSettings
from ctglip.objectives.step_numbers import accuracy, effective_rank, pair_similarity


def test_effective_rank_counts_the_dimensions_in_use():
    torch.manual_seed(0)
    line = torch.randn(50, 1) @ torch.randn(1, 16)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    cross = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(cross) == pytest.approx(4, abs=1e-4)
    assert effective_rank(torch.ones(5, 4)) == pytest.approx(1, abs=1e-3)
    assert math.isnan(effective_rank(torch.randn(1, 4)))


def test_similarities_of_pairs_and_others():
    image, text = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 1]])
    report = pair_similarity(image, text, torch.tensor([0, 1, 2]))
    assert report["positive_similarity"] == pytest.approx(2 / 3)
    assert report["negative_similarity"] == pytest.approx(1 / 6)
    shared = pair_similarity(image, text, torch.tensor([0, 1, 1]))
    assert shared["positive_similarity"] == pytest.approx(3 / 5)
    assert math.isnan(pair_similarity(image[:0], text[:0], torch.zeros(0, dtype=torch.long))["text_accuracy"])


def test_only_pairs_that_are_compared_count():
    image, text = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8], [0, 0.8, 0.6]])
    group = torch.tensor([0, 0, 1])
    report = pair_similarity(image, text, torch.arange(3), group[:, None] == group[None, :])
    assert report["negative_similarity"] == 0
    assert report["text_accuracy"] == pytest.approx(1.0)


def test_pairs_kept_from_being_negatives_are_counted():
    image = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    key, group = torch.tensor([7, 7, 7, 8]), torch.tensor([0, 0, 1, 1])
    shares = {
        (targets, within): Contrast(ContrastSettings(targets=targets)).report(
            image, image, key, group=group if within else None
        )["not_negative_share"]
        for targets in ("identity", "equal_key")
        for within in (False, True)
    }
    assert shares == {
        ("identity", False): 0,
        ("identity", True): 0,
        ("equal_key", False): pytest.approx(6 / 12),
        ("equal_key", True): pytest.approx(2 / 4),
    }
    many = Contrast(ContrastSettings()).report(image[[0] * 3000], image[[0] * 3000], torch.arange(3000))
    assert many["positive_similarity"] == pytest.approx(1)


def test_accuracy_is_the_nearest_class():
    assert accuracy(torch.eye(3), torch.eye(3), torch.tensor([0, 2, 2])) == pytest.approx(2 / 3)
