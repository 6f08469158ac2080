"""Kill -9 at any moment, of the driver or of a worker: nothing is lost, nothing is half-written, and the finished store
is the same, byte for byte, as that of a run that nobody disturbed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from ctglip.store.tables import Store
from ctglip.store.verify import verify
from tests.preprocessing.conftest import contents

STUDIES = 40
KILLS = 4


@dataclass
class Campaign:
    """One cohort, its undisturbed store, and how long that took."""

    table: Path
    whole: dict[str, str]
    seconds: float

    def start(self, store: Path, workers: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable, "-m", "ctglip", "preprocess", self.table, store,
                "--config", "preprocess/demo_3mm", "--set", "volume.spacing_mm=[1.2, 1.2, 1.2]",
                "--workers", str(workers),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def finish(self, store: Path, workers: int) -> None:
        run = self.start(store, workers)
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors.decode()


@pytest.fixture
def campaign(make_cohort, tmp_path: Path) -> Campaign:
    table, _ = make_cohort(STUDIES)
    made = Campaign(table, {}, 0.0)
    start = time.monotonic()
    made.finish(tmp_path / "whole", 1)
    made.seconds = time.monotonic() - start
    made.whole = contents(tmp_path / "whole")
    return made


def _kill_driver(run: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
    run.kill()
    run.wait()
    return True


def _kill_worker(run: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
    """Kill one of the run's Ray workers at work; False when there is none (yet, or any more)."""
    try:
        family = psutil.Process(run.pid).children(recursive=True)
        workers = [child for child in family if any("ray::" in part for part in child.cmdline())]
    except psutil.Error:
        return False
    if not workers:
        return False
    try:
        workers[int(rng.integers(len(workers)))].kill()
    except psutil.Error:
        return False
    return True


def _descendants(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(run.pid).children(recursive=True)
    except psutil.Error:
        return []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "seed", "kill"),
    [
        (1, 1, _kill_driver), (1, 2, _kill_driver), (1, 3, _kill_driver),
        (2, 4, _kill_driver), (2, 5, _kill_worker),
    ],
    ids=["alone-1", "alone-2", "alone-3", "ray-driver", "ray-worker"],
)  # fmt: skip
def test_killed_at_random_moments(
    campaign: Campaign, tmp_path: Path, workers: int, seed: int, kill: Callable[..., bool]
) -> None:
    rng = np.random.default_rng(seed)
    kills = 0
    orphans: list[psutil.Process] = []
    for _ in range(8 * KILLS):
        store = tmp_path / f"store{kills // 2}"
        if (store / "quality.html").exists():
            shutil.rmtree(store)
        run = campaign.start(store, workers)
        start = 0.25 * campaign.seconds if workers == 1 else 2.0
        time.sleep(rng.uniform(start, start + campaign.seconds))
        orphans += _descendants(run)
        kills += kill(run, rng) if run.poll() is None else 0
        if kill is _kill_worker:
            _, errors = run.communicate(timeout=300)
            assert run.returncode == 0, errors.decode()
            assert contents(store) == campaign.whole
        if kills == KILLS:
            break
    assert kills == KILLS, "the runs were over before they could be hit"
    for store in sorted(tmp_path.glob("store*")):
        campaign.finish(store, workers)
        assert contents(store) == campaign.whole
        assert verify(Store.open(store)) == []
    _, alive = psutil.wait_procs(orphans, timeout=60)
    assert not alive, "Ray outlived its driver"


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_keeps_what_was_finished(campaign: Campaign, tmp_path: Path, workers: int) -> None:
    store = tmp_path / "store"
    run = campaign.start(store, workers)
    while run.poll() is None and len(list(store.glob("studies/0*.zarr"))) < 5:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors.decode()
    assert b"run the same command again" in errors
    assert 1 <= len(Store.open(store).study_ids) < STUDIES
    written = {path: path.stat().st_mtime_ns for path in store.glob("studies/0*.zarr")}
    campaign.finish(store, workers)
    assert contents(store) == campaign.whole
    assert written == {path: path.stat().st_mtime_ns for path in written}, "a finished study was done again"
