"""A text bank over a toy text encoder."""

from __future__ import annotations

import hashlib

import pytest
import torch

from ctglip.features.text_bank import TextBank


class ToyEncoder:
    """A fixed random direction for each text."""

    dim, hash, trainable = 12, "toy", False

    def encode(self, texts, batch_size=64, progress=None):
        seeds = [int.from_bytes(hashlib.md5(text.encode()).digest()[:4], "big") for text in texts]
        rows = [torch.randn(self.dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows)


@pytest.fixture
def bank(tmp_path) -> TextBank:
    return TextBank(tmp_path, ToyEncoder())  # pyright: ignore[reportArgumentType]
