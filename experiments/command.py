"""What the commands of all experiments share: their options, progress, ctglip commands, and figures on disk."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ctglip.cli.console import print_note
from ctglip.files import plain_json, write_text


def parser_of(name: str, about: str | None, quick: str) -> argparse.ArgumentParser:
    """The parser of ``python -m experiments.NAME``, with ``--quick`` and ``--json``.

    Args:
        name: of the experiment.
        about: what ``--help`` shows.
        quick: what ``--quick`` does.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser


def say(text: str) -> None:
    """Progress, with the time of day."""
    print_note(f"{time.strftime('%H:%M:%S')} {text}")


def run_ctglip(*arguments: object) -> None:
    """One ctglip command; what it says goes to stderr. 1 (something could not be used) is told by what is missing."""
    done = subprocess.run([sys.executable, "-m", "ctglip", *map(str, arguments)], stdout=sys.stderr, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)


def keep(figures: Any, path: Path | None) -> None:
    """Write figures where ``--json`` asks for it; numbers that are not finite are null."""
    if path is not None:
        write_text(path, plain_json(figures, indent=1) + "\n")
