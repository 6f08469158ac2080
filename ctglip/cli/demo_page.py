"""The last step of the demo: ask a held-out simulated patient and a real chest CT, and gather all on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ctglip.cli.answers import write_page
from ctglip.errors import MissingExtraError
from ctglip.files import read_json, write_text
from ctglip.inference.answers import Answers
from ctglip.inference.page import answers_page, most_likely
from ctglip.inference.pipeline import Pipeline
from ctglip.pages.index import IndexPage, ScanPanel, Step, render
from ctglip.pages.parts import Control, Fact, Link, OrganRecognition
from ctglip.pages.pictures import file_picture
from ctglip.resources import require
from ctglip.types import Interval

MOST_ASKED = 8
REAL_QUESTIONS = (
    "left lung: lung nodule",
    "right lung: lung nodule",
    "left lung: consolidation",
    "right lung: consolidation",
    "lungs: emphysema",
    "left pleural effusion?",
    "right pleural effusion?",
    "lumbar spine: compression fracture",
    "gallstones?",
)


@dataclass(frozen=True)
class Patient:
    """A held-out simulated patient: files, questions, and the truth about them."""

    study_id: str
    image: Path
    masks: Path
    questions: tuple[str, ...]
    present: tuple[str, ...]


def choose_patient(folder: Path, model: Pipeline) -> Patient:
    """The test patient with most abnormalities, asked for those and for as many that are absent."""
    splits = pl.read_parquet(folder / "store" / "splits.parquet").filter(pl.col("split") == "test")
    truth = pl.read_csv(folder / "cohort" / "truth.csv").join(splits.select("study_id"), on="study_id")
    labels = [name for name in truth.columns if name != "study_id"]
    row = truth.sort(pl.sum_horizontal(labels), "study_id", descending=[True, False]).row(0, named=True)
    known = [name for name in labels if name.split(":")[1] in model.trained.get(name.split(":")[0], ())]
    present = [name for name in known if row[name] == 1][:MOST_ASKED]
    absent = [name for name in known if row[name] == 0][: max(MOST_ASKED // 2, MOST_ASKED - len(present))]
    cohort = pl.read_csv(folder / "cohort" / "cohort.csv", infer_schema=False)
    files = cohort.row(by_predicate=pl.col("study_id") == row["study_id"], named=True)
    return Patient(
        row["study_id"],
        folder / "cohort" / files["image"],
        folder / "cohort" / files["masks"],
        tuple(_question(model, name) for name in (*present, *absent)),
        tuple(_question(model, name) for name in present),
    )


def _question(model: Pipeline, pair: str) -> str:
    organ, abnormality = pair.split(":")
    dictionaries = model.dictionaries
    return f"{dictionaries.organs[organ].display}: {dictionaries.abnormalities[abnormality].display}"


def ask_simulated(model: Pipeline, patient: Patient, out: Path) -> ScanPanel:
    """Ask a simulated patient; the panel says what is true."""
    answers = model.query(patient.image, patient.questions, masks=patient.masks)
    return _panel(
        model,
        answers,
        out,
        "Simulated patient",
        f"A held-out patient ({patient.study_id}). True: {'; '.join(patient.present)}. The others should be low.",
    )


def ask_real(model: Pipeline, out: Path) -> ScanPanel | None:
    """Ask the chest CT that the package slicerio carries; None where it is not installed."""
    try:
        data = Path(str(require("slicerio", "demo").__file__)).parent / "data"
    except MissingExtraError:
        return None
    answers = model.query(data / "CTChest4.nrrd", REAL_QUESTIONS, masks=data / "Segmentation.seg.nrrd")
    return _panel(
        model,
        answers,
        out,
        "Real chest CT",
        "Real anatomy, shown so that you see the whole way on it; its segmentation has lungs, spine and ribs only. The "
        "model has seen simulated bodies alone, so these numbers say nothing about this patient.",
    )


def _panel(model: Pipeline, answers: Answers, out: Path, kind: str, explanation: str) -> ScanPanel:
    page = answers_page(answers, maps=model.heat_maps(answers, most_likely(answers)))
    path = write_page(answers, page, out / "scan.html")
    link = Link(f"{out.name}/{path.name}", "All answers about this scan")
    return ScanPanel(page, kind, explanation, link)


def write_index(folder: Path, steps: list[tuple[str, float, str]], panels: list[ScanPanel]) -> Path:
    """Write ``index.html``: the scores with their controls, pictures, the asked scans, timings."""
    results = read_json(folder / "evaluation" / "results.json")
    pairs, patients = len(results["pairs"]), results["patients"]
    recognition = results["recognition"]
    page = IndexPage(
        title="ctglip: the whole path on simulated patients",
        summary="A cohort of simulated CT studies with reports was preprocessed into a store, a model was trained on "
        "its organs and sentences, and asked about patients that it had not seen. The truth it is judged by was "
        "never shown to it: it learned from the reports alone.",
        auroc=_score(results["macro_auroc"]),
        auroc_detail=f"Macro AUROC over {pairs} (organ, abnormality) pairs, {patients} held-out simulated patients.",
        controls=tuple(Control(c["name"], c["explanation"], _score(c["macro_auroc"])) for c in results["controls"]),
        recognition=OrganRecognition(
            _score(recognition["top1"]),
            _score(recognition["macro"]),
            recognition["n"],
            recognition["names"],
            1 / recognition["names"],
            "The crop's field of view and the mask give much of it away.",
        ),
        facts=(Fact("Labels", results["label_source"]), Fact("Thresholds", results["threshold_source"])),
        montage=(
            file_picture(
                folder / "cohort" / "montage.png",
                "Each simulated abnormality beside the same body without it",
                "Every simulated abnormality beside its normal.",
            ),
        ),
        scans=tuple(panels),
        steps=tuple(Step(name, seconds, detail) for name, seconds, detail in steps),
        links=(Link("evaluation/report.html", "Evaluation report", "every pair, ROC curves, reliability"),),
        notes=(
            "Simulated bodies are far simpler than patients: these figures show that the machinery learns, and say "
            "nothing about clinical use.",
            *results["notes"],
        ),
    )
    write_text(folder / "index.html", render(page))
    return folder / "index.html"


def _score(interval: dict[str, Any]) -> Interval:
    return Interval(interval["value"], interval["low"], interval["high"])
