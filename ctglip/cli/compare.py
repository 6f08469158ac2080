"""``ctglip compare``: two runs on the same patients of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, Stages, print_problems, result
from ctglip.places import writable_folder


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    run_b: Annotated[Path, typer.Argument(help="Another, compared with the first.")],
    store: Annotated[Path, typer.Argument(help="The store to compare them on.")],
    out: Annotated[Path, typer.Argument(callback=writable_folder, help="Folder for compare.json and compare.html.")],
    split: Annotated[str, typer.Option(help="Which patients: train, val or test.")] = "test",
    labels: Annotated[
        Path | None, typer.Option(help="Label table; without it the store's findings are the labels.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Config file of an evaluation, or a shipped name.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: paired intervals over patients, p values corrected over abnormalities."""
    from ctglip.config import load_settings
    from ctglip.evaluation.compare import compare as run_comparison
    from ctglip.evaluation.settings import EvaluateConfig

    settings = load_settings(EvaluateConfig, config, changes or ())
    with Stages() as stages:
        found = run_comparison(
            run_a, run_b, store, out, split=split, labels=labels, config=settings,
            progress=stages.report, stage=stages.begin,
        )  # fmt: skip
    result(found.to_json(), as_json, f"{found.headline()}\nThe page is in {out / 'compare.html'}.")
    print_problems(*found.problems)
