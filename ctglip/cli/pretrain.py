"""``ctglip pretrain``: train a model on a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import progress, result


def pretrain(
    store: Annotated[Path, typer.Argument(help="The store to train on.")],
    run: Annotated[Path, typer.Argument(help="The run's folder: metrics, checkpoints, model/.")],
    config: Annotated[Path, typer.Option(help="Config file, or a shipped name such as demo/pretrain.")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    launch: Annotated[str, typer.Option(help="local, or ray for Ray Train.")] = "local",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Pretrain an organ-text model."""
    from ctglip.config import load_settings
    from ctglip.training.launch import pretrain as run_pretraining
    from ctglip.training.recipe import PretrainConfig

    settings = load_settings(PretrainConfig, config, changes or ())
    with progress("Training steps") as report:
        model = run_pretraining(store, run, settings, resume=resume, launch=launch, progress=report)
    result({"run": str(run), "model": str(model)}, as_json, f"The model is in {model}.")
