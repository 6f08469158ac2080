"""``ctglip evaluate``: zero-shot evaluation of a run on a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, Stages, err, print_problems, result


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    store: Annotated[Path, typer.Argument(help="The store to evaluate on.")],
    out: Annotated[Path, typer.Argument(help="Folder for results.json, scores.parquet and report.html.")],
    split: Annotated[str, typer.Option(help="Which patients: train, val or test.")] = "test",
    labels: Annotated[
        Path | None, typer.Option(help="Label table; without it the store's findings are the labels.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Config file, or a shipped name.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure organ recognition and abnormality detection, with intervals and controls; ends with 1 where studies or
    labels could not be used."""
    from ctglip.config import load_settings
    from ctglip.evaluation.run import evaluate as run_evaluation
    from ctglip.evaluation.settings import EvaluateConfig

    settings = load_settings(EvaluateConfig, config, changes or ())
    with Stages() as stages:
        results = run_evaluation(
            run, store, out, split=split, labels=labels, config=settings,
            progress=stages.report, stage=stages.begin,
        )  # fmt: skip
    result(results.to_json(), as_json, f"{results.headline()}\nThe report is in {out / 'report.html'}.")
    for note in results.notes:
        err.print(f"Note: {note}", markup=False, highlight=False, soft_wrap=True)
    print_problems(*results.problems, *(f"{study}: it cannot be read." for study in results.failures))
