"""Running the command line as a user does: one process a command, or (for many in a row) all in this one."""

from __future__ import annotations

import contextlib
import io
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


def here(*arguments: object) -> Outcome:
    """Run one command through the entry point in this process: what it imports and loads stays for the next."""
    from ctglip.cli.main import run

    out, err, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["ctglip", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())
