"""``ctglip cohort``: a public radiograph dataset's own tables to a cohort table and a label table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, result


def cohort(
    layout: Annotated[str, typer.Argument(help="A shipped map such as cohorts/mimic_cxr_jpg, or a YAML file.")],
    folder: Annotated[Path, typer.Argument(help="The folder that the dataset was unpacked into.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: cohort.csv, labels.csv, regions/.")],
    as_json: AsJson = False,
) -> None:
    """Write the cohort table and the label table of a public dataset of chest radiographs."""
    from ctglip.config import load_settings
    from ctglip.cxr.public import CohortMap, write_public

    table, found = write_public(folder, load_settings(CohortMap, layout), out)
    texts = sum(bool(row.get("findings") or row.get("impression") or row.get("report")) for row in found.rows)
    labels = sorted({name for values in found.labels.values() for name in values})
    values = {"cohort": str(table), "radiographs": len(found.rows), "with_text": texts, "labels": labels}
    result(values, as_json, f"{len(found.rows)} radiographs in {table}, {texts} with text, {len(labels)} labels.")
