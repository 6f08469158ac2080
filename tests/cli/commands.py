"""Running the command line as a user does: one process a command."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def ctglip(*arguments: object, stdin: str | None = None, **environment: str) -> Outcome:
    """Run one command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ctglip", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def good(*arguments: object, **environment: str) -> Outcome:
    """Run one command that must succeed."""
    outcome = ctglip(*arguments, **environment)
    assert outcome.code == 0, outcome.out + outcome.err
    return outcome
