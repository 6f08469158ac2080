"""What all datasets share with torch's: rows, batches of rows for a ``DataLoader``, and how samples become a batch.

>>> data = OrganDataset(store, "train", organs, abnormalities, DataSettings())
>>> loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=2, collate_fn=data.collate)
>>> for batch in loader:
...     batch["image"], batch["text"]

Training itself asks for the batch of a step (``batch``, ``samples``): a function of the seed and the step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ctglip.data.samples import NO_TEXT

S = TypeVar("S")
Batch = dict[str, Any]
"""What ``collate`` gives: tensors, and lists where a column holds words."""


class TextDataset(Dataset[S]):
    """Images with texts, by row; works in worker processes, forked or spawned.

    What is random of a sample (its text, its augmentation) comes from torch's generator: ``torch.manual_seed`` decides
    it, ``DataLoader(generator=...)`` in worker processes. What ``failures`` counts in a worker stays there.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sampled(self, rows: Sequence[int], seed: int) -> list[S]:
        """Samples of some rows, all chance from a seed; those that cannot be read are left out.

        Raises:
            StoreError: code ``damaged_store``: none of them can be read.
        """

    @abstractmethod
    def collate(self, samples: Sequence[S]) -> Batch:
        """Samples as one batch on the CPU, for ``DataLoader(collate_fn=...)``."""

    @abstractmethod
    def _words(self) -> tuple[Sequence[str], Sequence[int] | np.ndarray]:
        """Every text that can be drawn, and the number that samples have for each."""

    def __getitem__(self, row: int) -> S:
        """One sample; a negative row counts from the end.

        Raises:
            IndexError: there is no such row.
            StoreError: code ``damaged_store``: it cannot be read.
        """
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[S]:
        """The samples of a batch, read together, as a ``DataLoader`` asks for them."""
        there = range(len(self))
        return self.sampled([there[row] for row in rows], int(torch.randint(2**62, ())))

    def text_of(self, ids: Sequence[int] | np.ndarray | Tensor) -> list[str | None]:
        """The texts that samples name by number; None where there is none."""
        texts, numbers = self._words()
        known = {int(number): text for number, text in zip(numbers, texts, strict=False)}
        return [None if int(number) == NO_TEXT else known[int(number)] for number in ids]


def stack(samples: Sequence[Any], name: str) -> Tensor:
    """An attribute that has one shape in all samples, ``[b, ...]``."""
    return torch.stack([torch.as_tensor(getattr(sample, name)) for sample in samples])


def numbers(samples: Sequence[Any], names: Sequence[str]) -> dict[str, Tensor]:
    """Whole numbers, one of each sample."""
    return {name: torch.tensor([int(getattr(sample, name)) for sample in samples]) for name in names}


def join(samples: Sequence[Any], names: Sequence[str]) -> dict[str, Tensor]:
    """Attributes with a row for each organ, one sample's after the other's."""
    return {name: torch.cat([torch.as_tensor(getattr(sample, name)) for sample in samples]) for name in names}


def owners(counts: Sequence[int]) -> Tensor:
    """For each organ the place of its image in the batch."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.long))


def names_of(ids: Tensor, numbered: Mapping[str, int]) -> list[str]:
    """The names that some numbers stand for."""
    name = {number: name for name, number in numbered.items()}
    return [name[int(number)] for number in ids]
