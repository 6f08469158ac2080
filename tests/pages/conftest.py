"""One filled page of each kind, with every field used, and a small asymmetric phantom."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.pages import answers, compare, index, pairs, quality, report
from ctglip.pages.parts import (
    Control,
    Curve,
    Fact,
    Link,
    OrganRecognition,
    Picture,
    RecallAt,
    ReliabilityBin,
    Retrieval,
    Table,
)
from ctglip.pages.pictures import heat_picture, slice_pictures
from ctglip.types import Failure, Interval, QualityCheck


@pytest.fixture(scope="session")
def phantom() -> tuple[np.ndarray, np.ndarray]:
    """HU and labels ``[20, 30, 40]``: 1 lies right, anterior and high, 2 lies left, posterior and low."""
    hu = np.full((20, 30, 40), -1000, np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    hu[3:17, 4:26, 2:38] = 0
    labels[12:16, 20:25, 28:36] = 1
    labels[4:8, 6:10, 4:12] = 2
    hu[labels == 1] = 200
    hu[labels == 2] = 100
    return hu, labels


@pytest.fixture(scope="session")
def slices(phantom: tuple[np.ndarray, np.ndarray]) -> tuple[Picture, ...]:
    hu, labels = phantom
    return slice_pictures(
        hu, (2.0, 2.0, 2.0), labels, {"Liver": {1}, "Spleen": {2}}, longest_px=128, subject="a phantom"
    )


CONTROLS = (
    Control("Mask only", "Organs filled with their mean HU.", Interval(0.641, 0.612, 0.670)),
    Control("Volume only", "The organ's volume alone.", Interval(0.571, 0.540, 0.603)),
)
RECOGNITION = OrganRecognition(
    Interval(0.981, 0.971, 0.991), Interval(0.943, 0.925, 0.965), 1312, 121, 0.008, "Crops are cut by mask."
)


@pytest.fixture(scope="session")
def report_page(slices: tuple[Picture, ...]) -> report.EvaluationPage:
    curve = Curve((0.0, 0.2, 1.0), (0.0, 0.8, 1.0), (0.0, 0.7, 1.0), (0.0, 0.9, 1.0))
    bins = (
        ReliabilityBin(0.1, Interval(0.12, 0.05, 0.2), 40),
        ReliabilityBin(0.5, Interval(None), 0),
        ReliabilityBin(0.9, Interval(0.8, 0.7, 0.9), 20),
    )
    return report.EvaluationPage(
        title="Zero-shot evaluation",
        split="test",
        label_source="label table truth.csv",
        auroc=Interval(0.861, 0.842, 0.879),
        pairs=(
            report.PairRow(
                "Liver", "Cyst", Interval(0.912, 0.851, 0.963), 14, 60, 0.733, 0.718, 0.824, 0.887, 0.415, curve
            ),
            report.PairRow("Spleen", "Splenomegaly", Interval(0.777, 0.689, 0.864), 9, 58),
            report.PairRow("Bronchi", "Bronchiectasis", Interval(None), 0, 57),
        ),
        facts=(Fact("Studies", "60", "240 in all"),),
        controls=CONTROLS,
        recognition=RECOGNITION,
        notes=("Simulated patients.",),
        reliability=(report.Reliability("Before scaling", bins, 0.121),),
        retrieval=(
            Retrieval(
                "report to study",
                60,
                59.3,
                4.5,
                (RecallAt(1, Interval(0.222, 0.1, 0.3), 0.017), RecallAt(5, Interval(0.511))),
            ),
        ),
        embeddings=(
            report.EmbeddedOrgan(0.0, 1.0, "Liver"),
            report.EmbeddedOrgan(2.0, 3.0, "Spleen"),
            report.EmbeddedOrgan(float("nan"), 3.0, "Spleen"),
        ),
        tables=(Table("groups", "Groups", "By age.", ("Group", "Macro AUROC"), (("60 to 79", "0.861"),)),),
        best=(report.ExampleAnswer("Study s01", True, 0.93, slices[0], "A large cyst."),),
        worst=(report.ExampleAnswer("Study s02", False, 0.88),),
    )


@pytest.fixture(scope="session")
def scan_page(slices: tuple[Picture, ...], phantom: tuple[np.ndarray, np.ndarray]) -> answers.AnswersPage:
    axial = slices[0]
    assert axial.size is not None
    values, alt = np.where(phantom[1] == 1, 1.0, 0.0)[:, :, 30:31], "Heat map of the liver."
    heat, outline = (heat_picture(values, "axial", axial.size, alt, outline=only) for only in (False, True))
    return answers.AnswersPage(
        title="patient_a",
        answers=(
            answers.AnswerRow(
                "liver: fatty liver", "Liver", "Hepatic steatosis", 0.9312, 1, 6, calibrated=True,
                texts=(
                    answers.SimilarText("The liver is hypodense.", 0.714), answers.SimilarText("Steatosis.", -0.113),
                ),
            ),
            answers.AnswerRow("gallstones?", "Gallbladder", "Gallstone", 0.004, 3, 3),
            answers.AnswerRow("heart: cardiomegaly", "Heart", "Cardiomegaly", None, reason="The heart is cut off."),
        ),
        facts=(Fact("Spacing", "3.0 × 3.0 × 3.0 mm"),),
        organs=(answers.OrganFound("Liver", 1480.25, -12.0, True), answers.OrganFound("Spleen")),
        checks=(
            QualityCheck("slice_gap", "warning", "One slice is missing.", 1.6),
            QualityCheck("mirrored", "error", "The liver lies on the left."),
        ),
        pictures=slices,
        notes=("Trained on simulated patients.",),
        where=(answers.Where("Liver", "Hepatic steatosis", 0.9312, axial, heat, outline),),
    )  # fmt: skip


@pytest.fixture(scope="session")
def quality_page(slices: tuple[Picture, ...]) -> quality.QualityPage:
    failures = tuple(Failure(f"s{i:04d}", "ingest", "image_truncated", "It ends too soon.") for i in range(3))
    return quality.QualityPage(
        title="demo store",
        done=1236,
        failures=(*failures, Failure("p7", "masks", "mask_grid", "Another grid.")),
        skipped=17,
        facts=(Fact("Recipe", "demo_3mm"),),
        checks=(quality.CheckCount("padding", "info", 12, "Padding replaced.", "s0001"),),
        distributions=(
            quality.Distribution(
                "Liver volume",
                "ml",
                (1200.0, 1400.0, 1500.0, 4200.0, float("nan")),
                (quality.Outlier("s0012", 4200.0),),
            ),
            quality.Distribution("Spacing", "mm", (3.0, 3.0, 3.0)),
            quality.Distribution("Nothing", "HU", ()),
        ),
        montage=slices,
        notes=("Outliers are far away.",),
    )


@pytest.fixture(scope="session")
def pairs_page(slices: tuple[Picture, ...]) -> pairs.PairsPage:
    return pairs.PairsPage(
        title="Training pairs",
        samples=(
            pairs.PairSample(
                "s0003", "Liver", "A cyst in the liver.", "report sentence", slices[0],
                (pairs.NegativeText("Gallstones.", True), pairs.NegativeText("A metastasis.")),
                (Fact("Volume", "1,480 ml"),),
            ),
            pairs.PairSample("s0004", "Spleen", "A normal spleen."),
        ),
        facts=(Fact("Pairs", "3,412"),),
        notes=("Negatives never contradict the report.",),
    )  # fmt: skip


@pytest.fixture(scope="session")
def index_page(scan_page: answers.AnswersPage, slices: tuple[Picture, ...]) -> index.IndexPage:
    return index.IndexPage(
        title="Demo",
        summary="240 simulated patients were learned from.",
        auroc=Interval(0.861, 0.842, 0.879),
        auroc_detail="21 pairs, 60 patients",
        controls=CONTROLS,
        recognition=RECOGNITION,
        facts=(Fact("Machine", "2 cores"),),
        montage=slices[:1],
        scans=(
            index.ScanPanel(
                scan_page, "A simulated patient", "Held out.", Link("scans/one.html", "The page of this scan")
            ),
        ),
        steps=(index.Step("Pretrain", 183.4, "600 steps"), index.Step("Query", 0.62, "5 questions")),
        links=(Link("report.html", "Evaluation", "Every number"),),
        notes=("Not on people.",),
    )


@pytest.fixture(scope="session")
def compare_page() -> compare.Comparison:
    return compare.Comparison(
        first="whole-scans",
        second="organs",
        split="test",
        label_source="label table truth.csv",
        patients=60,
        macro_first=Interval(0.612, 0.580, 0.644),
        macro_second=Interval(0.861, 0.842, 0.879),
        macro_difference=Interval(0.249, 0.211, 0.287),
        p_value=1e-9,
        pairs=(
            compare.ComparedPair(
                "liver", "hepatic steatosis", Interval(0.6, 0.5, 0.7), Interval(0.9, 0.8, 1.0), Interval(0.3, 0.2, 0.4),
                0.0001, 0.0002, 21, 60,
            ),
            compare.ComparedPair(
                "gallbladder", "gallstone", Interval(0.7, 0.5, 0.9), Interval(0.65, 0.4, 0.85),
                Interval(-0.05, -0.2, 0.1), 0.43, 0.43, 5, 58,
            ),
            compare.ComparedPair(
                "spleen", "splenomegaly", Interval(1.0), Interval(1.0), Interval(0.0), None, None, 4, 60
            ),
        ),
        notes=("2 pairs could be evaluated for one of the models alone and are left out.",),
    )  # fmt: skip
