"""What a store is on disk: its names, its ``store.json``, and the columns of its tables.

::

    STORE/store.json                 format version, recipe, dictionary hashes, label table
    STORE/studies/<study_id>.zarr    image and organs (zarr 3, sharded), with the study's table rows inside
    STORE/<table>.parquet            the studies' rows, over all studies, sorted by study_id
    STORE/splits.parquet             which patient is in which split
    STORE/journal.sqlite             what preprocessing did; written by its driver alone
    STORE/derived/, STORE/cache/     what training and evaluation computed from the others; can be deleted

Everything but ``splits.parquet`` and ``journal.sqlite`` can be rebuilt from the studies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from ctglip.config import Settings
from ctglip.errors import CTGLIPError, StoreError
from ctglip.files import check_id, one_line, read_json, value_hash, write_json
from ctglip.types import FindingsFrom, ModalityName

FORMAT_VERSION = 1
INFO = "store.json"
STUDIES = "studies"
JOURNAL = "journal.sqlite"
SUFFIX = ".zarr"
_CHECKSUM = "checksum"
TABLES: dict[str, dict[str, pl.DataType]] = {
    "studies": {
        "study_id": pl.String(),
        "patient_id": pl.String(),
        "modality": pl.String(),
        "shape": pl.List(pl.Int32()),
        "spacing_mm": pl.List(pl.Float64()),
        "affine": pl.List(pl.Float64()),
        "source_shape": pl.List(pl.Int32()),
        "source_spacing_mm": pl.List(pl.Float64()),
        "source_checksum": pl.String(),
        "recipe_hash": pl.String(),
        "checks": pl.String(),
        "split": pl.String(),
        "view": pl.String(),
        "age": pl.Float64(),
        "sex": pl.String(),
        "scanner": pl.String(),
        "image_checksum": pl.String(),
    },
    "organs": {
        "study_id": pl.String(),
        "organ": pl.String(),
        **{edge: pl.Int32() for edge in ("x0", "x1", "y0", "y1", "z0", "z1")},
        "volume_ml": pl.Float64(),
        "mean_hu": pl.Float64(),
        "sd_hu": pl.Float64(),
        "touches_border": pl.Boolean(),
    },
    "reports": {"study_id": pl.String(), "section": pl.String(), "text": pl.String()},
    "findings": {
        "study_id": pl.String(),
        "sentence_index": pl.Int32(),
        "section": pl.String(),
        "sentence": pl.String(),
        "organ": pl.String(),
        "abnormality": pl.String(),
        "status": pl.String(),
        "laterality": pl.String(),
        "level": pl.String(),
        "reason": pl.String(),
        "source": pl.String(),
    },
    "regions": {
        "study_id": pl.String(),
        "region": pl.String(),
        **{edge: pl.Int32() for edge in ("row0", "row1", "column0", "column1")},
    },
    "lesions": {
        "study_id": pl.String(),
        "organ": pl.String(),
        "abnormality": pl.String(),
        "theirs": pl.String(),
        **{edge: pl.Int32() for edge in ("x0", "x1", "y0", "y1", "z0", "z1")},
        **{edge: pl.Int32() for edge in ("row0", "row1", "column0", "column1")},
        "layer": pl.Int32(),
        "number": pl.Int32(),
    },
    "labels": {"study_id": pl.String()},
}
"""Column types of the tables that come from the studies. ``labels`` gets one more Int8 column for each label."""

LATER = frozenset({"lesions"})
"""Tables that stores of before do not have: their files may be missing while they would be empty."""

SPLITS_SCHEMA: dict[str, pl.DataType] = {
    "study_id": pl.String(),
    "patient_id": pl.String(),
    "split": pl.String(),
}


class StoreInfo(Settings):
    """``store.json``: what all studies of a store have in common.

    Attributes:
        recipe: the volume recipe as plain data.
        recipe_hash: studies that carry another hash are not part of the store's tables.
        dictionaries: ``organs`` and ``abnormalities``, the hashes of the dictionaries used.
        labels: number in the ``organs`` arrays -> organ name.
        unions: larger structure (lungs, kidneys) -> the numbers it is made of.
        findings_from: which findings count where given ones and the parser's speak of one organ, see
            ``store.findings.counting``. Not part of the recipe: no study is made anew for it.
    """

    format_version: int = FORMAT_VERSION
    modality: ModalityName = "ct"
    recipe: dict[str, Any]
    recipe_hash: str
    dictionaries: dict[str, str] = Field(default_factory=dict)
    labels: dict[int, str] = Field(default_factory=dict)
    unions: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    findings_from: FindingsFrom = "given"


def build_hash(recipe: dict[str, Any], dictionaries: dict[str, str]) -> str:
    """The hash of all that decides what a study looks like in the store, apart from its input."""
    return value_hash({"format": FORMAT_VERSION, "recipe": recipe, "dictionaries": dictionaries})


def study_path(root: Path, study_id: str) -> Path:
    """Where a study is in the store ``root``; refuses an id that would lead elsewhere."""
    return root / STUDIES / f"{check_id(study_id)}{SUFFIX}"


def study_ids(root: Path) -> list[str]:
    """Ids of the studies in the store's folder, sorted; unfinished ones are not seen."""
    folder = root / STUDIES
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    return sorted(n.removesuffix(SUFFIX) for n in names if n.endswith(SUFFIX) and not n.startswith("."))


def leftovers(root: Path) -> list[Path]:
    """Files and folders that an interrupted writer left behind, safe to remove when none is at work."""
    return sorted(path for folder in (root, root / STUDIES) for path in folder.glob(".*.tmp"))


def read_info(root: Path) -> StoreInfo:
    """Read ``store.json``.

    Raises:
        StoreError: ``not_a_store``, ``bad_store_info`` or ``store_version``.
    """
    path = root / INFO
    if not path.is_file():
        raise StoreError(
            f"{root} is not a store: it has no {INFO}.",
            code="not_a_store",
            fix="Make one with: ctglip preprocess COHORT STORE",
        )
    try:
        value = read_json(path)
        version = value["format_version"]
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{root} has format version {version}, this program reads {FORMAT_VERSION}.",
                code="store_version",
                fix="Preprocess the cohort into a new store.",
            )
        if value.pop(_CHECKSUM, None) not in (None, value_hash(value, 64)):
            raise StoreError(
                f"{path} has changed since it was written.",
                code="bad_store_info",
                fix="Copy it again from where it is whole.",
            )
        return StoreInfo.model_validate(value)
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, CTGLIPError) as error:
        raise StoreError(f"{path} cannot be read: {one_line(error)}.", code="bad_store_info") from error


def write_info(root: Path, info: StoreInfo) -> None:
    """Write ``store.json`` by rename."""
    value = info.model_dump(mode="json")
    write_json(root / INFO, {**value, _CHECKSUM: value_hash(value, 64)})
