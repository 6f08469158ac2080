"""Shortcuts: who is trained on and asked in each fold, and that a model which follows the group alone is found out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.files import write_json
from experiments.headline import work
from experiments.headline.splits import UNUSED, split_of
from experiments.headline.work import Bench, Job
from experiments.shortcuts import __main__ as shortcuts

FINDING = "liver:hepatic_steatosis"
GROUP = "phase=portal"


def patients(count: int = 400) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Of two anatomies and phases; the last patient has a study of either phase."""
    rng = np.random.default_rng(0)
    phases = np.where(rng.random(count) < 0.5, "portal", "native")
    rows = [(f"s{n}", f"p{n}", ("standard", "obese")[n % 2], str(phases[n])) for n in range(count)]
    other = "native" if rows[-1][3] == "portal" else "portal"
    rows.append(("again", rows[-1][1], rows[-1][2], other))
    cohort = pl.DataFrame(rows, schema=["study_id", "patient_id", "anatomy", "phase"], orient="row")
    truth = pl.DataFrame({"study_id": cohort["study_id"], FINDING: (rng.random(len(cohort)) < 0.3).astype(int)})
    return cohort, truth


def test_nobody_of_the_group_left_out_is_trained_on() -> None:
    cohort, truth = patients()
    split = split_of(GROUP, cohort, truth)
    phases = dict(cohort.select("patient_id", "phase").head(400).iter_rows())
    for patient, name in split.items():
        assert name in ("test", UNUSED) or phases[patient] == "native"
    assert split["p399"] == UNUSED
    assert Counter(split.values())["train"] > 100
    other = split_of("obese", cohort, truth)
    native = [patient for patient in phases if phases[patient] == "native" and int(patient[1:]) % 2 == 0]
    assert {other[patient] for patient in native} == {"train", "val", "test"}
    assert all(other[patient] == split[patient] for patient in native)  # the same place in every fold


@pytest.mark.parametrize("share", [90, 50])
def test_a_finding_goes_with_the_group_as_often_as_asked(share: int) -> None:
    cohort, truth = patients()
    split = split_of(f"{share}:{GROUP}:{FINDING}", cohort, truth)
    table = cohort.join(truth, on="study_id").with_columns(
        split=pl.Series([split[patient] for patient in cohort["patient_id"]])
    )
    learned = table.filter(pl.col("split").is_in(["train", "val"]))
    for ill, part in ((1, share), (0, 100 - share)):
        of = (learned.filter(pl.col(FINDING) == ill)["phase"] == "portal").mean()
        assert of == pytest.approx(part / 100, abs=0.02)
    both = Counter(split.values())
    plain = Counter(split_of(f"{140 - share}:{GROUP}:{FINDING}", cohort, truth).values())
    learned_on = (both["train"] + both["val"], plain["train"] + plain["val"])
    assert abs(learned_on[0] - learned_on[1]) <= 2
    assert both["test"] == plain["test"]


def test_a_model_that_follows_the_group_alone_is_right_where_it_is_aligned_and_wrong_where_it_is_reversed(
    tmp_path: Path,
) -> None:
    cohort, truth = patients()
    plan = shortcuts.replace(shortcuts.FULL, folds=(f"90:{GROUP}:{FINDING}", GROUP), arms=("recipe",), draws=50)
    bench = Bench(tmp_path, plan)
    (tmp_path / "cohort").mkdir()
    (tmp_path / "scores").mkdir()
    cohort.write_csv(tmp_path / "cohort" / "cohort.csv")
    rows = cohort.join(truth, on="study_id").select(
        "study_id", organ=pl.lit("liver"), abnormality=pl.lit("hepatic_steatosis"), label=FINDING,
        difference=(pl.col("phase") == "portal").cast(pl.Float64),
    )  # fmt: skip
    for fold in plan.folds:
        rows.select(work.SCORES).write_parquet(bench.scores(Job("recipe", fold, 0)))
        write_json(bench.result(Job("recipe", fold, 0)), {})
    found = shortcuts.judge(bench)
    seen = found["confounded"][f"{GROUP}, {FINDING}"]["recipe"]["confounded"]
    assert seen["aligned"]["value"] == 1.0
    assert seen["reversed"]["value"] == 0.0
    assert seen["all"]["value"] == pytest.approx(0.5, abs=0.1)
    left_out = found["left_out"][GROUP]["recipe"]
    assert left_out["never_trained_on"]["value"] == 0.5
    text = "\n".join(shortcuts.lines(found))
    assert "2 of 2 runs" in text
    assert "1.000 [1.000, 1.000] | 0.000" in text


def test_patients_are_taken_from_another_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no patients"):
        shortcuts.share_patients(tmp_path / "own", tmp_path / "none")
    (tmp_path / "other" / "store").mkdir(parents=True)
    shortcuts.share_patients(tmp_path / "own", tmp_path / "other")
    shortcuts.share_patients(tmp_path / "own", tmp_path / "other")
    assert (tmp_path / "own" / "store").resolve() == (tmp_path / "other" / "store").resolve()
