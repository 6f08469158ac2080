"""The ladder: what does each ingredient of organ grounding bring, one change a rung, on an anatomy never trained on?

    python -m experiments.headline [--quick] [--minutes N] [--steps N] [--json FILE] [--folder KEEP] [--workers N]
                                   [--so-far]

Patients are simulated at the hard level, of six anatomies. Every arm is trained without each anatomy in turn and judged
on it (first number) and on other patients of the anatomies of training (second number), with the steps, inputs, encoder
and sentence encoder of all others, fixed beforehand. The command goes on run by run where it stopped: `--minutes 90` at
most 90 minutes a call; each run's result is a file in KEEP/results. Two cores need about 12 hours for all of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ctglip.cli.console import print_line
from ctglip.files import read_json, write_json
from experiments.command import keep, parser_of, say
from experiments.headline import figures, work
from experiments.headline.arms import FEATURES
from experiments.headline.work import PLAIN, PREPARE, Bench, Job, Plan, jobs_of

_LOOK_S = 0.2
_QUICK_MINUTES = 3.0


@dataclass
class Runner:
    """Starts jobs one after the other, as many at a time as there are workers, until all are done or time is up.

    Attributes:
        stop: of ``time.monotonic``; what still runs then is ended, and goes on from its last checkpoint another time.
        failed: names of jobs that ended with an error; they are tried again by the next call.
    """

    bench: Bench
    workers: int
    stop: float
    failed: list[str] = field(default_factory=list)
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)

    def prepare(self) -> bool:
        """Patients and folds; whether they are there."""
        if not self.bench.prepared:
            say(f"{self.bench.plan.studies} patients are simulated and preprocessed")
            self._start(PREPARE)
            self._wait(0)
        return self.bench.prepared

    def do(self, jobs: Iterator[Job]) -> None:
        """All jobs that are not done."""
        waiting = [job for job in jobs if not self.bench.result(job).is_file()]
        if any(job.arm in FEATURES for job in waiting):
            say("plain numbers of organs are measured and fitted")
            self._start(PLAIN)
            self._wait(0)
            waiting = [job for job in waiting if job.arm not in FEATURES]
        total = len(waiting)
        for number, job in enumerate(waiting):
            self._wait(self.workers - 1)
            if self._over():
                break
            left = f", about {self._left(total - number):.1f} hours left" if self.took else ""
            say(f"{number + 1} of {total}: {job.name}{left}")
            self._start(job.name)
        self._wait(0)

    def _left(self, jobs: int) -> float:
        return jobs * sum(self.took) / len(self.took) / self.workers / 3600

    def _over(self) -> bool:
        return time.monotonic() >= self.stop

    def _start(self, name: str) -> None:
        log = self.bench.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "experiments.headline.work", str(self.bench.folder), name]
        with log.open("ab") as stream:
            self.running[name] = subprocess.Popen(command, stdout=stream, stderr=stream), time.monotonic()

    def _wait(self, most: int) -> None:
        """Until no more than so many jobs run, or time is up and all are ended."""
        while len(self.running) > most:
            for name, (process, begun) in list(self.running.items()):
                if process.poll() is None and self._over():
                    process.kill()
                    process.wait()
                    say(f"{name} goes on another time")
                elif process.poll() is None:
                    continue
                elif process.returncode == 0:
                    self.took += [time.monotonic() - begun] * (name not in (PREPARE, PLAIN))
                else:
                    self.failed.append(name)
                    say(f"{name} failed: see {self.bench.folder / 'logs' / f'{name}.log'}")
                del self.running[name]
            time.sleep(_LOOK_S)


def begin(plan: Plan, folder: Path) -> Bench:
    """A folder with its plan: a new one, or one that was begun with the same plan."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    begun = read_json(path) if path.is_file() else None
    fixed = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(plan).items()}
    if begun is not None and begun != fixed:
        raise SystemExit(f"{folder} was begun with another plan; name another folder, or delete it.")
    write_json(path, fixed)
    return Bench(folder, plan)


def deadline(minutes: float | None, quick: bool = False) -> float:
    """When a call ends, by ``time.monotonic``."""
    minutes = minutes or (_QUICK_MINUTES if quick else None)
    return time.monotonic() + 60 * minutes if minutes else float("inf")


def run(plan: Plan, folder: Path, workers: int = 1, minutes: float | None = None, so_far: bool = False) -> Any:
    """Do what is not done, then judge what is.

    Args:
        plan: of a folder that was begun with the same one, or of a new folder.
        folder: where everything is kept.
        workers: jobs at a time, each on one thread.
        minutes: end after so long, whatever is left.
        so_far: train nothing more.

    Returns:
        the results (``figures.judge``), with the names of jobs that failed.
    """
    bench = begin(plan, folder)
    runner = Runner(bench, workers, deadline(minutes))
    if so_far and not bench.prepared:
        raise SystemExit(f"{folder} holds no patients yet; leave out --so-far.")
    if not so_far and runner.prepare():
        runner.do(jobs_of(plan))
    if not bench.prepared:
        return {"failed": runner.failed, "arms": {}, "jobs": {"done": 0, "of": sum(1 for _ in jobs_of(plan))}}
    return {**figures.judge(bench), "failed": runner.failed}


def main() -> int:
    """Run, show, and write."""
    parser = parser_of("headline", __doc__, "the mechanics on few patients: under three minutes")
    parser.add_argument("--minutes", type=float, metavar="N", help="end this call after so long; call again to go on")
    parser.add_argument("--steps", type=int, metavar="N", help="of every run, fixed for the folder (1500; quick: 12)")
    parser.add_argument("--folder", type=Path, help="where everything is kept (headline-output, quick: -quick)")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="runs at a time")
    parser.add_argument("--so-far", action="store_true", help="train nothing more: judge and show what is done")
    arguments = parser.parse_args()
    minutes = arguments.minutes or (_QUICK_MINUTES if arguments.quick else None)
    folder = arguments.folder or Path("headline-output-quick" if arguments.quick else "headline-output")
    plan = work.QUICK if arguments.quick else work.FULL
    plan = replace(plan, steps=arguments.steps) if arguments.steps else plan
    found = run(plan, folder, arguments.workers, minutes, arguments.so_far)
    for path in (folder / "ladder.json", arguments.json):
        keep(found, path)
    if found["arms"]:
        print_line("\n".join(figures.lines(found)))
        figures.plot(found, folder / "ladder.png")
    left = found["jobs"]["of"] - found["jobs"]["done"]
    say(f"{left} runs are left; the same command goes on." if left else "All runs are done.")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
