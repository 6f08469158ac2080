"""What a store holds, in a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from ctglip.store.format import STUDIES
from ctglip.store.tables import Store


def summarize(path: Path) -> dict[str, Any]:
    """The contents of a store as plain data: counts, recipe, size on disk.

    Raises:
        StoreError: ``path`` is not a store, or a table is damaged.
    """
    store = Store.open(path)
    studies, organs, findings = (store.table(name) for name in ("studies", "organs", "findings"))
    splits = store.table("splits").group_by("split").len().sort("split")
    files = (file.stat().st_size for file in (store.path / STUDIES).rglob("*") if file.is_file())
    return {
        "path": str(store.path),
        "format_version": store.info.format_version,
        "modality": store.info.modality,
        "recipe_hash": store.info.recipe_hash,
        "spacing_mm": store.info.recipe.get("spacing_mm"),
        "studies": studies.height,
        "patients": studies["patient_id"].n_unique(),
        "splits": dict(splits.iter_rows()),
        "with_masks": organs["study_id"].n_unique(),
        "with_report": store.table("reports")["study_id"].n_unique(),
        "organ_rows": organs.height,
        "finding_rows": findings.height,
        "unplaced_findings": findings.filter(pl.col("organ").is_null()).height,
        "bytes": sum(files),
    }
