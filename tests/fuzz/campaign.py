"""A campaign: ``python -m tests.fuzz.campaign --minutes 60 --out FOLDER``, or ``make fuzz MINUTES=60``.

A process of its own reads one changed file after the other and is started again when it dies. What counts as a fault:
the process ends, a file takes longer than 5 s, asks for more than 3 GB, or raises anything but the project's errors.
Each kind is written down once, with the file that showed it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from ctglip.errors import CTGLIPError
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import Target, ct_targets, cxr_targets, place, text_targets

SECONDS = 5
"""Of the processor; twelve times as long by the clock, for machines that are busy."""
BYTES = 3 << 30
ROOT = Path(__file__).resolve().parents[2]


class TooLong(BaseException):
    """A file took longer than ``SECONDS``."""


def every_target(folder: Path) -> list[Target]:
    """All kinds, their folders made below ``folder``."""
    from tests.fuzz.dicom import dicom_targets
    from tests.fuzz.folders import folder_targets

    return [*ct_targets(), *cxr_targets(), *dicom_targets(folder), *text_targets(), *folder_targets(folder)]


def _too_long(number: int, frame: Any) -> None:
    raise TooLong


def read(target: Target, path: Path) -> tuple[str, str]:
    """What became of one file: (``read``, ``refused`` or ``fault``, where and of what kind a fault is)."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)
    try:
        target.read(path)
        result = "read", ""
    except CTGLIPError as error:
        result = ("refused", "") if "\n" not in str(error) else ("fault", f"{target.name}: an error of several lines")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        result = "fault", f"{target.name}: {type(error).__name__} at {_where(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return result


def _where(error: BaseException) -> str:
    """The innermost line of this project that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}ctglip" in frame.filename and "site-packages" not in frame.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def work(seconds: float, seed: int, out: Path, only: str, inputs: int | None = None) -> None:
    """Read changed files for some seconds (at most ``inputs``), round and round the kinds; every result is a line of
    ``out/results``."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGPROF, _too_long)
    warnings.simplefilter("ignore")
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="ctglip-fuzz-") as scratch, (out / "results").open("a") as results:
        made, room = Path(scratch, "made"), Path(scratch, "work")
        made.mkdir()
        room.mkdir()
        targets = [target for target in every_target(made) if only in target.name]
        for target in targets:
            path = place(target, target.seeds[0], room)
            if read(target, path)[0] == "fault":
                print(json.dumps([target.name, "fault", f"{target.name}: its sound file is not read"]), file=results)
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        until = time.monotonic() + seconds
        for target in itertools.islice(itertools.cycle(targets), inputs):
            if time.monotonic() > until:
                return
            data = mutated(target.seeds, chance)
            path = place(target, data, room)
            (out / "last").write_bytes(data)
            (out / "last.name").write_text(target.name)
            outcome, kind = read(target, path)
            if kind:
                _keep(out, kind, data)
            print(json.dumps([target.name, outcome, kind]), file=results, flush=True)


def _keep(out: Path, kind: str, data: bytes) -> None:
    """The first file of each kind of fault."""
    (out / "faults").mkdir(exist_ok=True)
    path = out / "faults" / hashlib.sha256(kind.encode()).hexdigest()[:12]
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(kind + "\n")


def campaign(seconds: float, out: Path, seed: int = 0, only: str = "", inputs: int | None = None) -> dict[str, Any]:
    """Run for some seconds, or until so many inputs were read: then the files are the same on every machine.

    Returns:
        ``inputs``, ``read``, ``refused``: how many; ``deaths``: kinds of input whose process ended, and by what;
        ``faults``: kind -> how often.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "results").write_text("")
    until = time.monotonic() + seconds
    deaths: Counter[str] = Counter()
    while (rest := until - time.monotonic()) > 0:
        command = [sys.executable, "-m", "tests.fuzz.campaign", "--worker", "--minutes", str(rest / 60)]
        command += ["--seed", str(seed), "--out", str(out), "--only", only]
        command += [] if inputs is None else ["--inputs", str(inputs)]
        with (out / "log").open("ab") as log:
            done = subprocess.run(command, cwd=ROOT, check=False, stdout=log, stderr=log)
        seed += 1
        if not done.returncode and inputs is not None:
            break
        if done.returncode:
            name = (out / "last.name").read_text() if (out / "last.name").is_file() else "before the first input"
            kind = f"{name}: its process ended with {done.returncode}"
            deaths[kind] += 1
            _keep(out, kind, (out / "last").read_bytes() if (out / "last").is_file() else b"")
            if deaths.total() > 200:
                break
    lines = [json.loads(line) for line in (out / "results").read_text().splitlines() if line.endswith("]")]
    outcomes = Counter(outcome for _, outcome, _ in lines)
    return {
        "inputs": len(lines) + deaths.total(),
        "kinds": len({name for name, _, _ in lines}),
        "read": outcomes["read"],
        "refused": outcomes["refused"],
        "deaths": dict(deaths),
        "faults": dict(Counter(kind for _, _, kind in lines if kind).most_common()),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Read changed files and count what goes wrong.")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-output"))
    parser.add_argument("--only", default="", help="kinds of input whose name holds this")
    parser.add_argument("--inputs", type=int, help="at most so many")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.minutes * 60, options.seed, options.out, options.only, options.inputs)
        return
    found = campaign(options.minutes * 60, options.out, options.seed, options.only, options.inputs)
    print(json.dumps(found, indent=2))
    sys.exit(bool(found["deaths"] or found["faults"]))


if __name__ == "__main__":
    main()
