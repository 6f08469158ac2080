"""``ctglip finetune``: a trained model on labels of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import err, progress, result


def finetune(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    store: Annotated[Path, typer.Argument(help="The store that holds the labelled studies.")],
    out: Annotated[Path, typer.Argument(help="Folder for the tuned model, results.json, scores.parquet, report.html.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Label table: study_id, then a column for each name or organ:name (segmentation needs none)."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Config file, or a shipped name such as finetune/probe.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Another start beside this one: scratch, or another run. Repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with what is missing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fine-tune a model on labels, beside other starts; ends with 1 where labels could not be used."""
    from ctglip.config import load_settings
    from ctglip.errors import ConfigError
    from ctglip.tasks.settings import FinetuneConfig
    from ctglip.tasks.tuning import finetune as run_finetuning

    settings = load_settings(FinetuneConfig, config, changes or ())
    if baseline:
        settings = settings.model_copy(update={"baselines": tuple(baseline)})
    where = f"The report is in {out / 'report.html'}."
    if settings.task == "segmentation":
        from ctglip.tasks.segment import segment

        if labels is not None:
            raise ConfigError("A segmentation learns from the store's masks.", fix="Leave --labels out.")
        with progress("Reading radiographs") as encoding, progress("Passes") as passes:
            results = segment(run, store, out, settings, resume, encoding, passes)
        where = f"The model is in {out}."
    elif labels is None:
        raise ConfigError("There is nothing to learn from.", fix="Name a label table: --labels labels.csv")
    else:
        with progress("Reading organs") as encoding, progress("Passes") as passes:
            results = run_finetuning(run, store, out, labels, settings, resume, encoding, passes)
    result(results.to_json(), as_json, f"{results.headline()}\n{where}")
    expected = ("no_labels", "few_labels", "no_organ", "no_mask")
    unused = [problem for problem in results.problems if problem.code not in expected]
    for problem in results.problems[:10]:
        err.print(f"{problem.subject}: {problem.message}", markup=False, highlight=False)
    if len(results.problems) > 10:
        err.print(f"... and {len(results.problems) - 10} more, all in {out / 'problems.csv'}.", markup=False)
    if unused:
        raise typer.Exit(1)
