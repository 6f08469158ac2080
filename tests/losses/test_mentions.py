"""Single sentences and pictures across the batch: numbers by hand, equal sentences, contradictions, chunks, nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ctglip.losses.mentions import Mentions, contradictions, mention_contrast
from ctglip.losses.observations import SetSimilarity

FORMS = [SetSimilarity("max"), SetSimilarity("logsumexp", 0.2)]


def case() -> tuple[torch.Tensor, torch.Tensor, Mentions]:
    """Sentence 7 is in the first two reports; the third report has one sentence, the last none."""
    generator = torch.Generator().manual_seed(0)
    visual = F.normalize(torch.randn(4, 3, 6, generator=generator, dtype=torch.float64), dim=-1)
    said = F.normalize(torch.randn(10, 6, generator=generator, dtype=torch.float64), dim=-1)
    key = torch.tensor([[7, 2], [3, 7], [4, -1], [-1, -1]])
    weight = torch.tensor([[0.5, 1.0], [0.25, 0.5], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    yes, no = torch.zeros(4, 2, 2, dtype=torch.bool), torch.zeros(4, 2, 2, dtype=torch.bool)
    yes[0, 1, 0] = no[1, 0, 0] = yes[2, 0, 1] = True  # 2 affirms what 3 denies
    return visual, said[key.clamp(min=0)], Mentions(key, weight, yes, no)


def by_hand(visual: torch.Tensor, textual: torch.Tensor, scale: float) -> torch.Tensor:
    """Every distinct sentence once, every picture once."""
    own = {0: {7: 0.5, 2: 1.0}, 1: {3: 0.25, 7: 0.5}, 2: {4: 1.0}}
    vectors = {7: textual[0, 0], 2: textual[0, 1], 3: textual[1, 0], 4: textual[2, 0]}
    names = list(vectors)
    logits = scale * torch.stack([(visual @ vectors[name]).amax(1) for name in names], dim=1)
    pictures = []
    for picture, said in own.items():
        total = sum(said.values())
        right = sum(weight / total * logits[picture, names.index(name)] for name, weight in said.items())
        pictures.append(logits[picture].logsumexp(0) - right)
    sentences, weights = [], []
    for said in own.values():
        for name, weight in said.items():
            column = logits[:, names.index(name)]
            right = torch.stack([column[p] for p, other in own.items() if name in other]).mean()
            sentences.append(weight * (column.logsumexp(0) - right))
            weights.append(weight)
    return (torch.stack(pictures).mean() + torch.stack(sentences).sum() / sum(weights)) / 2


def test_the_contrast_by_hand():
    visual, textual, mentions = case()
    torch.testing.assert_close(mention_contrast(visual, textual, mentions, 4.0), by_hand(visual, textual, 4.0))


def test_a_sentence_that_all_have_pulls_nothing_apart():
    """Its pictures are all right: the gradient is that of agreeing with all alike."""
    textual = case()[1]
    key = torch.zeros(4, 1, dtype=torch.long)
    said = textual[:1, :1].expand(4, 1, 6)
    even = F.normalize(torch.ones(4, 3, 6, dtype=torch.float64), dim=-1).requires_grad_()
    loss = mention_contrast(even, said, Mentions(key, torch.ones(4, 1)), 4.0)
    assert loss.item() == pytest.approx(math.log(4) / 2)
    assert torch.autograd.grad(loss, even)[0].abs().max() < 1e-12


def test_a_contradiction_by_hand():
    visual, textual, mentions = case()
    own = 4 * torch.stack([(visual[0] @ textual[0, 1]).amax(), (visual[1] @ textual[1, 0]).amax()])
    other = 4 * torch.stack([(visual[0] @ textual[1, 0]).amax(), (visual[1] @ textual[0, 1]).amax()])
    weight = torch.tensor([1.0, 0.25], dtype=torch.float64)
    expected = (F.softplus(other - own) * weight).sum() / weight.sum()
    torch.testing.assert_close(contradictions(visual, textual, mentions, 4.0), expected)


@pytest.mark.parametrize("form", FORMS)
def test_order_and_untold_sentences_do_not_matter(form):
    visual, textual, mentions = case()
    plain = mention_contrast(visual, textual, mentions, 4.0, form)
    queries = torch.tensor([2, 0, 1])
    torch.testing.assert_close(mention_contrast(visual[:, queries], textual, mentions, 4.0, form), plain)
    turned = Mentions(mentions.key.flip(1), mentions.weight.flip(1))
    torch.testing.assert_close(mention_contrast(visual, textual.flip(1), turned, 4.0, form), plain)
    other = torch.where(mentions.key[..., None] >= 0, textual, 9.0)
    torch.testing.assert_close(mention_contrast(visual, other, mentions, 4.0, form), plain)
    torch.testing.assert_close(
        contradictions(visual, other, mentions, 4.0, form), contradictions(visual, textual, mentions, 4.0, form)
    )


@pytest.mark.parametrize("form", FORMS)
def test_chunks_change_neither_value_nor_gradient(form):
    found = []
    for chunk in (None, 1, 3, 64):
        visual, textual, mentions = case()
        scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        leaves = (visual.requires_grad_(), textual.requires_grad_(), scale)
        loss = mention_contrast(visual, textual, mentions, scale, form, chunk=chunk)
        found.append((loss.detach(), *torch.autograd.grad(2 * loss, leaves)))
    for other in found[1:]:
        for mine, plain in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, plain, atol=1e-10, rtol=0)


def test_gradients():
    visual, textual, mentions = case()
    leaves = (visual.requires_grad_(), textual.requires_grad_())
    for loss in (mention_contrast, contradictions):
        assert torch.autograd.gradcheck(lambda v, t, loss=loss: loss(v, t, mentions, 3.0, FORMS[1]), leaves)


@pytest.mark.parametrize("loss", [mention_contrast, contradictions])
def test_nothing_told_is_zero_with_a_gradient(loss):
    visual, textual, mentions = case()
    leaves = (visual.requires_grad_(), textual.requires_grad_())
    value = loss(visual, textual, replace(mentions, key=torch.full((4, 2), -1)), 3.0)
    assert value.item() == 0
    assert all(bool((g == 0).all()) for g in torch.autograd.grad(value, leaves))
