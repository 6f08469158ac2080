"""From a cohort row to an image, and to the hash of all that the study is made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ctglip.cohort import CohortRow
from ctglip.config import Settings
from ctglip.errors import CTGLIPError, MaskError, ReportError, ScanError
from ctglip.files import file_checksum, files_below, value_hash
from ctglip.modality import MODALITIES, modality_of
from ctglip.types import QualityCheck

_FILES: dict[str, type[CTGLIPError]] = {
    "image": ScanError,
    "masks": MaskError,
    "regions": MaskError,
    "report_path": ReportError,
}
_NOT_INPUT = {*_FILES, "split", "study_id"}


def ingest(row: CohortRow, recipe: Settings) -> tuple[Any, tuple[QualityCheck, ...]]:
    """Read the study's image.

    Raises:
        ScanError: from the reader of the recipe's modality; ``not_ct`` or ``not_a_radiograph`` for another modality.
    """
    modality = modality_of(recipe)
    if "modality" in row.model_fields_set and row.modality != modality.name:
        raise ScanError(
            f"Study {row.study_id} has modality {row.modality!r}, this recipe is for {modality.images}.",
            code=modality.other_code,
            fix=f"Preprocess {MODALITIES[row.modality].images} with a recipe for them.",
        )
    return modality.read(row.image, recipe, row.scan_header())


def image_checksum(image: np.ndarray) -> str:
    """Hash of an image as it was read, whatever file it came in; of every third voxel along each axis, which is enough
    to tell images apart."""
    few = image[tuple(slice(None, None, 3) for _ in image.shape)]
    return value_hash([list(image.shape), hashlib.sha256(np.ascontiguousarray(few).tobytes()).hexdigest()], 32)


def _values(row: CohortRow) -> dict[str, Any]:
    """The row's cells that end up in the study. The split is not among them: it is kept by patient, apart."""
    return row.model_dump(mode="json", exclude=_NOT_INPUT, exclude_none=True)


def input_checksum(row: CohortRow) -> str:
    """Hash of the content of all files and cells that the study is made from; paths do not count.

    Raises:
        ScanError, MaskError, ReportError: ``no_file`` for a missing file, ``unreadable`` for one that cannot be read.
    """
    content: dict[str, Any] = {"cells": _values(row)}
    for name, kind in _FILES.items():
        path: Path | None = getattr(row, name)
        if path is None:
            continue
        if not path.exists():
            raise kind(
                f"Study {row.study_id}: there is no {name} at {path}.",
                code="no_file" if name == "image" else f"no_{name.removesuffix('_path')}",
                fix="Check the path; it is relative to the cohort table.",
            )
        try:
            content[name] = file_checksum(path)
        except OSError as error:
            raise kind(f"Study {row.study_id}: {path} cannot be read: {error}.", code="unreadable") from error
    return value_hash(content, 64)


def fingerprint(row: CohortRow) -> str:
    """What the input looks like without reading it: cells, and path, size and time of every file.

    While it stays the same the content is taken to be the same.
    """
    parts: list[Any] = [_values(row)]
    for name in _FILES:
        path: Path | None = getattr(row, name)
        if path is None:
            continue
        parts.append([name, *(_look(file) for file in files_below(path))])
    return value_hash(parts, 32)


def _look(file: Path) -> list[Any]:
    try:
        stat = file.stat()
    except OSError as error:
        return [str(file), type(error).__name__]
    return [str(file), stat.st_size, stat.st_mtime_ns]
