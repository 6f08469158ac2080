"""``ctglip embed``: a model's organ features as a table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, err, progress, result


class Space(StrEnum):
    """Which embedding."""

    features = "features"
    diagnosis = "diagnosis"
    anatomy = "anatomy"


def embed(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    store: Annotated[Path, typer.Argument(help="The store whose organs are embedded.")],
    out: Annotated[Path, typer.Argument(help="Folder for embeddings.parquet and embeddings.json.")],
    space: Annotated[
        Space, typer.Option(help="features: raw, for probes; diagnosis, anatomy: unit vectors beside texts.")
    ] = Space.features,
    organ: Annotated[list[str] | None, typer.Option(help="Only this organ. Repeatable; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write what a model makes of every organ of a store, one row each; ends with 1 where studies cannot be read."""
    from ctglip.tasks.embed import embed as run_embedding

    with progress("Encoding organs") as report:
        found = run_embedding(run, store, out, space.value, progress=report, only=organ or ())
    text = f"{found.rows} organs of {found.studies} studies, {found.dim} numbers each, in {found.table}."
    result(found.to_json(), as_json, text)
    for failure in found.failures:
        err.print(f"{failure['study_id']}: {failure['message']}", markup=False, highlight=False)
    if found.failures:
        raise typer.Exit(1)
