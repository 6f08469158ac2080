"""Every public set as its user goes through it: cohort, preprocess, pretrain, evaluate, on a miniature of its own.

What a set brings decides its path. With reports a model is pretrained and evaluated. Without, pretraining is refused
in one line; labels then train a head on a model of other patients, and scans alone are embedded by it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.cohorts.registry import cohort_names, cohort_reader
from ctglip.store.tables import Store
from tests.cli.commands import Outcome, here
from tests.cohorts.builders import labels_in
from tests.cohorts.miniatures_ct import CT_MINIATURES
from tests.cohorts.miniatures_cxr import CXR_MINIATURES
from tests.cohorts.patients import Patient, simulated_radiographs, simulated_scans
from tests.training.tiny import write_word_bert

MINIATURES = CT_MINIATURES | CXR_MINIATURES
TEXTS = {
    "ct_rate": "crops", "radgenome": "crops", "merlin": "crops", "abdomen_atlas_3": "crops", "amos_mm": "crops",
    "rexgrounding": "scans", "inspect_pe": "scans", "dicom": "scans", "mimic_cxr": "asg", "mimic_cxr_jpg": "imitate",
    "ms_cxr": "imitate", "openi": "imitate",
}  # fmt: skip
"""Sets with reports, and what is trained on them: crops where they bring masks, boxes where they bring regions."""
LABELS = (
    "rad_chestct", "rsna_pe", "rsna_trauma", "lidc_idri", "luna16", "chexpert", "nih_chestxray14", "padchest",
    "rsna_pneumonia", "covidx", "vindr_cxr", "object_cxr", "siim_pneumothorax", "jsrt", "tbx11k",
)  # fmt: skip
IMAGES = ("abdomen_atlas", "totalsegmentator", "nlst")
CT = ("--set", "ct.spacing_mm=[6,6,6]", "--set", "ct.segmentation=null")
CXR = ("--config", "preprocess/cxr", "--set", "cxr.size=64")
HALVES = ("--set", "splits.fractions=[0.5,0,0.5]")
"""For sets without an official split: with ten patients a fifth may lack an answer."""
STEPS = 20
CONFIGS = {
    "crops": ("--config", "small/ctglip_cnn", "--set", "data.sampling.batch=6", "--set", "data.crops.grid=[16,16,16]"),
    "scans": ("--config", "small/clip_global", "--set", "data.batch=3", "--set", "data.input.grid=[32,32,32]"),
    "imitate": ("--config", "small/cxr_imitate", "--set", "data.batch=3", "--set", "data.size=64"),
    "asg": ("--config", "small/cxr_asg", "--set", "data.batch=3", "--set", "data.size=64"),
}
EVALUATION = ("--set", "min_positives=1", "--set", "draws=20", "--set", "controls=false")
OTHER_ORGANS = {
    name: ("--set", f"columns={{{label}: {{organs: [all]}}}}")
    for name, label in (("rsna_pe", "pulmonary_embolism"), ("rsna_trauma", "bowel_injury"))
}  # fmt: skip
OTHER_ORGANS["rsna_trauma"] += ("--set", "ignore=['liver:laceration', 'spleen:laceration', 'kidneys:laceration']")
"""Labels of organs that the ten reports of the other set do not speak of."""
TUNING = ("--set", "fit.epochs=3", "--set", "evaluate.min_positives=1", "--set", "evaluate.draws=20")


def done(*arguments: object, codes: tuple[int, ...] = (0,)) -> Outcome:
    outcome = here(*arguments)
    assert outcome.code in codes, outcome.out + outcome.err
    return outcome


def refused(*arguments: object) -> str:
    """The one line that a command ends with."""
    lines = [line for line in done(*arguments, codes=(2,)).err.splitlines() if line.startswith("ctglip: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def patients(folder: Path) -> Callable[[str], list[Patient]]:
    """Ten simulated patients of either kind of images, made once."""
    made: dict[str, list[Patient]] = {}

    def of(modality: str) -> list[Patient]:
        if modality not in made:
            more, read = ((), simulated_scans) if modality == "ct" else (("--cxr",), simulated_radiographs)
            done("simulate", folder / modality, "--studies", 10, "--seed", 5, "--level", "easy", *more)
            made[modality] = read(folder / modality)
        return made[modality]

    return of


@pytest.fixture(scope="module")
def pretrain(folder: Path) -> Callable[..., tuple[object, ...]]:
    """The arguments of a short pretraining, with a text encoder of a few words."""
    bert = write_word_bert(folder / "bert")
    general = ("--set", f"text.name={bert}", "--set", "text.max_length=60", "--set", f"loop.steps={STEPS}",
               "--set", "loop.threads=1", "--set", "loop.log_every=5", "--set", "optim.warmup=2")  # fmt: skip
    return lambda store, run, kind: ("pretrain", store, run, *CONFIGS[kind], *general)


@pytest.fixture(scope="module")
def stored(folder: Path, patients: Callable[[str], list[Patient]]) -> Callable[[str], tuple[Path, Path]]:
    """A set's miniature on its way to a store, made once: the folder of its cohort, and the store."""

    def make(name: str) -> tuple[Path, Path]:
        cohort, store = folder / name / "cohort", folder / name / "store"
        if store.exists():
            return cohort, store
        modality = cohort_reader(name).card.modality
        settings = MINIATURES[name](folder / name / "data", patients(modality)) or {}
        changes = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        done("cohort", name, folder / name / "data", cohort, *changes)
        summary = json.loads((cohort / "cohort.json").read_text())
        halves = HALVES if "none" in summary["splits"] else ()
        recipe = CT if modality == "ct" else CXR
        done("preprocess", cohort / "cohort.csv", store, *recipe, *halves, "--workers", 1)
        return cohort, store

    return make


@pytest.fixture(scope="module")
def model_of_others(folder: Path, stored, pretrain) -> Callable[[str], Path]:
    """A model that was pretrained on another set: what labels or scans alone are used with."""

    def of(modality: str) -> Path:
        run = folder / f"model_{modality}"
        if not run.exists():
            name, kind = ("inspect_pe", "scans") if modality == "ct" else ("openi", "imitate")
            done(*pretrain(stored(name)[1], run, kind))
        return run

    return of


def check_store(name: str, cohort: Path, store: Path) -> Store:
    """The store holds every study of the cohort, as HU or grey values, with the texts and masks that the set brings."""
    opened, card = Store.open(store), cohort_reader(name).card
    rows = pl.read_csv(cohort / "cohort.csv", infer_schema=False)
    assert sorted(opened.study_ids) == sorted(rows["study_id"])
    assert len(opened.study_ids) >= 10
    split_of = opened.table("splits").group_by("patient_id").agg(pl.col("split").n_unique())
    assert split_of["split"].max() == 1
    assert opened.table("reports").is_empty() is ("report" not in card.brings)
    given = rows.height - rows["masks"].null_count() if "masks" in rows.columns else 0
    if card.modality == "ct":
        assert opened.table("organs")["study_id"].n_unique() == given
        for study_id in list(opened.study_ids)[:3]:
            body = np.asarray(opened.study(study_id).image()).ravel()
            assert -150 < np.median(body[body > -300]) < 150, f"{study_id}: soft tissue is not where HU have it"
            assert body.min() >= -1024
    if "organ_text" in card.brings:
        assert opened.table("findings")["source"].n_unique() > 1
    return opened


def results_in(out: Path) -> dict[str, object]:
    assert (out / "report.html").is_file()
    return json.loads((out / "results.json").read_text())


def evaluated(run: Path, store: Path, out: Path, labels: Path | None) -> None:
    asked = () if labels is None else ("--labels", labels)
    done("evaluate", run, store, out, *asked, *EVALUATION)
    found = results_in(out)
    assert 0 <= found["macro_auroc"]["value"] <= 1
    test = Store.open(store).table("splits").filter(pl.col("split") == "test").height
    assert 0 < found["studies"] <= test


def marked(names: tuple[str, ...], in_ci: tuple[str, ...] = ()) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.ci] if name in in_ci else []) for name in names]


def test_every_set_has_a_path() -> None:
    assert sorted([*TEXTS, *LABELS, *IMAGES, "m3d_cap"]) == cohort_names()
    for name in cohort_names():
        brings = cohort_reader(name).card.brings
        expected = TEXTS if "report" in brings else LABELS if "labels" in brings else (*IMAGES, "m3d_cap")
        assert name in expected


@pytest.mark.slow
@pytest.mark.parametrize("name", marked(tuple(TEXTS), in_ci=("ct_rate", "openi")))
def test_with_reports_a_model_is_pretrained_and_evaluated(name: str, stored, pretrain, tmp_path: Path) -> None:
    cohort, store = stored(name)
    check_store(name, cohort, store)
    done(*pretrain(store, tmp_path / "run", TEXTS[name]))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses
    assert all(map(math.isfinite, losses))
    assert lines[-1]["step"] == STEPS
    labels = cohort / "labels.csv"
    answers = {value for row in labels_in(cohort).values() for value in row.values()} if labels.is_file() else set()
    evaluated(tmp_path / "run", store, tmp_path / "evaluation", labels if answers >= {0, 1} else None)


@pytest.mark.slow
@pytest.mark.parametrize("name", LABELS)
def test_with_labels_alone_a_model_of_others_is_tuned(name: str, stored, pretrain, model_of_others, tmp_path) -> None:
    cohort, store = stored(name)
    check_store(name, cohort, store)
    modality = cohort_reader(name).card.modality
    line = refused(*pretrain(store, tmp_path / "run", "crops" if modality == "ct" else "imitate"))
    assert "ctglip finetune RUN STORE OUT --labels FILE" in line
    labels, run = cohort / "labels.csv", model_of_others(modality)
    probe = "finetune/probe" if modality == "ct" else "finetune/cxr_probe"
    tuned = ("finetune", run, store, tmp_path / "tuned", "--labels", labels, "--config", probe, *TUNING)
    if name in OTHER_ORGANS:
        assert "[all] for all that the model has learned" in refused(*tuned)
        tuned = (*tuned, *OTHER_ORGANS[name])
    if done(*tuned, codes=(0, 1)).code == 1:  # ten patients do not show everything
        assert set(pl.read_csv(tmp_path / "tuned" / "problems.csv")["code"]) <= {"one_class", "no_labels", "few_labels"}
    found = results_in(tmp_path / "tuned")
    assert found["pairs"]
    evaluated(run, store, tmp_path / "evaluation", labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_scans_alone_are_embedded_by_a_model_of_others(name: str, stored, pretrain, model_of_others, tmp_path) -> None:
    cohort, store = stored(name)
    opened = check_store(name, cohort, store)
    line = refused(*pretrain(store, tmp_path / "run", "crops"))
    assert "Give the cohort reports" in line
    run = model_of_others("ct")
    line = refused("evaluate", run, store, tmp_path / "evaluation", *EVALUATION)
    assert "No (organ, abnormality) has 1 positives and negatives in the split 'test'" in line
    done("embed", run, store, tmp_path / "vectors")
    table = pl.read_parquet(tmp_path / "vectors" / "embeddings.parquet")
    assert set(table["study_id"]) == set(opened.study_ids)


def test_a_set_without_hounsfield_units_is_refused(tmp_path: Path) -> None:
    (tmp_path / "M3D_Cap.json").write_text("{}")
    line = refused("cohort", "m3d_cap", tmp_path, tmp_path / "out")
    assert "8 bits without HU or spacing" in line
    assert not (tmp_path / "out").exists()
