"""Golden numbers, as float64 tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

PARITY = Path(__file__).resolve().parents[1] / "parity"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    def read(name: str) -> dict[str, Tensor]:
        with np.load(PARITY / f"{name}.npz") as arrays:
            return {key: torch.as_tensor(arrays[key]) for key in arrays.files}

    return read


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(query, dim=1), torch.nn.functional.normalize(key, dim=1)
