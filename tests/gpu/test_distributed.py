"""Processes that share one GPU (gloo moves what they gather): the gradient of one process on the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

import tests.gpu.bare  # noqa: F401  (before the losses)
from ctglip.losses.contrastive import soft_contrastive
from ctglip.losses.targets import equal_key

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
ROWS, DIM, CUTS = 24, 32, {2: (15,), 3: (8, 8)}


def gradient(rows: slice, gather: bool) -> tuple[Tensor, Tensor]:
    """Loss and gradient of two linear towers in bfloat16 autocast."""
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(ROWS, DIM, generator=generator).cuda()[rows] for _ in range(2))
    towers = [torch.randn(DIM, DIM, generator=generator).cuda().requires_grad_() for _ in range(2)]
    key = (torch.arange(ROWS) % 9).cuda()[rows]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        query, against = (F.normalize(x.float() @ w, dim=1) for x, w in zip((image, text), towers, strict=True))
        loss = soft_contrastive(
            query, against, torch.tensor(10.0, device="cuda"), target=equal_key, context=key, gather=gather, chunk=4
        )
    loss.backward()
    return loss.detach(), torch.cat([tower.grad.flatten() for tower in towers if tower.grad is not None])


def worker(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting{world}", rank=rank, world_size=world)
    cuts = [0, *torch.tensor(CUTS[world]).cumsum(0).tolist(), ROWS]
    found = gradient(slice(cuts[rank], cuts[rank + 1]), gather=True)
    for value in found:
        dist.all_reduce(value)
        value /= world
    if rank == 0:
        torch.save([value.cpu() for value in found], Path(folder) / f"world{world}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", list(CUTS))
def test_ranks_give_the_gradient_of_one_process(tmp_path, world):
    mp.start_processes(worker, args=(world, str(tmp_path)), nprocs=world, start_method="spawn")
    theirs = torch.load(tmp_path / f"world{world}.pt", weights_only=True)
    for mine, their in zip(gradient(slice(0, ROWS), gather=False), theirs, strict=True):
        torch.testing.assert_close(their, mine.cpu(), atol=2e-2, rtol=2e-2)
