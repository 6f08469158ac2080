"""``ctglip pretrain``: train a model on a store; one process, several under ``torchrun``, or workers of Ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, err, result
from ctglip.cli.training import training_callbacks
from ctglip.places import writable_folder


def pretrain(
    store: Annotated[Path, typer.Argument(help="The store to train on.")],
    run: Annotated[
        Path,
        typer.Argument(
            callback=writable_folder, help="The run's folder: pairs.html, metrics.jsonl, checkpoints/, model/."
        ),
    ],
    config: Annotated[Path, typer.Option(help="Config file, or a shipped name such as small/ctglip_cnn.")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the last checkpoint; loop.steps may be more than before.")
    ] = False,
    launch: Annotated[str, typer.Option(help="local (alone or under torchrun), or ray for Ray Train.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Workers of Ray Train, a GPU each where there are GPUs.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Pretrain a model on a store.

    On the N GPUs of a machine: torchrun --standalone --nproc-per-node N -m ctglip pretrain STORE RUN --config FILE.

    SIGTERM and Ctrl-C save a checkpoint after the current step and end with 143 and 130; --resume goes on from there.
    Studies that cannot be read are left out and named at the end, and the exit code is 1.
    """
    from ctglip.config import load_settings
    from ctglip.training.launch import failed_studies
    from ctglip.training.launch import pretrain as run_pretraining
    from ctglip.training.pretrain_config import PretrainConfig

    settings = load_settings(PretrainConfig, config, changes or ())
    first = os.environ.get("RANK", "0") == "0"
    with training_callbacks("Training steps", signals=launch == "local") as callbacks:
        model = run_pretraining(store, run, settings, resume, launch, workers=workers, callbacks=callbacks)
    if first:
        failed = failed_studies(run)
        result({"run": str(run), "model": str(model), "failed": failed}, as_json, f"The model is in {model}.")
        if failed:
            named = f"Left out, because they cannot be read ({len(failed)}): {', '.join(failed)}."
            err.print(
                f"{named} Run: ctglip store verify {store} --repair", markup=False, highlight=False, soft_wrap=True
            )
            raise typer.Exit(1)
