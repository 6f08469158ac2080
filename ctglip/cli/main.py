"""The ``ctglip`` command. Each command's heavy imports happen inside it, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
import traceback
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
    explain,
    export,
    finetune,
    parse,
    pretrain,
    query,
    report,
    segment,
    serve,
    simulate,
    store,
)
from ctglip.cli.console import err
from ctglip.cli.failures import TRACEBACK, failure
from ctglip.cli.group import CommandGroup

app = typer.Typer(
    name="ctglip",
    cls=CommandGroup,
    help="Organ-level grounded vision-language pretraining on CT scans and their reports.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


STEPS = """\
ctglip learns from CT scans and their reports, organ by organ. Five steps:

  1. Get a cohort: a table with one row a study. Simulated patients, to try it:
       ctglip simulate patients --studies 100
  2. Preprocess it into a store:
       ctglip preprocess patients/cohort.csv store --workers 2
  3. Pretrain a model on the store:
       ctglip pretrain store run --config small/ctglip_cnn
  4. Evaluate it on patients it has not seen:
       ctglip evaluate run store evaluation
  5. Ask about one scan:
       ctglip query run SCAN --masks MASKS --ask "liver: fatty liver" --out answers

All five at once, on two cores:                     ctglip demo OUT
What an error means:                                ctglip explain CODE
Is everything installed?                            ctglip doctor
All commands:                                       ctglip --help
"""
"""What ``ctglip`` alone prints."""


def _version(show_version: bool) -> None:
    if show_version:
        typer.echo(f"ctglip {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Organ-level grounded vision-language pretraining on CT scans and their reports."""
    if context.invoked_subcommand is None:
        typer.echo(STEPS)


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
    segment.segment,
    report.report,
    serve.serve,
):
    app.command()(_command)
for _entry in entry_points(group="ctglip.commands"):
    app.command(_entry.name)(_entry.load())
for _command in (export.export, doctor.doctor, explain.explain, demo.demo):
    app.command()(_command)
app.add_typer(store.app, name="store")
app.add_typer(dictionary.app, name="dictionary")
app.add_typer(config.app, name="config")


def _unraisable(_: object) -> None:
    """Say nothing: the command ends with its own line."""


def run() -> None:
    """Entry point. Whatever goes wrong ends with one line: a fault of the input or the machine with exit code 2, one of
    ctglip with 70, an interrupt with 130. ``CTGLIP_TRACEBACK=1`` shows the traceback too."""
    if not os.environ.get(TRACEBACK):
        sys.unraisablehook = _unraisable  # what fails while things are tidied up: a killed worker may be noticed there
    try:
        app()
    except Exception as error:  # noqa: BLE001  (this is where all of them end)
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        line, code = failure(error)
        err.print(f"ctglip: {line}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(code)
    except KeyboardInterrupt:
        err.print("ctglip: interrupted; what was finished is kept, run the same command again to go on.", markup=False)
        sys.exit(130)
