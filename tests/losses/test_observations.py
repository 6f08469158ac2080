"""Sets of observations and sentences: numbers by hand, invariances, chunks, nothing at all."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ctglip.losses.observations import SetSimilarity, answers, query_overlap, sentence_contrast, set_contrast

FORMS = [SetSimilarity(reduce, 0.2, symmetric) for reduce in ("max", "logsumexp") for symmetric in (True, False)]


def sets(pictures: int = 5, queries: int = 4, sentences: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    visual = F.normalize(torch.randn(pictures, queries, 6, generator=generator, dtype=torch.float64), dim=-1)
    textual = F.normalize(torch.randn(pictures, sentences, 6, generator=generator, dtype=torch.float64), dim=-1)
    told = torch.ones(pictures, sentences, dtype=torch.bool)
    told[1, 1:] = False
    told[pictures - 1, 0] = False
    return visual, textual, told


def test_similarity_by_hand():
    visual = torch.tensor([[[1.0, 0], [0, 1]]])
    textual = torch.tensor([[[0.6, 0.8], [1, 0], [-1, 0]]])
    told = torch.tensor([[True, True, False]])
    assert SetSimilarity(symmetric=False)(visual, textual, told).item() == pytest.approx((0.8 + 1) / 2)
    assert SetSimilarity()(visual, textual, told).item() == pytest.approx(((0.8 + 1) / 2 + (1 + 0.8) / 2) / 2)
    soft = SetSimilarity("logsumexp", 0.5, symmetric=False)(visual, textual, told).item()
    one = 0.5 * math.log((math.exp(1.2) + math.exp(1.6)) / 2)
    other = 0.5 * math.log((math.exp(2) + math.exp(0)) / 2)
    assert soft == pytest.approx((one + other) / 2)


def test_the_soft_maximum_lies_between_mean_and_maximum():
    visual, textual, told = sets()
    hard = SetSimilarity()(visual, textual, told)
    torch.testing.assert_close(SetSimilarity("logsumexp", 1e-4)(visual, textual, told), hard, atol=1e-3, rtol=0)
    assert (SetSimilarity("logsumexp", 0.3)(visual, textual, told) < hard).all()
    mean = torch.einsum("aqe,bke->abkq", visual, textual).mean(3)
    mean = (mean * told).sum(2) / told.sum(1)
    torch.testing.assert_close(SetSimilarity("logsumexp", 1e4)(visual, textual, told), mean, atol=1e-3, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_order_of_queries_and_sentences_does_not_matter_and_untold_sentences_are_not_seen(form):
    visual, textual, told = sets()
    plain = form(visual, textual, told)
    queries, sentences = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0])
    torch.testing.assert_close(form(visual[:, queries], textual[:, sentences], told[:, sentences]), plain)
    other = torch.where(told[..., None], textual, 1e3)
    torch.testing.assert_close(form(visual, other, told), plain)
    longer, also = F.pad(textual, (0, 0, 0, 2), value=7.0), F.pad(told, (0, 2))
    torch.testing.assert_close(form(visual, longer, also), plain)


def test_the_contrast_by_hand():
    visual, textual, told = sets(3)
    logits = 4 * SetSimilarity()(visual, textual, told)
    own = torch.arange(3)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(set_contrast(visual, textual, told, 4.0), expected)
    key = torch.tensor([5, 9, 5])
    positive = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]], dtype=torch.float64)
    shared = (F.cross_entropy(logits, positive) + F.cross_entropy(logits.T, positive)) / 2
    torch.testing.assert_close(set_contrast(visual, textual, told, 4.0, key=key), shared)


def test_reports_without_a_sentence_take_no_part():
    visual, textual, told = sets()
    told[2] = False
    kept = torch.tensor([0, 1, 3, 4])
    alone = set_contrast(visual[kept], textual[kept], told[kept], 4.0, key=kept)
    torch.testing.assert_close(set_contrast(visual, textual, told, 4.0, key=torch.arange(5)), alone)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keyed", [False, True])
def test_chunks_change_neither_value_nor_gradient(form, keyed):
    found = []
    for chunk in (None, 1, 2, 4, 64):
        visual, textual, told = sets()
        scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
        leaves = (visual.requires_grad_(), textual.requires_grad_(), scale)
        key = torch.tensor([0, 1, 0, 2, 3]) if keyed else None
        loss = set_contrast(visual, textual, told, scale, form, key=key, chunk=chunk)
        found.append((loss.detach(), *torch.autograd.grad(3 * loss, leaves)))
    for other in found[1:]:
        for mine, plain in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, plain, atol=1e-10, rtol=0)


def test_answers_are_what_the_sentence_asks_for():
    visual = torch.tensor([[[1.0, 0], [0, 1]]])
    textual = torch.tensor([[[0.0, 1], [1, 0]]])
    torch.testing.assert_close(answers(textual, visual, 0.01), textual)
    even = answers(torch.zeros(1, 1, 2), visual, 1.0)
    torch.testing.assert_close(even, torch.full((1, 1, 2), math.sqrt(0.5)))


def test_sentences_are_compared_inside_a_study_alone():
    _, textual, told = sets()
    found = F.normalize(textual + 0.3 * torch.randn(textual.shape, dtype=torch.float64), dim=-1)
    total, count = 0.0, 0
    for mine, theirs, here in zip(found, textual, told, strict=True):
        logits = 5 * mine[here] @ theirs[here].T
        own = torch.arange(int(here.sum()))
        total += F.cross_entropy(logits, own, reduction="sum") / 2 + F.cross_entropy(logits.T, own, reduction="sum") / 2
        count += len(own)
    torch.testing.assert_close(sentence_contrast(found, textual, told, 5.0), total / count)
    order = torch.tensor([2, 0, 1])
    again = sentence_contrast(found[:, order], textual[:, order], told[:, order], 5.0)
    torch.testing.assert_close(again, total / count)
    torch.testing.assert_close(
        sentence_contrast(found[1:2], textual[1:2], told[1:2], 5.0), torch.zeros((), dtype=torch.float64)
    )


def test_overlap_by_hand():
    apart, same = torch.eye(2)[None], torch.tensor([[[1.0, 0], [1, 0]]])
    assert query_overlap(apart).item() == 0
    assert query_overlap(same).item() == pytest.approx(2 / 4)
    assert query_overlap(torch.cat([apart, same])).item() == pytest.approx(1 / 4)


LOSSES = {
    "sets": lambda v, t, told: set_contrast(v, t, told, 3.0),
    "soft sets": lambda v, t, told: set_contrast(v, t, told, 3.0, SetSimilarity("logsumexp"), chunk=2),
    "sentences": lambda v, t, told: sentence_contrast(answers(t, v, 0.3), t, told, 3.0),
    "overlap": lambda v, t, told: query_overlap(v) + 0 * t.sum(),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients(name):
    visual, textual, told = sets(3)
    leaves = (visual.requires_grad_(), textual.requires_grad_())
    assert torch.autograd.gradcheck(lambda v, t: LOSSES[name](v, t, told), leaves)


@pytest.mark.parametrize("name", ["sets", "soft sets", "sentences"])
def test_nothing_told_is_zero_with_a_gradient(name):
    visual, textual, told = sets()
    leaves = (visual.requires_grad_(), textual.requires_grad_())
    loss = LOSSES[name](*leaves, told & False)
    loss.backward()
    assert loss.item() == 0
    assert all(bool(torch.isfinite(leaf.grad).all()) for leaf in leaves)


def test_bfloat16_autocast_changes_nothing():
    visual, textual, told = (x.float() if x.is_floating_point() else x for x in sets())
    plain = set_contrast(visual, textual, told, 10.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert set_contrast(visual, textual, told, 10.0) == plain
