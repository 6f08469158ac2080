"""``ctglip finetune``: a trained model on labels of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, print_note, result
from ctglip.cli.training import training_callbacks
from ctglip.places import writable_folder


def finetune(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run or its model/ folder; of scans also released weights (suprem=FILE, nnunet=FOLDER), or an "
            "encoder that is drawn (cnn)."
        ),
    ],
    store: Annotated[Path, typer.Argument(help="The store that holds the labelled studies.")],
    out: Annotated[
        Path,
        typer.Argument(
            callback=writable_folder, help="Folder for the tuned model, results.json, scores.parquet, report.html."
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Label table: study_id, then a column for each name or organ:name (segmentation, reports: none)."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Config file, or a shipped name such as finetune/probe.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="Another initialization beside it: scratch, a run, or NAME=WEIGHTS. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with what is missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on labels, beside other initializations; ends with 1 where labels could not be used.

    SIGTERM and Ctrl-C end it after the current step with 143 and 130; --resume goes on from there.
    """
    from ctglip.config import load_settings
    from ctglip.tasks.settings import FinetuneConfig
    from ctglip.tasks.tuning import finetune as run_finetuning

    named = [f"baselines={json.dumps(baseline)}"] if baseline else []
    settings = load_settings(FinetuneConfig, config, [*(changes or ()), *named])
    with training_callbacks("Epochs") as callbacks:
        results = run_finetuning(run, store, out, labels, settings, resume, callbacks)
    what = "report" if (out / "report.html").is_file() else "model"
    where = out / "report.html" if what == "report" else out
    result(results.to_json(), as_json, f"{results.headline()}\nThe {what} is in {where}.")
    expected = ("no_labels", "few_labels", "no_organ", "no_mask", "no_report")
    unused = [problem for problem in results.problems if problem.code not in expected]
    for problem in results.problems[:10]:
        print_note(f"{problem.subject}: {problem.message}")
    if len(results.problems) > 10:
        print_note(f"... and {len(results.problems) - 10} more, all in {out / 'problems.csv'}.")
    if unused:
        raise typer.Exit(1)
