"""Batches cut into micro-batches: every row and its texts once, and the sums of losses that look at rows alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ctglip.data.samples import Batch, StudyBatch
from ctglip.features.text_bank import TextBank
from ctglip.objectives.base import START, Features, Losses, Objective, StepContext, StepReport, total
from ctglip.objectives.texts import positions
from ctglip.training.gradcache import accumulated_backward, cached_backward, micro_batches
from tests.objectives.toys import EVERY
from tests.training.conftest import gradients


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("name", list(EVERY))
def test_a_cut_batch_gives_the_gradient_of_the_whole_one(toy_bank: TextBank, name: str, size: int) -> None:
    objective, samples = EVERY[name](toy_bank, 2)
    objective.double()
    batch = objective.collate(samples)
    total(objective(batch)[0]).backward()
    whole = gradients(objective)
    cached_backward(objective, micro_batches(batch, size))
    for key, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, whole[key], atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "mixture"])
def test_pieces_hold_all_rows_and_the_texts_of_their_own(toy_bank: TextBank, name: str) -> None:
    objective, samples = EVERY[name](toy_bank, 2)
    batch: Batch = objective.collate(samples)
    pieces = micro_batches(batch, 2)
    assert max(len(piece.image) for piece in pieces) <= 2
    assert torch.equal(torch.cat([piece.image for piece in pieces]), batch.image)  # pyright: ignore
    assert torch.equal(torch.cat([piece.text_id for piece in pieces]), batch.text_id)
    for piece in pieces:
        wanted = piece.text_id[piece.text_id >= 0]
        assert torch.equal(piece.pool_ids[positions(wanted, piece.pool_ids)], wanted)
        assert len(piece.pool) == len(piece.pool_ids) < len(batch.pool_ids)
        if isinstance(piece, StudyBatch) and len(piece):
            assert 0 <= int(piece.study_index.min()) <= int(piece.study_index.max()) < len(piece.image)


class Alone(Objective):
    """A loss that looks at each row alone."""

    batch_coupled = False

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def collate(self, samples: Any, context: StepContext = START) -> Any:
        return samples

    def encode(self, batch: Any) -> Features:
        return {"out": self.net(batch)}

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:
        return {"square": features["out"].square().mean()}, {"rows": float(len(features["out"]))}


def test_losses_of_rows_alone_are_added_up() -> None:
    torch.manual_seed(0)
    objective, rows = Alone(), torch.randn(7, 3)
    losses, _ = objective(rows)
    total(losses).backward()
    whole = gradients(objective)
    found, _ = accumulated_backward(objective, [rows[:4], rows[4:6], rows[6:]])
    torch.testing.assert_close(found["square"], losses["square"].detach())
    for key, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, whole[key])
