"""The ``ctglip`` command. Each command's heavy imports happen inside it, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from ctglip import __version__
from ctglip.cli import (
    cohort,
    compare,
    config,
    demo,
    dictionary,
    doctor,
    embed,
    evaluate,
    export,
    finetune,
    parse,
    pretrain,
    query,
    simulate,
    store,
)
from ctglip.cli.console import err
from ctglip.errors import CTGLIPError
from ctglip.files import is_disk_full

app = typer.Typer(
    name="ctglip",
    help="Organ-level grounded vision-language pretraining on CT scans and their reports.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ctglip {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Organ-level grounded vision-language pretraining on CT scans and their reports."""


for _command in (
    simulate.simulate,
    cohort.cohort,
    parse.parse,
    pretrain.pretrain,
    evaluate.evaluate,
    compare.compare,
    finetune.finetune,
    embed.embed,
    query.query,
):
    app.command()(_command)
for _entry in entry_points(group="ctglip.commands"):
    app.command(_entry.name)(_entry.load())
for _command in (export.export, doctor.doctor, demo.demo):
    app.command()(_command)
app.add_typer(store.app, name="store")
app.add_typer(dictionary.app, name="dictionary")
app.add_typer(config.app, name="config")


def run() -> None:
    """Entry point: a user's fault or a full disk ends with one line and exit code 2, an interrupt with 130."""
    try:
        app()
    except CTGLIPError as error:
        err.print(f"ctglip: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except Exception as error:
        if not is_disk_full(error):
            raise
        err.print(
            "ctglip: no space is left on the disk; what was finished is kept. Make room and go on.",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("ctglip: interrupted; what was finished is kept, run the same command again to go on.", markup=False)
        sys.exit(130)
