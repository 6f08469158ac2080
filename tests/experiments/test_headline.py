"""The ladder: arms that differ by one thing, runs that go on where they were cut off, answers judged in pairs."""

from __future__ import annotations

import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.files import read_json, write_json
from experiments.headline import __main__ as headline
from experiments.headline import figures, work
from experiments.headline.arms import ARMS, READING, config_of, difference
from experiments.headline.work import Bench, Job, Plan, jobs_of

BUDGET = {"loop.steps", "loop.checkpoint_every", "optim.warmup"}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_differs_from_its_parent_in_one_thing(arm: str) -> None:
    found, asked = difference(arm), ARMS[arm]
    if asked.parent is None:
        assert arm == "report"
    elif asked.differs == READING:
        assert found
        assert all(name.startswith(tuple(f"{node}." for node in READING)) or name in READING for name in found), found
    elif asked.budgets > 1:
        assert found == BUDGET
    else:
        assert len(asked.differs) == 1
        assert found == set(asked.differs)


def test_encoder_texts_windows_and_steps_are_the_same_in_all_arms() -> None:
    configs = {arm: config_of(arm, 0, 100, Path("crops")) for arm in ARMS}
    first = configs["report"]
    for arm, config in configs.items():
        assert config.model.encoder == first.model.encoder
        assert config.text == first.text
        assert config.loop.steps == 100 * ARMS[arm].budgets
        seen = config.data.crops if config.data.name == "crops" else config.data.input  # pyright: ignore[reportAttributeAccessIssue]
        assert len(seen.windows_hu) == 3
        assert seen.windows_hu == first.data.input.windows_hu  # pyright: ignore[reportAttributeAccessIssue]
        if ARMS[arm].differs != ("optim.lr",) and ARMS[arm].budgets == 1:
            assert config.optim == first.optim
    details = {arm: configs[arm].data.crops.details for arm in ARMS if configs[arm].data.name == "crops"}  # pyright: ignore[reportAttributeAccessIssue]
    assert {arm for arm, names in details.items() if names} == {"extremes"}


def test_every_anatomy_is_left_out_for_every_seed_and_the_long_run_has_one_of_each() -> None:
    jobs = list(jobs_of(work.FULL))
    assert len({job.name for job in jobs}) == len(jobs)
    assert all(Job.of(job.name) == job for job in jobs)
    assert len([job for job in jobs if job.arm == "recipe"]) == 6 * 3
    assert len([job for job in jobs if job.arm == "report_long"]) == 1
    assert len([job for job in jobs if job.arm == "hand_features"]) == 6
    assert {job.arm for job in jobs} == {*ARMS, *work.FEATURES}


# ---- answers

PLAN = Plan(0, ("standard", "obese"), ("report", "recipe", "same_organ_8", "recipe_8"), (0,), 10, 200)


def made_up(folder: Path, strength: dict[str, float], plan: Plan = PLAN) -> Bench:
    """Answers about 80 patients, half of each anatomy; positives score higher by so much."""
    bench = Bench(folder, plan)
    rng = np.random.default_rng(0)
    cohort = [(f"s{n:02d}", f"p{n:02d}", plan.anatomies[n % 2]) for n in range(80)]
    (folder / "cohort").mkdir()
    pl.DataFrame(cohort, schema=["study_id", "patient_id", "anatomy"], orient="row").write_csv(
        folder / "cohort" / "cohort.csv"
    )
    for arm, shift in strength.items():
        for fold in plan.anatomies:
            rows = [
                (study, "liver", name, (n // 2) % 2, float(rng.normal(shift * ((n // 2) % 2))))
                for name in ("liver_cyst", "hepatic_steatosis")
                for n, (study, _, _) in enumerate(cohort)
            ]
            job = Job(arm, fold, 0)
            bench.scores(job).parent.mkdir(exist_ok=True)
            pl.DataFrame(rows, schema=list(work.SCORES), orient="row").write_parquet(bench.scores(job))
            write_json(bench.result(job), {"steps": 10, "train_cpu_s": 1.0})
    return bench


def test_differences_are_paired_and_aims_are_met_or_missed(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    bench = made_up(tmp_path, {"report": 0.0, "recipe": 3.0})
    found = figures.judge(bench)
    assert found["pairs_judged"]["obese"] > 20
    assert found["jobs"] == {"done": 4, "of": 8}
    good, poor = found["arms"]["recipe"], found["arms"]["report"]
    assert good["left_out"]["low"] > 0.9
    assert good["left_out"]["value"] == pytest.approx(np.mean(list(good["by_fold"].values())))
    assert good["over_report"]["value"] == pytest.approx(good["left_out"]["value"] - poor["left_out"]["value"])
    assert good["over_report"]["low"] > 0.2
    met = {aim["aim"].split(":")[0]: aim["met"] for aim in found["aims"]}
    assert met["recipe minus report-level CLIP"] is True
    assert met["recipe minus boxes"] is None
    assert met["dictionary negatives at batch 8"] is None
    text = "\n".join(figures.lines(found))
    assert "4 of 8 runs" in text
    assert "not judged yet" in text
    assert figures.plot(found, tmp_path / "ladder.png").stat().st_size > 1000


def test_a_gain_whose_interval_holds_zero_is_a_missed_aim(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    found = figures.judge(made_up(tmp_path, {"recipe_8": 1.0, "same_organ_8": 1.0}))
    met = {aim["aim"]: aim["met"] for aim in found["aims"]}
    assert met["dictionary negatives at batch 8: a gain"] is False


def test_the_anatomy_left_out_and_the_others_are_judged_apart(tmp_path: Path) -> None:
    """Answers that are right on the anatomy left out and wrong on the others."""
    (tmp_path / "results").mkdir()
    bench = made_up(tmp_path, {"recipe": 0.0})
    for fold in PLAN.anatomies:
        path = bench.scores(Job("recipe", fold, 0))
        table = pl.read_parquet(path).join(bench.cohort, on="study_id")
        sign = pl.when(pl.col("anatomy") == fold).then(1.0).otherwise(-1.0)
        table.with_columns(difference=sign * (2 * pl.col("label") - 1)).select(work.SCORES).write_parquet(path)
    row = figures.judge(bench)["arms"]["recipe"]
    assert row["left_out"]["value"] == 1.0
    assert row["in_domain"]["value"] == 0.0


def test_questions_that_an_arm_could_not_answer_are_judged_of_none(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    bench = made_up(tmp_path, {"report": 0.0, "recipe": 3.0})
    path = bench.scores(Job("recipe", "obese", 0))
    pl.read_parquet(path).filter(pl.col("abnormality") == "liver_cyst").write_parquet(path)
    shared = figures.Answers(bench, figures.pairs_by_fold(PLAN.anatomies)).shared
    assert set(shared["obese"]["abnormality"]) == {"liver_cyst"}
    assert set(shared["standard"]["abnormality"]) == {"liver_cyst", "hepatic_steatosis"}


# ---- running


def starts(folder: Path, body: str) -> str:
    """A program in the place of Python that is called as ``... -m experiments.headline.work FOLDER JOB``."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_jobs_end_when_time_is_up_and_the_next_call_does_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    bench = Bench(tmp_path, PLAN)
    jobs = list(jobs_of(PLAN))
    write_json(bench.result(jobs[0]), {})
    slow = starts(tmp_path, 'sleep 60; echo "{}" > "$3/results/$4.json"')
    monkeypatch.setattr(sys, "executable", slow)
    runner = headline.Runner(bench, 2, headline.time.monotonic() + 1)
    runner.do(iter(jobs))
    assert not runner.running
    assert sum(bench.result(job).is_file() for job in jobs) == 1
    calls = tmp_path / "calls"
    quick = starts(tmp_path, f'echo $4 >> {calls}; test $4 != "{jobs[2].name}" && echo "{{}}" > "$3/results/$4.json"')
    monkeypatch.setattr(sys, "executable", quick)
    runner = headline.Runner(bench, 2, float("inf"))
    runner.do(iter(jobs))
    assert runner.failed == [jobs[2].name]
    assert sorted(calls.read_text().split()) == sorted(job.name for job in jobs[1:])
    assert sum(bench.result(job).is_file() for job in jobs) == len(jobs) - 1


def test_a_folder_that_was_begun_with_another_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no patients yet"):
        headline.run(PLAN, tmp_path, so_far=True)
    with pytest.raises(SystemExit, match="another plan"):
        headline.run(replace(PLAN, steps=11), tmp_path)
    assert Bench.open(tmp_path).plan == PLAN


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_patients_to_figures(tmp_path: Path) -> None:
    plan = Plan(24, ("standard", "obese"), ("hand_features", "recipe", "report"), (0,), 12, 20)
    folder = tmp_path / "ladder"
    found = headline.run(replace(plan, arms=plan.arms), folder, 1)
    assert not found["failed"], [path.read_text()[-2000:] for path in (folder / "logs").glob("*")]
    assert set(found["arms"]) == set(plan.arms)
    assert found["arms"]["recipe"]["folds"] == 2
    bench = Bench.open(folder)
    splits = pl.read_parquet(bench.store("obese") / "splits.parquet").join(bench.cohort, on="study_id")
    assert set(splits.filter(pl.col("anatomy") == "obese")["split"]) == {"test"}
    assert {"train", "test"} <= set(splits.filter(pl.col("anatomy") == "standard")["split"])
    job = Job("recipe", "obese", 0)
    scores = pl.read_parquet(bench.scores(job))
    run = folder / "runs" / job.name
    last = sorted((run / "checkpoints").iterdir())[-1]
    bench.result(job).unlink()  # as if it had been killed after its last checkpoint
    for path in (run / "model").iterdir():
        if path.is_file():
            path.unlink()
    again = headline.run(plan, folder, 1)
    assert last.exists()
    assert read_json(bench.result(job))["resumed"]
    assert pl.read_parquet(bench.scores(job)).equals(scores)
    assert again["arms"]["recipe"]["left_out"] == found["arms"]["recipe"]["left_out"]
