"""The processes that train together, and nothing else knows how: ``torchrun``, Ray Train, or one process alone.

Every rank draws the same global batch and works on its slice; losses gather across ranks, and gradients are averaged,
so N ranks take the step that one process takes on the whole batch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctglip.errors import ConfigError, CTGLIPError, ModelError
from ctglip.training.heartbeat import heartbeat

T = TypeVar("T")
PATIENCE = timedelta(hours=1)
"""How long a rank waits for another: one may find texts embedded and crops cut that the next has yet to make."""


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that train together.

    Attributes:
        rank: its number; rank 0 writes.
        world: how many there are.
        device: where it computes: ``cpu``, ``cuda``, or ``cuda:2`` for the third process of a machine.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """This is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """One of the ranks says yes."""
        if self.world == 1:
            return flag
        flags = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def shared(self, make: Callable[[], T]) -> list[T]:
        """What every rank makes, in the order of the ranks, on every rank.

        Raises:
            Exception: what one of them met, on all of them: none waits for one that has ended.
        """
        if self.world == 1:
            return [make()]
        mine: tuple[T | None, Exception | None]
        try:
            mine = make(), None
        except CTGLIPError as error:
            mine = None, error
        except Exception as error:  # noqa: BLE001  (the others must hear of it; not every exception travels)
            mine = None, ModelError(f"Rank {self.rank} met {type(error).__name__}: {error}", code="rank")
        every: list[Any] = [None] * self.world
        dist.all_gather_object(every, mine)
        for _, error in every:
            if error is not None:
                raise error
        return [value for value, _ in every]

    def share(self, items: Sequence[T]) -> list[T]:
        """Those of some items that this rank works on."""
        return list(items[self.rank :: self.world])

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Numbers of all ranks, averaged by name; a rank that has none of a name, or no number, is left out."""
        if self.world == 1:
            return values
        every: list[Any] = [None] * self.world
        dist.all_gather_object(every, values)
        names = dict.fromkeys(name for one in every for name in one)
        found = {name: [one[name] for one in every if one.get(name) == one.get(name, np.nan)] for name in names}
        return {name: float(np.mean(some)) if some else float("nan") for name, some in found.items()}

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """What DDP does, for backward passes that do not go through it: mean over ranks, in place.

        A parameter that has a gradient on some ranks only counts as zero on the others.
        """
        if self.world == 1:
            return
        learned = [p for p in parameters if p.requires_grad]
        there = torch.tensor([p.grad is not None for p in learned], dtype=torch.int32, device=self.device)
        dist.all_reduce(there, dist.ReduceOp.MAX)
        used = [p for p, is_used in zip(learned, there.tolist(), strict=True) if is_used]
        for p in used:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        for kind in {p.dtype for p in used}:
            gradients = [p.grad for p in used if p.dtype == kind and p.grad is not None]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.world
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module in DDP where there are several ranks."""
        if self.world == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)

    def seed(self, seed: int, step: int) -> None:
        """Make torch's random numbers in a step (dropout) a function of seed, step and rank: they need no saving.

        The two generators that count are set: ``torch.manual_seed`` sets all there are, which costs a small step as
        much time as its arithmetic.
        """
        number = int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(number)
        if self.device.startswith("cuda"):
            torch.cuda.manual_seed(number)


@contextmanager
def joined(device: str) -> Iterator[DistributedContext]:
    """This process's place: a process group that is there (Ray Train's), torchrun's, or alone.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: code ``ranks``: more processes on a machine than it has GPUs.
    """
    if dist.is_available() and dist.is_initialized():
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), _rank_device(device))
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield DistributedContext(device=device)
        return
    rank_device = _rank_device(device)
    dist.init_process_group("nccl" if rank_device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        with heartbeat(dist.get_rank(), world):
            yield DistributedContext(dist.get_rank(), world, rank_device)
    finally:
        dist.destroy_process_group()


def _rank_device(device: str) -> str:
    if device == "cpu" or torch.cuda.device_count() == 0:
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if dist.is_initialized():  # Ray shows each worker its own GPUs and has chosen one
        local = torch.cuda.current_device()
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"Process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}.",
            code="ranks",
            fix="Start as many processes as there are GPUs (torchrun --nproc-per-node), or set loop.device=cpu.",
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def share_batch_statistics(module: nn.Module, ranks: DistributedContext) -> None:
    """Turn every batch normalisation below ``module`` into one over the batches of all ranks, in place.

    Raises:
        ModelError: code ``batch_statistics``: CPU ranks cannot share them.
    """
    found = [name for name, part in module.named_modules() if isinstance(part, _BatchNorm)]
    if ranks.world == 1 or not found:
        return
    if not ranks.device.startswith("cuda"):
        raise ModelError(
            f"{found[0]} normalises over the batch, which several processes can share on GPUs alone.",
            code="batch_statistics",
            fix="Choose group or layer normalisation (resnet: norm: group), or one process.",
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(module)
