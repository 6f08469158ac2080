"""The organ instances of studies as arrays: a study and an organ of the dictionary in each row, with its box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import polars as pl
from jaxtyping import Int

from ctglip.data.crops import CropSettings
from ctglip.data.derived import Arrays
from ctglip.data.samples import OrganInstance
from ctglip.store.tables import Store
from ctglip.types import OrganRow

_EDGES = ("x0", "x1", "y0", "y1", "z0", "z1")
_COLUMNS = {"volume_ml": np.float64, "mean_hu": np.float64, "sd_hu": np.float64, "touches_border": np.bool_}


class InstanceTable(Sequence[OrganInstance[OrganRow]]):
    """Organ instances, study by study; a row becomes an object when it is asked for.

    Args:
        study_ids, organs: what ``study`` and ``organ`` count through.
        arrays: ``study``, ``organ``, ``box`` and the other columns of the organ table.
    """

    def __init__(self, study_ids: Sequence[str], organs: Sequence[str], arrays: Arrays) -> None:
        self.study_ids, self.organs, self.arrays = study_ids, tuple(organs), arrays
        self.study: Int[np.ndarray, " n"] = arrays["study"]
        self.organ: Int[np.ndarray, " n"] = arrays["organ"]

    def __len__(self) -> int:
        return len(self.study)

    @overload
    def __getitem__(self, row: int) -> OrganInstance[OrganRow]: ...
    @overload
    def __getitem__(self, row: slice) -> list[OrganInstance[OrganRow]]: ...
    def __getitem__(self, row: int | slice) -> OrganInstance[OrganRow] | list[OrganInstance[OrganRow]]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        volume_ml, mean_hu, sd_hu, touches_border = (self.arrays[name][row].item() for name in _COLUMNS)
        x0, x1, y0, y1, z0, z1 = self.arrays["box"][row].tolist()
        return OrganInstance(
            self.study_ids[int(self.study[row])],
            OrganRow(
                self.organs[int(self.organ[row])], (x0, x1, y0, y1, z0, z1), volume_ml, mean_hu, touches_border,
                None if np.isnan(sd_hu) else sd_hu,
            ),
        )  # fmt: skip

    @property
    def studies(self) -> list[str]:
        """The studies that have any."""
        return [self.study_ids[int(number)] for number in np.unique(self.study)]

    def take(self, rows: Int[np.ndarray, " m"]) -> InstanceTable:
        """Some rows."""
        return InstanceTable(self.study_ids, self.organs, {name: column[rows] for name, column in self.arrays.items()})


def instance_arrays(
    store: Store, study_ids: Sequence[str], organs: Sequence[str], settings: CropSettings
) -> dict[str, np.ndarray]:
    """The columns of an ``InstanceTable``: the wanted organs that are present in some studies, study by study.

    Args:
        study_ids: none twice.
        organs: names; the order within a study is theirs.
        settings: ``truncated`` decides about organs that the field of view cuts off.
    """
    rows = store.scan("organs").filter(pl.col("organ").is_in(list(organs)), pl.col("study_id").is_in(list(study_ids)))
    table = (rows if settings.truncated == "keep" else rows.filter(~pl.col("touches_border"))).collect()
    numbered = (
        pl.DataFrame({column: names, number: np.arange(len(names), dtype=kind)}, schema_overrides={column: pl.String})
        for column, number, names, kind in (
            ("study_id", "study", study_ids, np.int32),
            ("organ", "number", organs, np.int16),
        )
    )
    for numbers in numbered:
        table = table.join(numbers, on=numbers.columns[0])
    table = table.sort("study", "number", maintain_order=True)
    columns = {
        name: table[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        if name in table.columns  # tables of before have fewer
        else np.full(table.height, np.nan)
        for name in _COLUMNS
    }
    return {
        "study": table["study"].to_numpy(),
        "organ": table["number"].to_numpy(),
        "box": np.column_stack([table[edge].to_numpy() for edge in _EDGES]).astype(np.int32),
        **{name: columns[name].astype(kind) for name, kind in _COLUMNS.items()},
    }
