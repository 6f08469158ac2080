"""The tests as another machine would run them: other seeds, initial weights a hair off, another number of threads.

Rounding differs between processors, and training carries it on: after some hundred steps two machines hold different
weights. ``pytest --seed-shift 3 --perturb 1e-6 --threads 2`` gives such a machine; nothing is changed without them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def perturb(patch: pytest.MonkeyPatch, shift: int, size: float, threads: int) -> None:
    """Change what ``patch`` undoes; 0 leaves the seeds, the weights, or the threads of torch as they are."""
    if shift:
        _shift_seeds(patch, shift)
    if size:
        _perturb_weights(patch, size)
    if threads:
        _hold_threads(patch, threads)


def _shift_seeds(patch: pytest.MonkeyPatch, by: int) -> None:
    """numpy's generators and torch's global one, wherever a test or the package seeds them."""
    import numpy as np
    import torch

    plain_rng, plain_seed = np.random.default_rng, torch.manual_seed

    def default_rng(seed: Any = None) -> np.random.Generator:
        if seed is None or isinstance(seed, (np.random.SeedSequence, np.random.BitGenerator, np.random.Generator)):
            return plain_rng(seed)
        return plain_rng([by, *(seed if isinstance(seed, Iterable) else [seed])])

    def manual_seed(seed: int) -> torch.Generator:
        return plain_seed((int(seed) + by * 1_000_003) % 2**63)

    patch.setattr(np.random, "default_rng", default_rng)
    patch.setattr(torch, "manual_seed", manual_seed)


def _perturb_weights(patch: pytest.MonkeyPatch, size: float) -> None:
    """Every weight handed to an optimizer is multiplied by 1 ± ``size``, the same way each time."""
    import torch

    plain = torch.optim.Optimizer.add_param_group

    def add_param_group(self: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        plain(self, group)
        noise = torch.Generator().manual_seed(int(size * 1e12))
        with torch.no_grad():
            for weight in self.param_groups[-1]["params"]:
                signs = torch.randint(0, 2, weight.shape, generator=noise) * 2 - 1
                weight.mul_(1 + size * signs.to(weight.device, weight.dtype))

    patch.setattr(torch.optim.Optimizer, "add_param_group", add_param_group)


def _hold_threads(patch: pytest.MonkeyPatch, count: int) -> None:
    """Torch computes on this many threads, whatever a config asks for."""
    import torch

    torch.set_num_threads(count)
    patch.setattr(torch, "set_num_threads", lambda _: None)
