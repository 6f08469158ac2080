"""Tables that others published, as data with their sources: ``evaluation/published/*.yaml``."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import model_validator

from ctglip.config import Settings, validate
from ctglip.files import read_yaml

_FOLDER = Path(__file__).parent / "published"


class PublishedRow(Settings):
    """One model: its numbers for each column, one for each share.

    Attributes:
        model: as the source calls it.
        values: by the key of the column.
        source: where this row was read, if not where the table was.
    """

    model: str
    values: dict[str, tuple[float, ...]]
    source: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, tree: Any) -> Any:
        """Columns stand beside the model's name in the file."""
        if not isinstance(tree, dict) or "values" in tree:
            return tree
        named = {name: tree[name] for name in ("model", "source") if name in tree}
        return {**named, "values": {name: value for name, value in tree.items() if name not in named}}


class PublishedTable(Settings):
    """One published table.

    Attributes:
        name: heading.
        task: what was done: linear_probe, segmentation, fine_tuning, ablation, five_by_200.
        unit: of the numbers.
        shares: what a column's numbers are for: percent of the labels, or k.
        columns: key to heading.
        source: where all rows were read that do not say otherwise.
        rows: one for each model.
    """

    name: str
    task: str
    unit: str
    shares: tuple[int, ...]
    columns: dict[str, str]
    source: str
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _complete(self) -> PublishedTable:
        for row in self.rows:
            if row.values.keys() != self.columns.keys() or any(len(v) != len(self.shares) for v in row.values.values()):
                raise ValueError(f"{row.model}: expected {len(self.shares)} numbers each for {', '.join(self.columns)}")
        return self

    def source_of(self, row: PublishedRow) -> str:
        """Where a row was read."""
        return row.source or self.source


@functools.cache
def published_tables() -> dict[str, PublishedTable]:
    """Every shipped table by its file's name."""
    return {path.stem: validate(PublishedTable, read_yaml(path), str(path)) for path in sorted(_FOLDER.glob("*.yaml"))}
