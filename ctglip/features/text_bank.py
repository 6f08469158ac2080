"""Embeddings of texts under a frozen encoder: computed once, kept on disk, read by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from ctglip.models.text import TextEncoder


class TextBank:
    """A memory-mapped table of text embeddings in ``folder/<encoder hash>/``.

    An index stays the same for ever; texts are only ever added. Safe for several processes.
    """

    def __init__(self, folder: Path, encoder: TextEncoder) -> None:
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def ids(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Int[Tensor, " n"]:
        """The index of each text; texts not yet there are encoded and added."""
        raise NotImplementedError

    def vectors(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """The raw embeddings (float32, CPU) of some indices."""
        raise NotImplementedError
