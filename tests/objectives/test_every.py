"""What holds for every objective, on radiographs and on scans."""

from __future__ import annotations

import math

import pytest
import torch

from ctglip.objectives.base import StepContext, join, total
from ctglip.training.gradcache import micro_batches
from tests.objectives.toys import EVERY

CASES = [(name, dims) for name in EVERY for dims in (2, 3)]


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_eight_pairs_are_learned_by_heart(bank, name, dims):
    objective, samples = EVERY[name](bank, dims)
    end = StepContext(progress=1.0)
    batch = objective.collate(samples)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=400)
    first = total(objective(batch, end)[0]).item()
    for _ in range(400):
        loss = total(objective(batch, end)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if loss.item() < 0.02:
            break
    losses, report = objective(batch, end)
    assert total(losses).item() < 0.1 < 1.0 < first  # by chance each contrast is near log 8
    assert all(math.isfinite(value) for key, value in report.items() if not key.endswith("negative_similarity"))


@pytest.mark.parametrize("name", list(EVERY))
def test_every_parameter_gets_a_gradient(bank, name):
    objective, samples = EVERY[name](bank, 2)
    total(objective(objective.collate(samples))[0]).backward()
    without = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


@pytest.mark.parametrize("name", [name for name in EVERY if name != "mixture"])
def test_micro_batches_joined_are_the_batch(bank, name):
    objective, samples = EVERY[name](bank, 2)
    objective.eval()
    batch = objective.collate(samples)
    joined, _ = objective.compute(join([objective.encode(part) for part in micro_batches(batch, 3)]))
    whole, _ = objective(batch)
    for key, loss in whole.items():
        torch.testing.assert_close(joined[key], loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(EVERY))
def test_bfloat16_autocast_stays_near(bank, name):
    objective, samples = EVERY[name](bank, 2)
    batch = objective.collate(samples)
    plain = total(objective(batch)[0])
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = objective(batch)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert total(losses).item() == pytest.approx(plain.item(), rel=0.05)
