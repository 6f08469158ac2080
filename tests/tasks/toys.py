"""Bags of made-up organs with a planted truth, and studies around them."""

from __future__ import annotations

import numpy as np
import torch

from ctglip.tasks.head import BagHead
from ctglip.tasks.inputs import Kept
from ctglip.tasks.studies import Bags, Studies
from ctglip.tasks.targets import Task

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right")


def planted(
    tasks: tuple[Task, ...], studies: int = 120, dim: int = 8, carrier: int = 2, seed: int = 0
) -> tuple[Studies, Kept]:
    """Four organs a study; the first feature of the carrier says the answer of every task, all else is noise.

    The other organs' first features vary as much, so the mean over organs hides most of it.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(studies, len(ORGANS), dim)).astype(np.float32)
    features[:, :, 0] *= 3
    truth = features[:, carrier, 0]
    columns = []
    for task in tasks:
        if task.classes:
            edges = np.quantile(truth, np.linspace(0, 1, len(task.classes) + 1)[1:-1])
            columns.append(np.digitize(truth, edges))
        else:
            columns.append(truth > 0.5)
    splits = np.where(np.arange(studies) % 5 == 3, "val", np.where(np.arange(studies) % 5 == 4, "test", "train"))
    names = tuple(f"s{number:03d}" for number in range(studies))
    bags = Bags(np.repeat(np.arange(studies), len(ORGANS)), np.tile(np.arange(len(ORGANS)), studies), ORGANS)
    values = np.stack(columns, axis=1).astype(np.float32)
    found = Studies(tasks, names, values, tuple(f"p{name}" for name in names), tuple(splits.tolist()), ())
    return found, Kept(bags, torch.from_numpy(features.reshape(-1, dim)))


class Plain(torch.nn.Module):
    """A network without a tower: the head reads kept features."""

    space = "raw"

    def __init__(self, head: BagHead) -> None:
        super().__init__()
        self.head = head

    def read(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    def forward(self, inputs: torch.Tensor, organ: torch.Tensor, study: torch.Tensor, studies: int):
        return self.head(inputs, organ, study, studies)
