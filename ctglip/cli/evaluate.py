"""``ctglip evaluate``: zero-shot evaluation of a run, or of a model that others released, on a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctglip.cli.console import AsJson, Stages, print_note, print_problems, result
from ctglip.errors import ConfigError
from ctglip.places import writable_folder

if TYPE_CHECKING:
    from ctglip.evaluation.results import Results


def evaluate(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN STORE OUT",
            help="A run or its model/ folder (none with --model); the store to evaluate on; folder for results.json, "
            "scores.parquet and report.html.",
        ),
    ],
    split: Annotated[str, typer.Option(help="Which patients: train, val or test.")] = "test",
    labels: Annotated[
        Path | None, typer.Option(help="Label table; without it the store's findings are the labels.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="In place of RUN a model that others released: merlin, ct_clip, colipri, spectre, hlip, fvlm, or a "
            "card of your own (.yaml). STORE is made by: ctglip preprocess --for NAME."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="--model: its released file, a folder with it, or a name on the hub.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="--model: folder, or name on the hub, of its text model's config and tokeniser."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Config file, or a shipped name.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure organ recognition and abnormality detection, with intervals and controls; ends with 1 where studies or
    labels could not be used.

    With --model NAME --weights FILE STORE OUT: a released model with its own preprocessing and prompts, by a public
    protocol, beside the numbers that its authors released.
    """
    if model is None:
        if weights or text:
            raise ConfigError("--weights and --text are of --model.", fix="Add --model NAME.")
        _check_count(folders, ("RUN", "STORE", "OUT"))
        results = _of_run(folders, split, labels, config, changes or ())
    else:
        if weights is None:
            raise ConfigError(f"--model {model} needs its released file.", fix="Add --weights FILE.")
        _check_count(folders, ("STORE", "OUT"))
        results = _of_peer(folders, model, weights, text, split, labels, config, changes or ())
    result(results.to_json(), as_json, f"{results.headline()}\nThe report is in {folders[-1] / 'report.html'}.")
    for note in results.notes:
        print_note(f"Note: {note}")
    print_problems(*results.problems, *(f"{study}: it cannot be read." for study in results.failures))


def _check_count(folders: Sequence[Path], names: Sequence[str]) -> None:
    if len(folders) != len(names):
        given = " ".join(map(str, folders))
        how = "without --model" if "RUN" in names else "with --model"
        raise ConfigError(
            f"Expected {' '.join(names)} {how}, got {len(folders)} of them: {given}.", fix="See: ctglip evaluate --help"
        )


def _of_run(
    folders: Sequence[Path], split: str, labels: Path | None, config: Path | None, changes: Sequence[str]
) -> Results:
    from ctglip.config import load_settings
    from ctglip.evaluation.run import evaluate as run_evaluation
    from ctglip.evaluation.settings import EvaluateConfig

    run, store, out = folders
    writable_folder(out)
    settings = load_settings(EvaluateConfig, config, changes)
    with Stages() as stages:
        return run_evaluation(
            run, store, out, split=split, labels=labels, config=settings,
            progress=stages.report, stage=stages.begin,
        )  # fmt: skip


def _of_peer(
    folders: Sequence[Path],
    model: str,
    weights: str,
    text: str | None,
    split: str,
    labels: Path | None,
    config: Path | None,
    changes: Sequence[str],
) -> Results:
    from ctglip.config import load_settings
    from ctglip.evaluation.peers.run import evaluate_peer
    from ctglip.evaluation.peers.settings import PeerEvaluateConfig

    store, out = folders
    writable_folder(out)
    settings = load_settings(PeerEvaluateConfig, config, changes)
    with Stages() as stages:
        return evaluate_peer(
            model, weights, store, out, text_source=text, split=split, labels=labels, config=settings,
            progress=stages.report, stage=stages.begin,
        )  # fmt: skip
