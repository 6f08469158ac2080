"""Running the command line as a user does: in a process of its own, or (which is quicker) in this one."""

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


def here(*arguments: object, stdin: str = "") -> Outcome:
    """Run one command through the entry point in this process: what it imports and loads stays for the next."""
    from ctglip.cli.main import run

    out, err, before, code = io.StringIO(), io.StringIO(), (sys.argv, sys.stdin), 0
    sys.argv, sys.stdin = ["ctglip", *map(str, arguments)], io.TextIOWrapper(io.BytesIO(stdin.encode()))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, sys.stdin = before
    return Outcome(code, out.getvalue(), err.getvalue())


def good_here(*arguments: object) -> Outcome:
    """Run one command that must succeed in this process."""
    outcome = here(*arguments)
    assert outcome.code == 0, outcome.out + outcome.err
    return outcome
