"""``ctglip embed``: a model's organ features as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ctglip.cli.console import AsJson, print_note, progress, result
from ctglip.errors import CTGLIPError
from ctglip.places import writable_folder


class TokenType(StrEnum):
    """Of cached tokens."""

    fp16 = "fp16"
    fp32 = "fp32"


class Space(StrEnum):
    """Which embedding."""

    features = "features"
    diagnosis = "diagnosis"
    anatomy = "anatomy"


def embed(
    run: Annotated[
        Path, typer.Argument(help="A run or its model/ folder; with --dense also a config, whose encoder is taken.")
    ],
    store: Annotated[Path, typer.Argument(help="The store that is embedded.")],
    out: Annotated[
        Path,
        typer.Argument(
            callback=writable_folder, help="Folder for embeddings.parquet and embeddings.json, or for tokens."
        ),
    ],
    space: Annotated[
        Space, typer.Option(help="features: raw, for probes; diagnosis, anatomy: unit vectors beside texts.")
    ] = Space.features,
    organ: Annotated[list[str] | None, typer.Option(help="Only this organ. Repeatable; all by default.")] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Keep all tokens of each scan, to train heads on (data.name: tokens).")
    ] = False,
    encoder: Annotated[str | None, typer.Option(help="--dense: a released encoder in place of the config's.")] = None,
    weights: Annotated[str | None, typer.Option(help="--dense: its file, folder or name on the hub.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="--dense: change a setting of the config: section.key=value.")
    ] = None,
    precision: Annotated[TokenType, typer.Option(help="--dense: of the tokens.")] = TokenType.fp16,
    as_json: AsJson = False,
) -> None:
    """Write what a model makes of every organ of a store, one row each; ends with 1 where studies cannot be read.

    With --dense: all tokens of every scan, encoded once, for a run with data.name: tokens. What is there is kept.
    """
    if dense:
        if organ or space != Space.features:
            raise CTGLIPError("--organ and --space are of organs, and --dense is of whole scans.", fix="Leave it out.")
        _dense(run, store, out, encoder, weights, changes or (), precision, as_json)
        return
    if encoder or weights or changes or precision != TokenType.fp16:
        raise CTGLIPError("--encoder, --weights, --set and --precision are of --dense.", fix="Add --dense.")
    from ctglip.tasks.embed import embed as run_embedding

    with progress("Encoding organs") as report:
        found = run_embedding(run, store, out, space.value, progress=report, only=organ or ())
    text = f"{found.rows} organs of {found.studies} studies, {found.dim} numbers each, in {found.table}."
    result(found.to_json(), as_json, text)
    _print_failures(found.failures)


def _dense(
    source: Path,
    store: Path,
    out: Path,
    encoder: str | None,
    weights: str | None,
    changes: Sequence[str],
    precision: TokenType,
    as_json: bool,
) -> None:
    from ctglip.tasks.dense import embed_dense

    with progress("Encoding scans") as report:
        found = embed_dense(source, store, out, encoder, weights, changes, precision.value, progress=report)
    sizes = ", ".join(f"{' x '.join(map(str, level['grid']))} of {level['channels']}" for level in found.levels)
    text = f"Tokens of {found.studies} scans ({found.already} were there), {sizes}, in {found.folder}."
    result(found.to_json(), as_json, text)
    _print_failures(found.failures)


def _print_failures(failures: Sequence[Mapping[str, Any]]) -> None:
    """Name what could not be read, and end with 1 if there was something."""
    for failure in failures:
        print_note(f"{failure['study_id']}: {failure['message']}")
    if failures:
        raise typer.Exit(1)
