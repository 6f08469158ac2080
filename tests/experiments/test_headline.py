"""The headline experiment's machinery on a handful of patients: begun, cut off, taken up again, judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.files import read_json, write_json
from experiments.headline import __main__ as headline
from experiments.headline import figures, parts


def answers(folder: Path, shift: float, rng: np.random.Generator) -> Path:
    """An evaluation of 60 studies and two questions whose positives score higher by ``shift``."""
    rows = [
        (f"s{n:02d}", "liver", name, n % 2, float(rng.normal(shift * (n % 2))))
        for name in ("liver_cyst", "hepatic_steatosis")
        for n in range(60)
    ]
    folder.mkdir(parents=True)
    columns = ["study_id", "organ", "abnormality", "label", "difference"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "scores.parquet")
    seen = {"top1": {"value": 1.0}, "macro": {"value": 1.0}, "sides": None}
    write_json(folder / "results.json", {"macro_f1": 0.5, "effective_rank": 3.0, "recognition": seen})
    return folder


def test_differences_are_paired_over_the_same_patients(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    patients = {f"s{n:02d}": f"p{n // 2:02d}" for n in range(60)}
    good = figures.judge([answers(tmp_path / f"good{n}", 3.0, rng) for n in range(2)], patients, 200)
    poor = figures.judge([answers(tmp_path / "poor", 0.0, rng)], patients, 200)
    row = figures.row_of(good)
    assert row["macro_auroc"]["low"] > 0.9
    assert len(row["by_seed"]) == 2
    assert row["macro_auroc"]["value"] == pytest.approx(np.mean(row["by_seed"]))
    assert figures.difference(good, poor).low > 0.2
    assert figures.difference(good, good).high == 0
    one = figures.difference(good, poor, ["liver:liver_cyst"])
    assert one.value == pytest.approx(good.pairs["liver:liver_cyst"][0] - poor.pairs["liver:liver_cyst"][0])


def test_each_arm_differs_from_the_one_before_by_its_ingredient() -> None:
    configs = {name: parts.config_of(Path("x"), name, 0, 0.001, 10) for name in (*parts.LADDER, *parts.EXTRA)}
    report, sentence = configs["report"], configs["sentence"]
    assert sentence.model_copy(update={"data": report.data}) == report
    box, mask, random, full = (configs[name] for name in ("box", "mask", "random", "same_organ"))
    assert not box.data.crops.masked
    assert not box.model.regions.size
    for one, negatives in ((box, "batch"), (mask, "batch"), (random, "random"), (full, "same_organ")):
        assert one.objective.negatives == negatives
        assert one.model.encoder == report.model.encoder
        assert one.text == report.text
    assert mask.model_copy(update={"objective": full.objective}) == full
    assert configs["field"].data.crops.field_mm is not None
    assert set(configs["held_out"].data.held_out) == set(parts.HELD_OUT)
    for name in parts.VARIANTS:
        parts.config_of(Path("x"), name, 0, 0.001, 10)


@pytest.mark.slow
def test_the_ladder_on_a_handful_of_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms from patients to figures; what is done is not done again, and one run cut off goes on."""
    monkeypatch.setattr(headline, "LADDER", {name: parts.LADDER[name] for name in ("report", "same_organ")})
    monkeypatch.setattr(headline, "EXTRA", {})
    plan = replace(parts.QUICK, studies=24, budget_s=0.5)
    found = headline.run("ladder", plan, tmp_path, 1, data=tmp_path / "no-data")
    assert set(found["arms"]) == {"built_in"}
    assert set(found["arms"]["built_in"]) == {"report", "same_organ"}
    assert "same_organ - report" in found["differences"]["built_in"]
    assert (tmp_path / "figures" / "learning_curves.png").is_file()
    run = next((tmp_path / "runs").glob("*same_organ*"))
    weights = (run / "model" / "model.safetensors").read_bytes()
    job = next((tmp_path / "jobs").glob("*same_organ*"))
    job.unlink()
    again = headline.run("ladder", plan, tmp_path, 1, data=tmp_path / "no-data")
    assert read_json(job)["resumed"]
    assert (run / "model" / "model.safetensors").read_bytes() == weights
    assert again["arms"] == found["arms"]
