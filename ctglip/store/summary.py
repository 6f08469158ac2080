"""What a store holds, in a few lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from ctglip.parallel import spread
from ctglip.store.format import study_ids, study_path
from ctglip.store.parts import FULL
from ctglip.store.tables import Store, chunks

_COUNTED: dict[str, list[pl.Expr]] = {
    "studies": [pl.len().alias("studies"), pl.col("patient_id").n_unique().alias("patients")],
    "organs": [pl.col("study_id").n_unique().alias("with_masks"), pl.len().alias("organ_rows")],
    "reports": [pl.col("study_id").n_unique().alias("with_report")],
    "findings": [pl.len().alias("finding_rows"), pl.col("organ").is_null().sum().alias("unplaced_findings")],
}


def summarize(path: Path, workers: int = 1, address: str | None = None) -> dict[str, Any]:
    """The contents of a store as plain data: counts, recipe, size on disk.

    Args:
        workers: processes that look at the studies' files, on this machine.
        address: of a Ray cluster that does it instead.

    Raises:
        StoreError: ``path`` is not a store, or a table is damaged.
    """
    store = Store.open(path)
    counted = [store.scan(name).select(what).collect(engine="streaming") for name, what in _COUNTED.items()]
    counts = {name: value for table in counted for name, value in table.row(0, named=True).items()}
    groups = ([study_path(store.path, one) for one in ids] for ids in chunks(study_ids(store.path), FULL))
    return {
        "path": str(store.path),
        "format_version": store.info.format_version,
        "modality": store.info.modality,
        "recipe_hash": store.info.recipe_hash,
        "spacing_mm": store.info.recipe.get("spacing_mm"),
        "studies": counts["studies"],
        "patients": counts["patients"],
        "splits": dict(store.table("splits").group_by("split").len().sort("split").iter_rows()),
        "with_masks": counts["with_masks"],
        "with_report": counts["with_report"],
        "organ_rows": counts["organ_rows"],
        "finding_rows": counts["finding_rows"],
        "unplaced_findings": counts["unplaced_findings"],
        "bytes": sum(spread(_bytes, groups, workers, address)),
    }


def _bytes(folders: Iterable[Path]) -> int:
    """The size of some folders on disk."""
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
