"""Lists of different lengths, and texts, as two arrays each: all that is in them in a row, and where each ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np

from ctglip.data.derived import Arrays


class Ragged:
    """Lists of whole numbers.

    Args:
        arrays: holds ``<name>`` and ``<name>_ends``.
        name: of these lists.
    """

    def __init__(self, arrays: Arrays, name: str) -> None:
        self.values = arrays[name]
        self.ends = arrays[f"{name}_ends"]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> list[int]:
        return self.values[self.ends[row] : self.ends[row + 1]].tolist()

    @property
    def counts(self) -> np.ndarray:
        """How long each is."""
        return np.diff(self.ends)


def ragged(name: str, lists: Iterable[Sequence[int]]) -> dict[str, np.ndarray]:
    """The arrays of some lists."""
    lists = list(lists)
    ends = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return {name: np.fromiter(chain.from_iterable(lists), np.int32, int(ends[-1])), f"{name}_ends": ends}


class TextTable(Sequence[str]):
    """Texts, decoded when they are asked for.

    Args:
        arrays: holds ``texts`` and ``texts_ends``.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._bytes, self._ends = arrays["texts"], arrays["texts_ends"]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return self._bytes[self._ends[row] : self._ends[row + 1]].tobytes().decode("utf-8", "surrogatepass")


def text_arrays(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of some texts."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {"texts": np.frombuffer(b"".join(encoded), dtype=np.uint8), "texts_ends": ends}


def packed_json(value: Any) -> np.ndarray:
    """Plain data as an array."""
    return np.frombuffer(json.dumps(value, separators=(",", ":")).encode(), dtype=np.uint8)


def unpacked_json(array: np.ndarray) -> Any:
    """The data that ``packed_json`` made an array of."""
    return json.loads(array.tobytes())
