"""Whole objectives on two ranks, also with GradCache, give the gradient of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ctglip.data.samples import OrganSample
from ctglip.features.text_bank import TextBank
from ctglip.objectives.base import Objective, total
from ctglip.objectives.text_contrast import OrganText
from ctglip.training.gradcache import cached_backward
from tests.objectives.conftest import ToyEncoder
from tests.objectives.toys import EVERY, IMAGES_ALONE, organ_samples, organ_text

OTHERS = (
    "organ_text, mask",
    "organ_query, crop",
    "organ_query, box",
    "global_pair",
    "global_pair, sigmoid",
    "asg, query",
    "imitate",
    "place",
    "mixture",
    *IMAGES_ALONE,
)
CUTS = (3, 5)
"""Rank 0 takes so many of the eight samples; of the second cut's rank 1 nothing is said."""


def made(folder: Path, chunk: int | None) -> tuple[OrganText, list[OrganSample]]:
    bank = TextBank(folder, ToyEncoder())  # pyright: ignore[reportArgumentType]
    samples = organ_samples(bank)
    return organ_text(bank, 3, chunk=chunk).double(), samples


def silenced(samples: list[OrganSample], cut: int) -> list[OrganSample]:
    return [replace(s, text_id=-1) if cut == CUTS[1] and i >= cut else s for i, s in enumerate(samples)]


def other(folder: Path, name: str) -> tuple[Objective, Any]:
    """An objective of another kind and its samples."""
    bank = TextBank(folder, ToyEncoder())  # pyright: ignore[reportArgumentType]
    objective, samples = IMAGES_ALONE[name](2) if name in IMAGES_ALONE else EVERY[name](bank, 2)
    return objective.double(), samples


def share(samples: Any, rank: int) -> Any:
    """Three samples (of each part) for rank 0, the others for rank 1."""
    if isinstance(samples, dict):
        return {name: share(some, rank) for name, some in samples.items()}
    return samples[:3] if rank == 0 else samples[3:]


def gradient(objective: Objective) -> torch.Tensor:
    rows = [torch.zeros_like(p) if p.grad is None else p.grad for p in objective.parameters()]
    return torch.cat([row.flatten() for row in rows])


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for cut in CUTS:
        for cached in (False, True):
            objective, samples = made(Path(folder) / f"bank{rank}", chunk=2 if cached else None)
            mine = silenced(samples, cut)[slice(0, cut) if rank == 0 else slice(cut, None)]
            if cached:
                cached_backward(objective, [objective.collate(mine[i : i + 2]) for i in range(0, len(mine), 2)])
            else:
                total(objective(objective.collate(mine))[0]).backward()
            value = gradient(objective)
            dist.all_reduce(value)
            if rank == 0:
                torch.save(value / 2, Path(folder) / f"{cut}-{cached}.pt")
    for name in OTHERS:
        objective, samples = other(Path(folder) / f"bank{rank}", name)
        total(objective(objective.collate(share(samples, rank)))[0]).backward()
        value = gradient(objective)
        dist.all_reduce(value)
        if rank == 0:
            torch.save(value / 2, Path(folder) / f"{name}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("objectives")
    mp.start_processes(worker, args=(str(folder),), nprocs=2, start_method="spawn")
    return folder


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("cut", CUTS)
def test_two_ranks_give_the_gradient_of_one(folder, tmp_path, cut, cached):
    objective, samples = made(tmp_path, chunk=None)
    total(objective(objective.collate(silenced(samples, cut)))[0]).backward()
    theirs = torch.load(folder / f"{cut}-{cached}.pt", weights_only=True)
    torch.testing.assert_close(theirs, gradient(objective), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_objective_does_too(folder, tmp_path, name):
    objective, samples = other(tmp_path, name)
    total(objective(objective.collate(samples))[0]).backward()
    theirs = torch.load(folder / f"{name}.pt", weights_only=True)
    torch.testing.assert_close(theirs, gradient(objective), atol=1e-9, rtol=0)
