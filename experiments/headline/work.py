"""What the ladder is made of: patients, folds that each leave one anatomy out, and one job (train, judge) at a time.

Everything lies in one folder and is made once. A job that is done has its file in ``results/``; one that was cut off
goes on from its last checkpoint.

    python -m experiments.headline.work FOLDER JOB      # what the command starts for each job
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctglip.files import read_json, write_json
from experiments.headline.arms import ARMS, FEATURES, LABELS, config_of
from experiments.headline.splits import split_of
from experiments.side_by_side import tied_to_the_parent

KEYS = ("study_id", "organ", "abnormality")
SCORES = (*KEYS, "label", "difference")
PREPARE, PLAIN = "prepare", "plain"
"""In the place of a job: the patients, and all jobs that train no network."""
ABOUT = ("study_id", "patient_id", "anatomy", "phase", "kernel", "scanner")


@dataclass(frozen=True)
class Plan:
    """How much is done; fixed before anything is trained.

    Attributes:
        studies: simulated, of all anatomies together.
        anatomies: left out in turn; the first is the fold of the arms that have one alone.
        arms: which, in the order in which they are run for each seed.
        seeds: of the trainings.
        steps: of every arm with one budget.
        draws: bootstrap draws of patients.
        cohort_seed: of the simulation.
        folds: other ones than each anatomy left out (``splits``).
    """

    studies: int
    anatomies: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    draws: int
    cohort_seed: int = 71
    folds: tuple[str, ...] = ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """The folds, by their names."""
        return self.folds or self.anatomies


ORDER = (
    "hand_features", "volume_alone", "recipe", "report", "box", "mask", "recipe_8", "same_organ_8", "untaught",
    "sentence", "same_organ", "permuted", "mask_alone", "peak", "random_8", "random", "pool", "extremes", "no_size",
    "finer", "report_long", "report_rate_low", "report_rate_high",
)  # fmt: skip
CORE = ("recipe", "report", "box", "mask")
"""Compared first."""
ANATOMIES = ("standard", "child", "obese", "scoliotic", "long_chest", "missing_organs")
FULL = Plan(480, ANATOMIES, ORDER, (0, 1, 2), 1500, 1000)
QUICK = Plan(48, ("standard", "obese"), ("hand_features", "volume_alone", "recipe", "report"), (0,), 12, 50)


@dataclass(frozen=True)
class Job:
    """One arm, trained without one anatomy from one seed."""

    arm: str
    fold: str
    seed: int

    @property
    def name(self) -> str:
        """As files are named."""
        return f"{self.arm}--{self.fold}--s{self.seed}"

    @classmethod
    def of(cls, name: str) -> Job:
        """The job of a name."""
        arm, fold, seed = name.split("--")
        return cls(arm, fold, int(seed.removeprefix("s")))


def jobs_of(plan: Plan) -> Iterator[Job]:
    """All jobs in the order in which they are done.

    Seed by seed; first what trains no network, then the arms of ``CORE`` anatomy by anatomy, then the others arm by
    arm.
    """
    for seed in plan.seeds:
        jobs = [
            Job(arm, fold, seed)
            for arm in plan.arms
            for fold in (plan.left_out[:1] if arm in ARMS and ARMS[arm].folds == "first" else plan.left_out)
            if seed == plan.seeds[0] or (arm in ARMS and ARMS[arm].folds == "all")
        ]
        yield from (job for job in jobs if job.arm in FEATURES)
        core = [job for job in jobs if job.arm in CORE]
        yield from sorted(core, key=lambda job: plan.left_out.index(job.fold))
        yield from (job for job in jobs if job.arm not in (*FEATURES, *CORE))


@dataclass(frozen=True)
class Bench:
    """A folder and its plan."""

    folder: Path
    plan: Plan

    @classmethod
    def open(cls, folder: Path) -> Bench:
        """The bench of a folder that was begun."""
        plan = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in read_json(folder / "plan.json").items()
        }
        return cls(folder, Plan(**plan))

    @property
    def truth(self) -> Path:
        """What is in the images."""
        return self.folder / "cohort" / "truth.csv"

    def store(self, fold: str) -> Path:
        """The store whose training split lacks an anatomy."""
        return self.folder / "folds" / fold

    def result(self, job: Job) -> Path:
        """What a job that is done found."""
        return self.folder / "results" / f"{job.name}.json"

    def scores(self, job: Job) -> Path:
        """Its answers."""
        return self.folder / "scores" / f"{job.name}.parquet"

    @cached_property
    def cohort(self) -> pl.DataFrame:
        """The studies, without their texts and files."""
        table = pl.read_csv(self.folder / "cohort" / "cohort.csv", infer_schema=False)
        return table.select(name for name in ABOUT if name in table.columns)

    @property
    def prepared(self) -> bool:
        """Patients and folds are there."""
        return all((self.store(fold) / "splits.parquet").is_file() for fold in self.plan.left_out)


# ---- patients


def prepare(bench: Bench) -> None:
    """Simulate the patients at the hard level, preprocess them, and divide them for each fold."""
    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.config import load_settings
    from ctglip.simulation import level_settings
    from ctglip.simulation.cohort import simulate_cohort

    plan, folder = bench.plan, bench.folder
    changes = () if plan.anatomies == ANATOMIES else (f"anatomies=[{','.join(plan.anatomies)}]",)
    table = simulate_cohort(folder / "cohort", plan.studies, plan.cohort_seed, level_settings("hard", changes=changes))
    preprocess_cohort(read_cohort(table), folder / "store", load_settings(PreprocessConfig, "preprocess/demo_3mm"), 1)
    for fold in plan.left_out:
        divide(bench, fold)


def divide(bench: Bench, fold: str) -> None:
    """A store that shares everything with the common one but the splits: no patient of the anatomy is trained on."""
    home, out = bench.folder / "store", bench.store(fold)
    out.mkdir(parents=True, exist_ok=True)
    for entry in home.iterdir():
        if entry.name not in ("splits.parquet", "features", "cache") and not (out / entry.name).exists():
            (out / entry.name).symlink_to(entry.resolve())
    truth = pl.read_csv(bench.truth, schema_overrides={"study_id": pl.String})
    split = split_of(fold, bench.cohort, truth)
    from ctglip.store.parts import write_parquet

    splits = pl.read_parquet(home / "splits.parquet")
    names = pl.Series("split", [split[patient] for patient in splits["patient_id"]], dtype=splits["split"].dtype)
    write_parquet(splits.with_columns(names), out / "splits.parquet")


# ---- jobs


def do(bench: Bench, job: Job) -> dict[str, Any]:
    """Train and judge, or what is missing of both; the result is written last."""
    if not bench.result(job).is_file():
        found = _features_judged(bench, job) if job.arm in FEATURES else _trained_and_judged(bench, job)
        write_json(bench.result(job), {**asdict(job), "label": LABELS[job.arm], **found})
    return read_json(bench.result(job))


def _trained_and_judged(bench: Bench, job: Job) -> dict[str, Any]:
    from ctglip.evaluation.run import evaluate
    from ctglip.evaluation.settings import EvaluateConfig
    from ctglip.training.launch import pretrain

    run, crops = bench.folder / "runs" / job.name, bench.folder / "crops"
    config = config_of(job.arm, job.seed, bench.plan.steps, crops)
    begun = (run / "environment.json").is_file()
    wall, cpu = time.monotonic(), time.process_time()
    pretrain(bench.store(job.fold), run, config, resume=begun)
    trained = {"train_wall_s": time.monotonic() - wall, "train_cpu_s": time.process_time() - cpu}
    judging = EvaluateConfig(
        draws=10, min_positives=1, controls=False, pictures=False, parts=(), threads=1, device="cpu",
        cache=str(bench.folder / "features" / job.name), crops=str(crops.resolve()),
    )  # fmt: skip
    wall = time.monotonic()
    out = bench.folder / "judged" / job.name
    evaluate(run, bench.store(job.fold), out, labels=bench.truth, config=judging)
    _write(bench, job, pl.read_parquet(out / "scores.parquet"))
    return {
        "steps": config.loop.steps,
        "resumed": begun,
        **({} if begun else trained),
        "judge_wall_s": time.monotonic() - wall,
    }


def _features_judged(bench: Bench, job: Job) -> dict[str, Any]:
    """Plain numbers of organs, fitted to the reports of the fold's training patients."""
    from ctglip.data.organs import studies_of
    from ctglip.evaluation.hand_features import NAMES, VOLUME, fitted_scores
    from ctglip.evaluation.labels import PairLabels
    from ctglip.store.tables import Store

    clock = time.monotonic()
    store = Store.open(bench.store(job.fold))
    instances, features, labels = _everything(bench.folder)
    learned = set(studies_of(store, "train"))
    inside = np.array([one.study_id in learned for one in instances])
    taught = {
        pair: PairLabels(known.rows[inside[known.rows]], known.labels[inside[known.rows]])
        for pair, known in labels.items()
    }
    numbers = {(one.study_id, one.organ): number for number, one in enumerate(instances)}
    rows: dict[tuple[str, str], np.ndarray] = {}
    tables = []
    for (organ, name), some in _known_labels(bench, studies_of(store, "test")).group_by("organ", "abnormality"):
        found = some.filter(pl.Series([(study, organ) in numbers for study in some["study_id"]]))
        rows[str(organ), str(name)] = np.array([numbers[study, organ] for study in found["study_id"]], np.int64)
        tables.append(found)
    columns = VOLUME if job.arm == "volume_alone" else tuple(range(len(NAMES)))
    scores, unfitted = fitted_scores((features, taught), (features, rows), columns)
    table = pl.concat(tables).with_columns(difference=pl.Series(np.concatenate([scores[pair] for pair in rows])))
    _write(bench, job, table)
    return {"pairs_without_labels": unfitted, "train_wall_s": time.monotonic() - clock}


def _known_labels(bench: Bench, studies: Sequence[str]) -> pl.DataFrame:
    """study_id, organ, abnormality and label of what is known of some studies."""
    truth = pl.read_csv(bench.truth, schema_overrides={"study_id": pl.String})
    table = truth.filter(pl.col("study_id").is_in(list(studies))).unpivot(index="study_id", value_name="label")
    both = pl.col("variable").str.split_exact(":", 1).struct.rename_fields(["organ", "abnormality"])
    return table.with_columns(both.alias("both")).unnest("both").drop("variable", strict=True).drop_nulls("label")


@cache
def _everything(folder: Path) -> tuple[list[Any], np.ndarray, Any]:
    """The judged organs of all studies, their features (measured once and kept), and what the reports say of them."""
    from ctglip.evaluation.hand_features import hand_features, report_labels, training_organs
    from ctglip.store.tables import Store
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs

    bench, cache = Bench.open(folder), folder / "hand_features"
    store, organs = Store.open(folder / "store"), load_organs()
    names = sorted(_known_labels(bench, store.study_ids)["organ"].unique())
    cache.mkdir(exist_ok=True)
    instances, features = training_organs(store, store.study_ids, names), []
    for study, group in groupby(instances, key=lambda one: one.study_id):
        some, path = list(group), cache / f"{study}.json"
        if not path.is_file():
            rows = hand_features(store, some, organs)
            write_json(path, [[None if np.isnan(value) else value for value in row] for row in rows.tolist()])
        features += read_json(path)
    return instances, np.array(features, np.float64), report_labels(store, instances, organs, load_abnormalities())


def _write(bench: Bench, job: Job, table: pl.DataFrame) -> None:
    from ctglip.store.parts import write_parquet

    path = bench.scores(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(table.select(SCORES).with_columns(pl.col("label").cast(pl.Int64)).sort(KEYS), path)


def main() -> None:
    """Prepare, or do one job."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    tied_to_the_parent()
    bench = Bench.open(folder)
    if name == PREPARE:
        prepare(bench)
        return
    plain = [job for job in jobs_of(bench.plan) if job.arm in FEATURES]
    for job in plain if name == PLAIN else [Job.of(name)]:
        do(bench, job)


if __name__ == "__main__":
    main()
