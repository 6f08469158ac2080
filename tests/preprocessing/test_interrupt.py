"""Ctrl-C: the first asks, the second insists; what was finished stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.interrupt import stop_on_first_signal

from ctglip.cohort import read_cohort
from ctglip.store.tables import Store
from tests.preprocessing.conftest import contents


def _press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_asks_and_the_second_insists(capfd) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_first_signal() as stop:
        assert not stop()
        _press()
        assert stop()
        assert "press Ctrl-C again" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            _press()
    assert signal.getsignal(signal.SIGINT) is before


def _pressing(after: int):
    """A watch that presses Ctrl-C after some results."""

    def watch(results, total: int):
        for number, result in enumerate(results, start=1):
            yield result
            if number == after:
                _press()

    return watch


def test_a_run_ends_between_studies_and_goes_on_later(make_cohort, config, tmp_path: Path) -> None:
    cohort = read_cohort(make_cohort(5)[0])
    preprocess_cohort(cohort, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt), stop_on_first_signal() as stop:
        preprocess_cohort(cohort, tmp_path / "store", config, watch=_pressing(2), stop=stop)
    assert Store.open(tmp_path / "store").study_ids == ["00000", "00001"]
    summary = preprocess_cohort(cohort, tmp_path / "store", config)
    assert (summary.written, summary.up_to_date) == (3, 2)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_asked_after_the_last_study_is_too_late(make_cohort, config, tmp_path: Path) -> None:
    cohort = read_cohort(make_cohort(2)[0])
    with stop_on_first_signal() as stop:
        summary = preprocess_cohort(cohort, tmp_path / "store", config, watch=_pressing(2), stop=stop)
    assert summary.written == 2


@pytest.mark.slow
def test_ray_finishes_what_is_at_work(make_cohort, config, tmp_path: Path) -> None:
    cohort = read_cohort(make_cohort(30)[0])
    with pytest.raises(KeyboardInterrupt), stop_on_first_signal() as stop:
        preprocess_cohort(cohort, tmp_path / "store", config, workers=2, watch=_pressing(2), stop=stop)
    kept = len(Store.open(tmp_path / "store").study_ids)
    assert 2 <= kept < 30
    assert preprocess_cohort(cohort, tmp_path / "store", config).up_to_date == kept
