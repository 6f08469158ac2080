"""``ctglip demo``: the whole path on simulated patients, then the questions, then one page."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import err, print_line
from ctglip.errors import CTGLIPError
from ctglip.places import writable_folder


@dataclass
class Walk:
    """Runs commands one after the other and keeps how long each took."""

    steps: list[tuple[str, float, str]] = field(default_factory=list)

    def command(self, name: str, detail: str, *arguments: str | Path) -> None:
        """Run one ``ctglip`` command in a process of its own, as a user would; its fault ends the walk."""
        query = shlex.join(["ctglip", *map(str, arguments)])
        err.print(f"\n[bold]{name}[/bold]\n$ {query}", highlight=False, soft_wrap=True)
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "ctglip", *map(str, arguments)], check=False)  # noqa: S603
        if done.returncode != 0:
            raise CTGLIPError(f"The step '{name}' ended with exit code {done.returncode}.", fix="Its message is above.")
        self.steps.append((name, time.monotonic() - start, detail))


def demo(
    folder: Annotated[
        Path, typer.Argument(callback=writable_folder, help="Folder for everything the demo makes.")
    ] = Path("demo-output"),
    studies: Annotated[int, typer.Option(min=60, help="Simulated studies.")] = 300,
    workers: Annotated[int, typer.Option(min=1, help="Processes for simulation and preprocessing.")] = min(
        os.cpu_count() or 1, 8
    ),
    seed: Annotated[int, typer.Option(help="Seed of the simulated cohort and of training.")] = 0,
) -> None:
    """Simulate, preprocess, pretrain, evaluate, ask: a whole run on simulated patients and one real chest CT."""
    cohort, store, run, evaluation = (folder / name for name in ("cohort", "store", "run", "evaluation"))
    walk = Walk()
    walk.command(
        "Simulate", f"{studies} studies, {workers} processes",
        "simulate", cohort, "--studies", str(studies), "--seed", str(seed), "--workers", str(workers),
    )  # fmt: skip
    walk.command(
        "Preprocess", f"on local Ray, {workers} workers",
        "preprocess", cohort / "cohort.csv", store, "--config", "preprocess/demo_3mm", "--workers", str(workers),
    )  # fmt: skip
    walk.command(
        "Pretrain", "organ crops against report sentences, frozen sentence encoder",
        "pretrain", store, run, "--config", "small/ctglip_cnn", "--set", f"seed={seed}",
        *(["--resume"] if run.exists() else []),
    )  # fmt: skip
    walk.command(
        "Evaluate", "held-out patients against the truth table, with controls",
        "evaluate", run, store, evaluation, "--split", "test", "--labels", cohort / "truth.csv",
    )  # fmt: skip
    page = _ask_and_show(walk, folder, run)
    err.print(f"The whole run took {sum(seconds for _, seconds, _ in walk.steps):.0f} s. The page:", highlight=False)
    print_line(str(page))
    ask = shlex.join(["ctglip", "serve", str(run), "--store", str(store)])
    err.print(f"Drop a scan on a page and ask this model about it:\n$ {ask}", highlight=False, soft_wrap=True)


def _ask_and_show(walk: Walk, folder: Path, run: Path) -> Path:
    """Ask the two scans with ``ctglip query``'s own functions and write the page."""
    from ctglip.cli.demo_page import ask_real, ask_simulated, choose_patient, write_index
    from ctglip.inference.pipeline import Pipeline
    from ctglip.models.release import load_release

    err.print("\n[bold]Query[/bold]")
    start = time.monotonic()
    model = Pipeline(load_release(run))
    patient = choose_patient(folder, model)
    ask_options = [part for question in patient.questions for part in ("--ask", question)]
    query = [
        "ctglip",
        "query",
        run,
        patient.image,
        "--masks",
        patient.masks,
        *ask_options,
        "--out",
        folder / "simulated",
    ]
    err.print(f"$ {shlex.join(map(str, query))}", highlight=False, soft_wrap=True)
    panels = [ask_simulated(model, patient, folder / "simulated")]
    real = ask_real(model, folder / "real")
    if real is not None:
        panels.append(real)
    walk.steps.append(("Query", time.monotonic() - start, f"{len(panels)} scans, each organ encoded once"))
    return write_index(folder, walk.steps, panels)
