"""IMITATE: the published losses in value and gradient, missing sections, and what must change nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ctglip.features.text_bank import TextBank
from ctglip.losses.targets import Kernel
from ctglip.models.encoders.resnet import ResNetSettings
from ctglip.objectives.base import StepContext, join, total
from ctglip.objectives.imitate import Imitate, ImitateBatch, ImitateSettings, clinical_contrast
from ctglip.objectives.texts import positions
from tests.models.building import dual_encoder
from tests.objectives.toys import imitate, report_samples

GOLDEN = Path(__file__).resolve().parents[1] / "parity" / "imitate.npz"
KERNELS: dict[str, Any] = {
    "exp": lambda c, lam: 1 - torch.exp(-lam * c),
    "gau": lambda c, lam: torch.exp(-c * c / 2) / (2 * torch.pi) ** 0.5,
    "lap": lambda c, lam: torch.exp(-c.abs()) / 2,
    "sigmoid": lambda c, lam: torch.sigmoid(c),
}


def textbook(
    one: Tensor, other: Tensor, tau: float, prior: Tensor | None, kernel: str = "exp", lam: float = 0.2
) -> Tensor:
    """The formula of the publication, written out."""
    logits, labels = one @ other.T / tau, torch.eye(len(one), dtype=one.dtype)
    if prior is not None:
        alike = torch.corrcoef(prior).clamp(min=0).fill_diagonal_(0)
        labels = labels + tau * KERNELS[kernel](alike, lam)
    directions = (logits.log_softmax(1), logits.T.log_softmax(1))
    return torch.stack([-(labels * log_p).sum() / len(one) for log_p in directions]).sum()


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        return {name.removeprefix("imitate/"): torch.as_tensor(arrays[name]).clone() for name in arrays.files}


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("tau", [0.07, 0.2])
@pytest.mark.parametrize("kernel", [*KERNELS, None])
def test_every_term_has_the_published_value_and_its_gradient(golden, kernel: Kernel | None, tau: float, chunk) -> None:
    if kernel is None and tau == 0.07:
        pytest.skip("no published figure")
    lam = golden["lam"].item()
    settings = ImitateSettings(kernel=kernel or "exp", strength=lam, chunk=chunk)
    prior = None if kernel is None else golden["prior"]
    gradients, values = [], []
    for form in ("ours", "textbook"):
        x, y = (golden[name].clone().requires_grad_() for name in "xy")
        pair = F.normalize(x, dim=1), F.normalize(y, dim=1)
        if form == "ours":
            loss = clinical_contrast(*pair, tau, settings, prior)
        else:
            loss = textbook(*pair, tau, prior, kernel or "exp", lam)
        loss.backward()
        values.append(loss.item())
        gradients.append(torch.stack([x.grad, y.grad]))  # pyright: ignore
    published = golden[f"{kernel or 'noprior'}/{tau}/loss"].item()
    assert values == pytest.approx([published] * 2, abs=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-7, rtol=0)


def heads(objective: Imitate, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unit vectors of both views and draws, and of the texts of all studies (any text where there is none)."""
    text = objective.model.text(features["pool"])
    raw = features["pool"]
    out = {f"h{v}": objective.model.image_head(features["high"][:, v]) for v in range(2)}
    out |= {f"m{v}{f}": objective.multi_head(features["multi"][:, v, f]) for v in range(2) for f in range(2)}
    for name in ("impression", "findings"):
        index = positions(features[name], features["pool_ids"]).clamp(min=0)
        out |= {name: text[index], f"frozen {name}": raw[index]}
    return out


def test_the_whole_is_the_sum_of_the_published_terms(bank: TextBank) -> None:
    objective = imitate(bank, 2, findings_weight=0.7).double().eval()
    batch = objective.collate(report_samples(bank, 2))
    features = {name: value.detach() for name, value in objective.encode(batch).items()}
    wanted = [features[name].requires_grad_() for name in ("high", "multi")]
    losses, report = objective.compute(features)
    found = torch.autograd.grad(torch.stack(list(losses.values())).sum(), wanted)
    e = heads(objective, features)
    imp, find = (features[name] >= 0 for name in ("impression", "findings"))
    prior = e["frozen impression"].double()
    expected = sum(textbook(e[f"h{v}"][imp], e["impression"][imp], 0.07, prior[imp]) for v in range(2))
    expected += 0.7 * sum(
        textbook(e[f"m{v}0"][find], e["findings"][find], 0.07, e["frozen findings"].double()[find]) for v in range(2)
    )
    alike = torch.zeros(len(imp), len(imp), dtype=torch.float64)
    both = imp[:, None] & imp[None]
    alike[both] = torch.corrcoef(prior[imp]).clamp(min=0).fill_diagonal_(0).flatten()
    labels = torch.eye(len(imp)) + 0.2 * (1 - torch.exp(-0.2 * alike))
    for one, other in (("h0", "h1"), ("h1", "h0")):
        z = e[one] @ e[other].T / 0.2
        expected += -(labels * (z.log_softmax(1) + z.T.log_softmax(1))).sum() / len(imp)
        first, second = one.replace("h", "m") + "1", other.replace("h", "m") + "1"
        expected += 0.7 * textbook(e[first], e[second], 0.2, None)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(torch.stack(list(losses.values())).sum(), expected)
    for ours, theirs in zip(found, torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)
    assert set(losses) == {"impression", "findings", "high_views", "multi_views"}
    assert report["findings_weight"] == 0.7


def test_a_missing_section_leaves_row_and_column(bank: TextBank) -> None:
    objective = imitate(bank, 2, view_weight=0).double().eval()
    samples = report_samples(bank, 2)
    losses, _ = objective(objective.collate(samples))
    without = {"findings": 1, "impression": 2}
    for name, left_out in without.items():
        fewer = objective.collate([one for number, one in enumerate(samples) if number != left_out])
        torch.testing.assert_close(objective(fewer)[0][name], losses[name])
    none = [replace(one, findings=-1, impression=-1) for one in samples]
    losses, _ = objective(objective.collate(none))
    assert total(losses).item() == 0
    total(losses).backward()
    objective = imitate(bank, 2)
    losses, _ = objective(objective.collate(none))
    assert losses["high_views"] > 0, "views can still be compared"
    assert losses["impression"] == losses["findings"] == 0


def test_the_order_of_studies_changes_nothing(bank: TextBank) -> None:
    objective = imitate(bank, 2, head_norm="batch").double()
    samples = report_samples(bank, 2)
    values = [objective(objective.collate(some))[0] for some in (samples, samples[::-1])]
    for name, loss in values[0].items():
        torch.testing.assert_close(values[1][name], loss)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_backbone_sees_each_view_once(bank: TextBank, dims: int) -> None:
    objective = imitate(bank, dims)
    calls: list[int] = []
    objective.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    objective(objective.collate(report_samples(bank, dims)))
    assert len(calls) == 2


def test_channels_are_drawn_from_seed_and_step(bank: TextBank) -> None:
    objective, samples = imitate(bank, 2), report_samples(bank, 2)
    steps = ((0, 0), (0, 1), (0, 0), (1, 0))
    drawn = [objective.collate(samples, StepContext(*step)).channels for step in steps]
    assert torch.equal(drawn[0], drawn[2])
    assert not any(torch.equal(a, b) for a, b in pairwise(drawn))
    views, families, _ = drawn[0].shape
    assert (views, families) == (2, 2)
    assert len({tuple(row.tolist()) for row in drawn[0].flatten(0, 1)}) == 4, "each view and family has its own"
    batch: ImitateBatch = objective.collate(samples)
    assert torch.equal(batch.piece(2, 5).channels, batch.channels)


def test_the_weight_of_findings_follows_its_schedule(bank: TextBank) -> None:
    points = ((0.0, 1.0), (0.6, 1.0), (0.61, 1.3), (1.0, 0.3))
    objective = imitate(bank, 2, findings_weight=points)
    batch = objective.collate(report_samples(bank, 2))
    values = {}
    for progress in (0.0, 0.61, 1.0):
        losses, report = objective(batch, StepContext(progress=progress))
        values[progress] = losses["findings"].item(), losses["multi_views"].item(), losses["impression"].item()
        assert report["findings_weight"] == pytest.approx(dict(points)[progress])
    for progress in (0.61, 1.0):
        assert values[progress][:2] == pytest.approx([dict(points)[progress] * v for v in values[0.0][:2]])
        assert values[progress][2] == pytest.approx(values[0.0][2])


def test_one_view_has_none_to_be_compared_with(bank: TextBank) -> None:
    one = imitate(bank, 2)
    losses, _ = one(one.collate(report_samples(bank, 2, views=1)))
    assert set(losses) == {"impression", "findings"}


def test_similar_reports_are_soft_positives(bank: TextBank) -> None:
    settings = ImitateSettings(strength=2.0)
    torch.manual_seed(0)
    one, other = (F.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    prior = torch.randn(4, 12)
    prior[1] = 3 * prior[0] + 1
    values = [clinical_contrast(one, other, 0.2, settings, said) for said in (prior, 5 * prior - 2)]
    torch.testing.assert_close(*values)
    moved = one.clone().requires_grad_()
    clinical_contrast(moved, other, 0.2, settings, prior).backward()
    plain = one.clone().requires_grad_()
    clinical_contrast(plain, other, 0.2, settings).backward()
    assert moved.grad is not None
    assert plain.grad is not None
    assert ((moved.grad - plain.grad)[0] @ other[1]) < 0, "study 0 is drawn to the text of study 1"


@pytest.mark.slow
def test_published_shapes(bank: TextBank) -> None:
    """A ResNet-50's four levels and heads with batch norm, as published but for width."""
    encoder = ResNetSettings(
        spatial_dims=2, layers=(1, 1, 1, 1), widths=(8, 16, 24, 32), block="bottleneck", norm="batch"
    )
    shape = {"in_channels": 2, "dim": 64, "embedding_dim": 32, "text_dim": bank.dim, "head_norm": "batch"}
    model = dual_encoder(encoder=encoder, image={"name": "pooled"}, **shape)
    objective = Imitate(model, bank, ImitateSettings())
    assert objective.aggregator.dim == 256
    samples = report_samples(bank, 2)
    big = [replace(one, images=np.kron(one.images, np.ones((1, 1, 4, 4), np.float32))) for one in samples]
    batch = objective.collate(big)
    losses, _ = objective(batch)
    total(losses).backward()
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
    objective.eval()
    cut = [objective.encode(objective.collate(big[i : i + 3])) for i in range(0, 8, 3)]
    joined, _ = objective.compute(join(cut))
    whole, _ = objective(batch)
    for name, loss in whole.items():
        torch.testing.assert_close(joined[name], loss, atol=1e-4, rtol=1e-4)
