"""Kill -9 at any moment, of the driver or of a worker: nothing is lost, nothing is half-written, and the finished store
is the same, byte for byte, as that of a run that nobody disturbed."""

from __future__ import annotations

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
    """One cohort and its undisturbed store."""

    table: Path
    whole: dict[str, str]

    def start(self, store: Path, workers: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable, "-m", "ctglip", "preprocess", self.table, store,
                "--config", "preprocess/demo_3mm", "--set", "ct.spacing_mm=[1.2, 1.2, 1.2]",
                "--workers", str(workers),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def finish(self, store: Path, workers: int) -> None:
        run = self.start(store, workers)
        _, errors = run.communicate(timeout=600)
        assert run.returncode == 0, errors.decode()


@pytest.fixture
def campaign(make_cohort, tmp_path: Path) -> Campaign:
    table, _ = make_cohort(STUDIES)
    made = Campaign(table, {})
    made.finish(tmp_path / "whole", 1)
    made.whole = contents(tmp_path / "whole")
    return made


def _kill_driver(run: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
    run.kill()
    run.wait()
    return True


def _kill_worker(run: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
    """Kill one of the run's Ray workers; False when none is left."""
    named = [(child, _name(child)) for child in _descendants(run)]
    workers = [child for child, name in named if name.startswith("ray::") and "Agent" not in name]
    if workers:
        workers[int(rng.integers(len(workers)))].kill()
    return bool(workers)


def _descendants(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(run.pid).children(recursive=True)
    except psutil.Error:
        return []


def _still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end within a minute. A zombie has ended: its new parent has not asked for its exit code yet."""
    ends = time.monotonic() + 60
    while running := [one for one in processes if _runs(one)]:
        if time.monotonic() > ends:
            break
        time.sleep(0.1)
    return running


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return process.cmdline()[0]
    except (psutil.Error, IndexError):
        return ""


def _wait_for_a_moment(run: subprocess.Popen[bytes], store: Path, moment: float, rng: np.random.Generator) -> None:
    """Wait until a share ``moment`` of the studies is written, and a little longer. Moments are told by work done, not
    by the clock, so that a busy machine spreads them as a quiet one does."""
    before = len(list(store.glob("studies/0*.zarr")))
    wanted = before + moment * (STUDIES - before)
    while run.poll() is None and len(list(store.glob("studies/0*.zarr"))) < wanted:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.1 if moment < 1 else 0.5))


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
    """Four kills. A driver is killed at the start, at two random shares of the work, and while the tables are written,
    and started again each time on what is left; a run whose worker is killed goes on by itself."""
    rng = np.random.default_rng(seed)
    driver = kill is _kill_driver
    moments = [0.0, *sorted(rng.uniform(0.05, 0.95, 2)), 1.0] if driver else list(rng.uniform(0.02, 0.85, 4))
    orphans: list[psutil.Process] = []
    kills = 0
    for number, moment in enumerate(moments):
        store = tmp_path / ("store" if driver else f"store{number}")
        run = campaign.start(store, workers)
        _wait_for_a_moment(run, store, moment, rng)
        orphans += _descendants(run)
        kills += kill(run, rng)
        if not driver:
            _, errors = run.communicate(timeout=600)
            assert run.returncode == 0, errors.decode()
            assert contents(store) == campaign.whole
    assert kills >= len(moments) - 1
    campaign.finish(store, workers)
    assert contents(store) == campaign.whole
    assert verify(Store.open(store)) == []
    assert not _still_running(orphans), "Ray outlived its driver"


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_keeps_what_was_finished(campaign: Campaign, tmp_path: Path, workers: int) -> None:
    store = tmp_path / "store"
    run = campaign.start(store, workers)
    while run.poll() is None and len(list(store.glob("studies/0*.zarr"))) < 5:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 130, errors.decode()
    assert b"run the same command again" in errors
    assert 1 <= len(Store.open(store).study_ids) < STUDIES
    written = {path: path.stat().st_mtime_ns for path in store.glob("studies/0*.zarr")}
    campaign.finish(store, workers)
    assert contents(store) == campaign.whole
    assert written == {path: path.stat().st_mtime_ns for path in written}, "a finished study was done again"


@pytest.mark.slow
def test_an_interrupt_while_ray_starts(campaign: Campaign, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = campaign.start(store, 2)
    begun: list[psutil.Process] = []
    while run.poll() is None and not begun:
        begun = _descendants(run)
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 130, errors.decode()
    assert b"run the same command again" in errors
    assert not _still_running(begun), "Ray outlived its driver"
    campaign.finish(store, 2)
    assert contents(store) == campaign.whole
