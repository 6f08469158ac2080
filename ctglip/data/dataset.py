"""What all datasets share with torch's: rows, batches of rows for a ``DataLoader``, and how samples become a batch.

>>> data = OrganDataset(store, "train", organs, abnormalities, CropDataSettings())
>>> loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=2, collate_fn=data.collate)
>>> for batch in loader:
...     batch["image"], batch["text"]

Training itself asks for the batch of a step (``batch``): a function of the seed and the step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from ctglip.data.caption_tables import Taught
from ctglip.data.samples import NO_TEXT
from ctglip.types import Failure

S = TypeVar("S")
LoaderBatch = dict[str, Any]
"""What ``collate`` gives: tensors, and lists where a column holds words."""
TextIds = Callable[[Sequence[str]], Sequence[int]]


class TextDataset(Dataset[S]):
    """Images with texts, by row; works in worker processes, forked or spawned.

    What is random of a sample (its text, its augmentation) comes from torch's generator: ``torch.manual_seed`` decides
    it, ``DataLoader(generator=...)`` in worker processes. What ``failures`` counts in a worker stays there.

    Attributes:
        texts: every text that can be drawn.
        text_ids: the number that samples have for each, and ``NO_TEXT`` at the end.
        taught: which organs and abnormalities.
        keys: what each text key stands for, where texts are of one organ: it and what is affirmed of it.
    """

    texts: Sequence[str]
    text_ids: Int[np.ndarray, " n"]
    taught: Taught
    keys: tuple[tuple[str, frozenset[str]], ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def failures(self) -> Sequence[Failure]:
        """Studies that could not be read so far."""

    @abstractmethod
    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[S]:
        """A rank's share of the samples of a step: the same for the same seed, whatever came before."""

    @abstractmethod
    def studies(self, step: int) -> list[str]:
        """The studies of a step's batch, of all ranks."""

    @abstractmethod
    def sampled(self, rows: Sequence[int], seed: int) -> list[S]:
        """Samples of some rows, all chance from a seed; those that cannot be read are left out.

        Raises:
            StoreError: code ``damaged_store``: none of them can be read.
        """

    @abstractmethod
    def collate(self, samples: Sequence[S]) -> LoaderBatch:
        """Samples as one batch on the CPU, for ``DataLoader(collate_fn=...)``."""

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
        order, numbers = self._by_id
        found = np.minimum(np.searchsorted(numbers, np.asarray(ids)), len(order) - 1)
        pairs = zip(np.asarray(ids).tolist(), found.tolist(), strict=True)
        return [self.texts[int(order[row])] if numbers[row] == one != NO_TEXT else None for one, row in pairs]

    @cached_property
    def _by_id(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The texts, and ``NO_TEXT``, in the order of their numbers, and the numbers."""
        order = np.argsort(self.text_ids, kind="stable")
        return order, self.text_ids[order]


def number_texts(texts: Sequence[str], text_ids: TextIds | None) -> Int[np.ndarray, " n"]:
    """The number of each text, and ``NO_TEXT`` at the end, where ``NO_TEXT`` as an index finds it.

    Args:
        text_ids: numbers texts, as the text bank does; by their place in the list where there is none.
    """
    numbers = range(len(texts)) if text_ids is None else text_ids(texts)
    return np.append(np.asarray(numbers, dtype=np.int64), NO_TEXT)


def names_of(ids: Tensor, numbered: Mapping[str, int]) -> list[str]:
    """The names that some numbers stand for."""
    name = {number: name for name, number in numbered.items()}
    return [name[int(number)] for number in ids]
