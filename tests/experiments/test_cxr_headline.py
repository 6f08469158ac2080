"""The experiment on radiographs: whole patients in each split, enough radiographs in those that count, arms that can be
built."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctglip.training.assembly import model_parts
from ctglip.vocabulary.organs import load_organs
from experiments.cxr_headline import work
from experiments.cxr_headline.parts import about_pointing, run_of

ROOT = Path(__file__).resolve().parents[2]


def test_patients_stay_whole_and_the_splits_are_large_enough() -> None:
    patients = [f"p{number // 2 if number % 3 else number}" for number in range(300)]
    split_of = work._splits(patients, (180, 30, 90))
    counts = {name: sum(split_of[p] == name for p in patients) for name in ("train", "val", "test")}
    assert counts["train"] >= 180
    assert counts["test"] >= 90
    assert sum(counts.values()) == 300
    assert split_of == work._splits(list(patients), (180, 30, 90))


@pytest.mark.parametrize("name", list({**work.ARMS, **work.ABLATION}))
def test_arms_differ_only_in_what_they_are_about(name: str) -> None:
    size = work.SIZES["full"]
    arm = {**work.ARMS, **work.ABLATION}[name]
    config = work.config_of(arm, size, seed=2)
    assert (config.seed, config.loop.steps, config.data.size) == (2, size["steps"], size["pixels"])
    assert (config.data.flip, config.data.rotate, config.data.perspective) == (0, 0, 0), "sides are asked for"
    if name != "ecamp":
        assert (config.model.image.name, config.model.encoder.norm) == ("tokens", "batch")
    parts, _ = model_parts(config, 384, load_organs(), ("heart", "lung_left"))
    assert (parts.tags is not None) == (name.startswith("asg") and name != "asg - recognition")


def test_runs_have_names_of_their_own(tmp_path: Path) -> None:
    names = [run_of(tmp_path, name, seed).name for name in {**work.ARMS, **work.ABLATION} for seed in range(3)]
    assert len(set(names)) == len(names)
    assert not any(" " in name or "," in name for name in names)


def test_a_table_of_pointing() -> None:
    lines = about_pointing(
        {"clip (whole)": {"all": [0.3, 0.13, 40], "x": [0.5, 0.2, 10]}, "asg": {"all": [0.1, 0.2, 9]}}
    )
    assert lines[-2:] == ["| clip (whole) | 0.30 (0.13) | 0.50 (0.20) |", "| asg | 0.10 (0.20) |  |"]
    assert about_pointing({}) == []


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on(tmp_path: Path) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    command = [sys.executable, "-m", "experiments.cxr_headline", "--quick", "--arms", "clip", "asg", "--out", str(out)]
    first = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    begun, limit = out / "runs" / "clip-0" / "environment.json", time.monotonic() + 300
    while not begun.is_file():
        assert first.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    radiographs, texts = (out / name for name in ("radiographs.json", "texts.json"))
    before = [path.stat().st_mtime_ns for path in (radiographs, texts)]
    while alive(first.pid):
        assert time.monotonic() < limit, "its processes end with it"
        time.sleep(0.1)
    subprocess.run([*command, "--json", str(figures)], cwd=ROOT, check=True, capture_output=True)
    assert [path.stat().st_mtime_ns for path in (radiographs, texts)] == before
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert {name.split()[0] for name in found["rows"]} >= {"clip", "asg"}
    assert found["split"]["train"] >= 48


def alive(group: int) -> bool:
    """Some process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
