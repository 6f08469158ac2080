"""The cohort table: what a user hands in, one row a study.

A row that cannot be used becomes a ``Failure``; only a table that cannot be read at all is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ctglip.errors import CohortError, CTGLIPError
from ctglip.files import check_id, read_yaml
from ctglip.table_files import read_table, require_columns
from ctglip.types import Failure, ModalityName, Report, ScanHeader

REQUIRED = ("study_id", "patient_id", "image")
OPTIONAL = (
    "masks", "report", "findings", "impression", "report_path", "modality", "view", "regions", "split", "age", "sex",
    "scanner", "numbering", "hu_slope", "hu_intercept", "affine", "organ_text", "phase", "localization",
)  # fmt: skip
SPLITS = ("train", "val", "test")
_PATHS = frozenset({"image", "masks", "report_path", "regions", "organ_text", "localization"})
_SLICE = 5000
"""Rows that are made of a table at a time."""


class CohortRow(BaseModel):
    """One study of a cohort. Paths are absolute; ids are strings as written.

    ``report`` holds a whole report, ``findings`` and ``impression`` its sections where the table has them apart;
    ``numbering`` says what the numbers of multilabel masks mean, where the recipe does not hold for them. ``hu_slope``
    and ``hu_intercept`` are for scans that are stored as other numbers than HU and whose header does not say so,
    ``affine`` (12 numbers, the upper three rows of voxel index to RAS+ millimetres) for those whose header is blank.
    ``phase`` is that of the contrast agent, where it is known.
    ``organ_text`` is a table of sentences or findings by organ, ``localization`` one of findings that others drew; most
    often each is one for all studies.
    """

    model_config = ConfigDict(frozen=True)

    study_id: str
    patient_id: str
    image: Path
    masks: Path | None = None
    report: str | None = None
    findings: str | None = None
    impression: str | None = None
    report_path: Path | None = None
    modality: ModalityName = "ct"
    view: str | None = None
    regions: Path | None = None
    split: str | None = None
    age: float | None = None
    sex: str | None = None
    scanner: str | None = None
    numbering: str | None = None
    hu_slope: float | None = Field(default=None, allow_inf_nan=False)
    hu_intercept: float | None = Field(default=None, allow_inf_nan=False)
    affine: tuple[float, ...] | None = Field(default=None, min_length=12, max_length=12)
    organ_text: Path | None = None
    phase: str | None = None
    localization: Path | None = None

    @field_validator("affine", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    def scan_header(self) -> ScanHeader | None:
        """What the row says of its scan in place of the scan's header; None where it says nothing."""
        if self.hu_slope is None and self.hu_intercept is None and self.affine is None:
            return None
        affine = None if self.affine is None else np.array([*self.affine, 0, 0, 0, 1], np.float64).reshape(4, 4)
        slope = 1.0 if self.hu_slope is None else self.hu_slope
        return ScanHeader(slope, self.hu_intercept or 0.0, affine)

    def sections(self) -> Report | None:
        """The report's sections where the table gives them apart, else None."""
        if self.findings is None and self.impression is None:
            return None
        return Report(findings=self.findings, impression=self.impression)


class CohortRows(Sequence[CohortRow]):
    """The rows of a cohort that can be worked on, each made when it is asked for: of a million rows the table alone is
    kept.

    Args:
        table: their cells as text, checked before.
        folder: what relative paths are relative to.
    """

    def __init__(self, table: pl.DataFrame, folder: Path) -> None:
        self.table = table
        self._folder = folder

    def __len__(self) -> int:
        return self.table.height

    @overload
    def __getitem__(self, index: int) -> CohortRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[CohortRow, ...]: ...
    def __getitem__(self, index: int | slice) -> CohortRow | tuple[CohortRow, ...]:
        if isinstance(index, slice):
            return tuple(_valid_row(record, self._folder) for record in self.table[index].to_dicts())
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return _valid_row(self.table.row(index, named=True), self._folder)

    def __iter__(self) -> Iterator[CohortRow]:
        for record in _records(self.table):
            yield _valid_row(record, self._folder)

    def with_organ_text(self, path: Path) -> CohortRows:
        """The same with an organ text for those that name none."""
        known = pl.col("organ_text") if "organ_text" in self.table.columns else pl.lit(None, pl.String)
        return CohortRows(self.table.with_columns(known.fill_null(str(path)).alias("organ_text")), self._folder)


@dataclass(frozen=True)
class Cohort:
    """A cohort as read: the rows that can be worked on, and those that cannot with their reasons."""

    path: Path
    rows: CohortRows
    bad: tuple[Failure, ...]
    columns: tuple[str, ...] = ()

    @property
    def has_reports(self) -> bool:
        """Whether the table has a column for reports, so that a row without one lacks something."""
        return not {"report", "findings", "impression", "report_path"}.isdisjoint(self.columns)

    def tables_in(self, column: Literal["organ_text", "localization"]) -> dict[Path, set[str]]:
        """The tables that rows name in a column, each with the ids of the studies that name it."""
        found: dict[Path, set[str]] = {}
        for row in self.rows if column in self.rows.table.columns else ():
            path: Path | None = getattr(row, column)
            if path is not None:
                found.setdefault(path, set()).add(row.study_id)
        return found


def read_cohort(path: Path, columns: Path | None = None, reports_alone: bool = False) -> Cohort:
    """Read a cohort table (``table_files.read_table``; one row a study).

    Args:
        path: the table; relative paths in it are relative to its folder.
        columns: optional YAML column map, ``our_name: their_name``, for tables with other headings.
        reports_alone: only the reports are read, so that patients and images may be missing; the study's id then
            stands for both.

    Raises:
        CohortError: no such table, a required column is missing, or it has no row.
    """
    table = read_table(path)
    if columns is not None:
        table = _rename(table, columns)
    if reports_alone and "study_id" in table.columns:
        table = table.with_columns(_filled(table, name) for name in REQUIRED[1:])
    require_columns(path, table, REQUIRED, "Add it, or name it in a YAML column map (our_name: their_name).")
    known = [name for name in (*REQUIRED, *OPTIONAL) if name in table.columns]
    table = table.select(known)
    if table.is_empty():
        raise CohortError(
            f"{path} has headings and no row, so there is no study to work on.",
            code="empty_table",
            fix="Give one row a study.",
        )
    repeated = dict(table.group_by("study_id").len().filter(pl.col("len") > 1).iter_rows())
    folder, bad, usable = path.resolve().parent, list[Failure](), np.ones(table.height, bool)
    for number, record in enumerate(_records(table)):
        try:
            _row(record, repeated, folder)
        except CTGLIPError as error:
            usable[number] = False
            row_name = record["study_id"] or f"row {number + 2}"
            bad.append(Failure(row_name, "cohort", error.code, str(error), {"row": number + 2}))
    return Cohort(path, CohortRows(table.filter(pl.Series(usable)), folder), tuple(bad), tuple(known))


def _records(table: pl.DataFrame) -> Iterator[dict[str, str | None]]:
    """The rows of a table as they are, some thousand at a time."""
    return (record for part in table.iter_slices(_SLICE) for record in part.to_dicts())


def _filled(table: pl.DataFrame, name: str) -> pl.Expr:
    study_column = pl.col("study_id")
    return (pl.col(name).fill_null(study_column) if name in table.columns else study_column).alias(name)


def _rename(table: pl.DataFrame, columns: Path) -> pl.DataFrame:
    names = read_yaml(columns)
    if not isinstance(names, dict):
        raise CohortError(f"{columns} must map our column names to the table's.", code="bad_columns")
    unknown = [ours for ours in names if ours not in (*REQUIRED, *OPTIONAL)]
    absent = [theirs for theirs in names.values() if theirs not in table.columns]
    if unknown or absent:
        raise CohortError(
            f"{columns}: unknown names {unknown}, columns absent from the table {absent}.", code="bad_columns"
        )
    return table.rename({theirs: ours for ours, theirs in names.items()})


def _row(record: dict[str, str | None], repeated: Mapping[str | None, int], folder: Path) -> CohortRow:
    study_id = record["study_id"]
    if not study_id:
        raise CohortError("The row has no study_id.", code="missing_id")
    check_id(study_id)
    if study_id in repeated:
        raise CohortError(
            f"study_id {study_id!r} stands in {repeated[study_id]} rows, so none of them can be trusted.",
            code="duplicate_id",
            fix="Give each study one row.",
        )
    if not record["patient_id"]:
        raise CohortError(f"Study {study_id} has no patient_id.", code="missing_id")
    if not record["image"]:
        raise CohortError(f"Study {study_id} names no image.", code="missing_image")
    values = {key: value for key, value in record.items() if value is not None}
    for key, value in values.items():
        if "\0" in value:
            raise CohortError(
                f"Study {study_id}: column {key!r} holds a NUL byte.", code="bad_cell", fix="Write it anew."
            )
    if values.get("split", "train") not in SPLITS:
        raise CohortError(
            f"Study {study_id} has split {values['split']!r}, expected one of {', '.join(SPLITS)}.",
            code="bad_split",
        )
    try:
        return _valid_row(values, folder)
    except ValidationError as error:
        problem = error.errors()[0]
        raise CohortError(
            f"Study {study_id}: column {problem['loc'][0]!r} {problem['msg']} (found {problem['input']!r}).",
            code="bad_cell",
        ) from error


def _valid_row(record: Mapping[str, str | None], folder: Path) -> CohortRow:
    values = {key: value for key, value in record.items() if value is not None}
    for key in _PATHS & values.keys():
        values[key] = str(folder / values[key])
    return CohortRow.model_validate(values)
