from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.limits import TimeUp, limits

from ctglip.cohort import read_cohort
from ctglip.modality import MODALITIES
from tests.preprocessing.conftest import write_table

STUCK = """
import signal, time
import ctglip_preprocessing.limits as limits
limits.GRACE_S = 0.2
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
with limits.limits(0.2, 100, hard=True):
    time.sleep(20)
"""

# A process of its own: in one that has run for long, freed memory can be used again without asking for more.
HUNGRY = """
from ctglip_preprocessing.limits import limits
try:
    with limits(60, 0.2, hard=False):
        bytearray(800_000_000)
except MemoryError:
    bytearray(100_000_000)
else:
    raise SystemExit("0.8 GB were given where 0.2 GB are allowed")
"""


def test_time_runs_out_and_what_was_set_before_is_restored() -> None:
    start = time.monotonic()
    with pytest.raises(TimeUp), limits(0.2, 100, hard=False):
        time.sleep(10)
    assert time.monotonic() - start < 5
    time.sleep(0.01)


def test_no_except_clause_of_a_library_swallows_the_end_of_time() -> None:
    def stubborn() -> None:
        try:
            time.sleep(10)
        except Exception:  # noqa: BLE001
            pytest.fail("swallowed")

    with pytest.raises(TimeUp), limits(0.1, 100, hard=True):
        stubborn()


def test_a_process_that_no_interrupt_reaches_is_ended() -> None:
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert time.monotonic() - start < 15


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited on Linux alone")
def test_memory_runs_out_and_comes_back() -> None:
    subprocess.run([sys.executable, "-c", HUNGRY], check=True, timeout=60)


def test_a_study_that_hangs_is_a_row(make_cohort, config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, rows = make_cohort(2)
    modality = type(MODALITIES["ct"])
    read = modality.read

    def stuck(self: object, path: Path, *more: object) -> object:
        if path.name == "ct00000.nii.gz":
            time.sleep(60)
        return read(self, path, *more)  # pyright: ignore

    monkeypatch.setattr(modality, "read", stuck)
    quick = config.model_copy(update={"study_timeout_s": 1.0})
    summary = preprocess_cohort(read_cohort(table), tmp_path / "store", quick)
    assert [(failure.study_id, failure.code) for failure in summary.failed] == [("00000", "timeout")]
    assert summary.written == 1
    write_table(table, rows[1:])


# A process of its own, as above.
GREEDY = """
import sys
from pathlib import Path
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig
from ctglip.cohort import read_cohort
from ctglip.config import load_settings

def run(*changes):
    config = load_settings(PreprocessConfig, "preprocess/demo_3mm", ["ct.spacing_mm=[4.0, 4.0, 4.0]", *changes])
    return preprocess_cohort(read_cohort(Path(sys.argv[1])), Path(sys.argv[2]) / str(len(changes)), config)

assert run().written == 2  # all modules are loaded now
summary = run("ct.spacing_mm=[0.4, 0.4, 0.4]", "study_memory_gb=0.03")
print(sorted({failure.code for failure in summary.failed}), summary.written)
"""


def test_a_study_that_wants_too_much_memory_is_a_row(make_cohort, tmp_path: Path) -> None:
    table, _ = make_cohort(2)
    command = [sys.executable, "-c", GREEDY, str(table), str(tmp_path / "store")]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['out_of_memory'] 0"
