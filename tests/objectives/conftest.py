"""Toy organ samples, 2D and 3D: what is in the image is what the text says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ctglip.features.text_bank import TextBank


@dataclass(frozen=True)
class Sample:
    image: np.ndarray
    mask: np.ndarray
    size: np.ndarray
    organ_id: int
    study_index: int
    text_id: int
    text_key: int
    negative_ids: np.ndarray


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


def toy_samples(bank: TextBank, dims: int, count: int = 8, negatives: int = 3, organs: int = 2) -> list[Sample]:
    """Sample i holds a random pattern and the text "finding i"; organ i % organs."""
    rng = np.random.default_rng(0)
    texts = bank.ids([f"finding {i}" for i in range(count)]).tolist()
    others = bank.ids([f"never {i}" for i in range(5)]).tolist()
    samples = []
    for i in range(count):
        mask = np.zeros((1, *[16] * dims), np.float32)
        mask[(0, *[slice(2, 14)] * dims)] = 1
        chosen = rng.choice([*others, -1], size=negatives, replace=False)
        image = rng.standard_normal((2, *[16] * dims)).astype(np.float32) + i % organs
        size = rng.standard_normal(4).astype(np.float32)
        samples.append(Sample(image, mask, size, i % organs, i // organs, texts[i], texts[i], chosen))
    return samples
