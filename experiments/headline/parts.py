"""What the experiment compares: the arms with their settings, the patients, and one job (train, judge) at a time.

Everything lies in one folder and is made once: a job that is done has its file in ``jobs/``, one that was cut off goes
on from its last checkpoint.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ctglip.files import read_json, write_json
from ctglip.store.splits import SplitSettings
from ctglip.training.recipe import PretrainConfig
from ctglip.types import OrganRow
from experiments.side_by_side import share_texts

Anatomy = Literal["built_in", "real"]
PATIENT_A = ("ct/patient_a_abdomen/ct.nii.gz", "ct/patient_a_abdomen/totalsegmentator_v2.nii.gz")
HELD_OUT = ("liver_cyst", "renal_stone", "consolidation", "aortic_aneurysm")
"""Abnormalities that the open-vocabulary arm is never taught."""

RECIPE = "small/ctglip_cnn"
"""The recipe of the organ arms; chosen on a cohort of its own (``experiments/notes/2026-11-28-small-findings.md``)."""
_BOX = (
    "data.crops.masked=false",
    "data.crops.mask_channel=false",
    "model.regions.size=false",
    "objective.negatives=batch",
)
_SCANS = ("data.keep_gb=6",)


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        studies, real_studies: simulated from the built-in anatomy, and from a real patient's.
        fractions: shares of patients for training, validation and test.
        validation: patients who are kept for validation: learning rates, thresholds. The others of that split go to
            training. (The recipe was chosen on a cohort of its own, simulated from another seed.)
        seeds: of the built-in arms; the real-template arms take the first.
        budget_s: CPU seconds of steady learning that each run is given.
        rates: learning rates that are tried, each with ``tried`` of the budget.
        draws: bootstrap draws of patients.
    """

    studies: int
    real_studies: int
    fractions: tuple[float, float, float]
    validation: int
    seeds: tuple[int, ...]
    budget_s: float
    rates: tuple[float, ...]
    tried: float
    draws: int


QUICK = Plan(30, 24, (0.5, 0.2, 0.3), 6, (0,), 1.0, (0.001,), 0.5, 50)
FULL = Plan(1000, 1000, (0.67, 0.08, 0.25), 60, (0, 1, 2), 75.0, (0.0003, 0.001, 0.003), 0.2, 1000)


@dataclass(frozen=True)
class Arm:
    """One way to learn.

    Attributes:
        label: for people.
        config: shipped config that is changed.
        changes: ``section.key=value``.
        tuned_as: the arm whose learning rate it takes.
        budgets: how many times the budget of the others it is given.
    """

    label: str
    config: str
    changes: tuple[str, ...]
    tuned_as: str
    budgets: float = 1.0


def _crops(label: str, *changes: str, config: str = RECIPE) -> Arm:
    return Arm(label, config, changes, "same_organ")


def _scans(text: str, label: str, budgets: float = 1.0) -> Arm:
    """CLIP on whole scans, by ``report`` or by ``sentence``; each has a learning rate of its own."""
    return Arm(label, "small/clip_global", (*_SCANS, f"data.text={text}"), text, budgets)


LADDER: dict[str, Arm] = {
    "report": _scans("report", "report-level CLIP, whole scans"),
    "sentence": _scans("sentence", "sentence-level CLIP, whole scans"),
    "box": _crops("organ crops, box only", *_BOX),
    "mask": _crops("organ crops with masks", "objective.negatives=batch"),
    "random": _crops("+ random dictionary negatives", "objective.negatives=random"),
    "same_organ": _crops("+ same-organ, false negatives masked", "objective.negatives=same_organ"),
}
"""From plain CLIP to all of CT-GLIP's ingredients; each has all that the one before it has from ``box`` on."""

EXTRA: dict[str, Arm] = {
    "field": _crops("organ recognition: no mask, 200 mm", *_BOX, "data.crops.field_mm=[200,200,200]"),
    "held_out": _crops("abnormalities held out", f"data.held_out=[{','.join(HELD_OUT)}]"),
}
"""Other questions; one seed, built-in anatomy."""

BATCHES = {8: 2, 48: 6, 128: 8}
"""Batch sizes beside the ladder's own (24), and how many organs meet in each."""
VARIANTS: dict[str, Arm] = {
    "report_long": _scans("report", "report-level CLIP, ten budgets", 10),
    "sentence_long": _scans("sentence", "sentence-level CLIP, ten budgets", 10),
    **{
        f"batch{size}_{negatives}": _crops(
            f"batch {size}, {'dictionary' if negatives == 'same_organ' else 'no dictionary'}",
            f"data.sampling.batch={size}",
            f"data.sampling.organs={organs}",
            f"objective.negatives={negatives}",
        )
        for size, organs in BATCHES.items()
        for negatives in ("batch", "same_organ")
    },
    "vit": _crops("ViT in place of the CNN", config="small/ctglip_vit"),
    "pool": Arm("organs pooled in whole scans", "small/ctglip_pool", _SCANS, "same_organ"),
}


@dataclass(frozen=True)
class Job:
    """One run: an arm, trained with a seed and a learning rate for so many steps on one anatomy.

    Attributes:
        judged: cohorts whose test split it is judged on.
        curve: validate now and then, for the learning curve.
    """

    folder: str
    arm: str
    anatomy: Anatomy
    seed: int
    rate: float
    steps: int
    draws: int
    judged: tuple[Anatomy, ...] = ()
    curve: bool = False

    @property
    def name(self) -> str:
        """The same for the same training."""
        return f"{self.anatomy}-{self.arm}-lr{self.rate:g}-s{self.seed}-{self.steps}"

    @property
    def run(self) -> Path:
        """Where it is trained."""
        return Path(self.folder) / "runs" / self.name

    def scores(self, anatomy: Anatomy) -> Path:
        """Its answers about a cohort's test split."""
        return Path(self.folder) / "judged" / f"{self.name}-on-{anatomy}"


def arm_of(name: str) -> Arm:
    """An arm by its name."""
    return {**LADDER, **EXTRA, **VARIANTS}[name]


def config_of(folder: Path, arm: str, seed: int, rate: float, steps: int, curve: bool = False) -> PretrainConfig:
    """The config of one run."""
    from ctglip.config import load_settings

    asked = arm_of(arm)
    common = (
        f"seed={seed}", f"optim.lr={rate}", f"optim.warmup={max(1, steps // 10)}", f"loop.steps={steps}",
        "loop.threads=1", "loop.pairs=0", "loop.tensorboard=false", f"loop.checkpoint_every={max(20, steps // 5)}",
        "loop.keep=1", "loop.device=cpu", f"loop.validate_every={max(1, -(-steps // 5)) if curve else 0}",
        "data.threads=1",
    )  # fmt: skip
    if "clip_global" not in asked.config and "pool" not in asked.config:
        common += ("data.cache.keep=disk", f"data.cache.folder={folder.resolve() / 'crops'}")
    return load_settings(PretrainConfig, asked.config, [*asked.changes, *common])


# ---- patients


def make_patients(folder: Path, anatomy: Anatomy, plan: Plan, template: tuple[Path, Path] | None, workers: int) -> None:
    """Simulate a cohort and preprocess it, or what is missing of both."""
    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.config import load_settings
    from ctglip.simulation.cohort import simulate_cohort

    home = folder / anatomy
    if (home / "done.json").is_file():
        return
    clock = time.monotonic()
    seed, studies = (71, plan.studies) if anatomy == "built_in" else (73, plan.real_studies)
    table = simulate_cohort(home / "cohort", studies, seed, template=template, workers=workers)
    config = load_settings(PreprocessConfig, "preprocess/demo_3mm", [f"splits.fractions={list(plan.fractions)}"])
    preprocess_cohort(read_cohort(table), home / "store", config, workers if studies > 100 else 1)
    counts = _fewer_for_validation(home / "store", plan, config.splits)
    write_json(home / "done.json", {"seconds": time.monotonic() - clock, "patients": counts})


def _fewer_for_validation(store: Path, plan: Plan, settings: SplitSettings) -> dict[str, int]:
    """Move patients from validation to training until the plan's are left; how many patients each split has then."""
    from ctglip.store.splits import assign_splits
    from ctglip.store.tables import Store

    opened = Store.open(store)
    splits = opened.table("splits")
    patients = splits.filter(splits["split"] == "val")["patient_id"].unique().sort().to_list()
    assign_splits(opened, settings, dict.fromkeys(patients[plan.validation :], "train"))
    table = opened.table("splits").group_by("split").agg(pl.col("patient_id").n_unique())
    return dict(table.iter_rows())


def cut_ahead(folder: str, anatomy: Anatomy, arm: str, share: int, shares: int) -> int:
    """Cut the training crops of an arm, study by study, for all runs that see the same; a share of the studies."""
    from ctglip.data.organ_crops import CropFiles, instances_of, read_crops
    from ctglip.data.organs import studies_of
    from ctglip.store.tables import Store
    from ctglip.vocabulary.organs import load_organs

    home, organs = Path(folder), load_organs()
    settings = config_of(home, arm, 0, 0.001, 1).data
    store = Store.open(home / anatomy / "store")
    instances = instances_of(store, studies_of(store, "train")[share::shares], settings.organs, settings.crops)
    files = CropFiles(home.resolve() / "crops", store, settings.crops, organs)
    by_study: dict[str, list[OrganRow]] = {}
    for instance in instances:
        by_study.setdefault(instance.study_id, []).append(instance.row)
    for study_id, rows in by_study.items():
        read_crops(store, study_id, rows, settings.crops, organs, files)
    return len(instances)


# ---- jobs, each in a process of a pool


def measure(folder: str, arm: str, repeats: int = 5) -> dict[str, float]:
    """CPU seconds of a step of an arm once its data are in memory: the median of some repeats of one batch."""
    from ctglip.objectives.base import StepContext
    from ctglip.store.tables import Store
    from ctglip.training.assembly import assemble
    from ctglip.training.checkpoint import TrainingState
    from ctglip.training.distributed import DistributedContext
    from ctglip.training.optim import build_optimizer
    from ctglip.training.step import Stepper

    home = Path(folder)
    run = home / "measured" / arm
    share_texts(home, run)
    config = config_of(home, arm, 0, 0.001, 100)
    parts = assemble(Store.open(home / "built_in" / "store"), run, config, "cpu")
    parts.objective.train()
    training = TrainingState(parts.objective, build_optimizer(parts.objective, config.optim))
    step = Stepper(training, DistributedContext(), None, config.optim, False)
    seconds = []
    for number in range(repeats + 2):
        clock = time.process_time()
        step(parts.batch(0), StepContext(step=number), False, lambda _: ())
        seconds.append(time.process_time() - clock)
    return {"cpu_s_per_step": statistics.median(seconds[2:]), "rows": len(parts.batch(0))}


def is_done(job: Job) -> bool:
    """Trained, and judged wherever it is to be."""
    trained = (Path(job.folder) / "jobs" / f"{job.name}.json").is_file()
    return trained and all((job.scores(anatomy) / "report.html").is_file() for anatomy in job.judged)


def do(job: Job) -> dict[str, Any]:
    """Train, and judge where that is asked for; what is there already is not done again."""
    from ctglip.training.launch import pretrain
    from ctglip.training.tracking import read_metrics

    folder = Path(job.folder)
    done = folder / "jobs" / f"{job.name}.json"
    if not done.is_file():
        share_texts(folder, job.run)
        config = config_of(folder, job.arm, job.seed, job.rate, job.steps, job.curve)
        wall, cpu = time.monotonic(), time.process_time()
        begun = (job.run / "environment.json").is_file()
        pretrain(folder / job.anatomy / "store", job.run, config, resume=begun)
        lines = read_metrics(job.run)
        found = {
            "wall_s": time.monotonic() - wall,
            "cpu_s": time.process_time() - cpu,
            "resumed": begun,
            "val": [[line["step"], line["val_macro_auroc"]] for line in lines if "val_macro_auroc" in line],
            "loss": [[line["step"], line["loss"]] for line in lines if "loss" in line],
        }
        write_json(done, {**asdict(job), **found})
    for anatomy in job.judged:
        _judge(job, anatomy)
    return read_json(done)


def _judge(job: Job, anatomy: Anatomy) -> None:
    """Read the test split of a cohort once."""
    from ctglip.evaluation.run import evaluate
    from ctglip.evaluation.settings import EvaluateConfig

    out = job.scores(anatomy)
    if (out / "report.html").is_file():
        return
    home = Path(job.folder) / anatomy
    config = EvaluateConfig(
        draws=max(job.draws, 10), controls=False, pictures=False, parts=(), threads=1, device="cpu",
        cache=str(Path(job.folder) / "features"), crops=str(Path(job.folder).resolve() / "crops"),
    )  # fmt: skip
    evaluate(job.run, home / "store", out, labels=home / "cohort" / "truth.csv", config=config)
