"""The evaluation page (``report.html``): how well a model answers, against its controls.

>>> page = EvaluationPage(title="Zero-shot evaluation", split="test", label_source="truth.csv",
...                       auroc=Interval(0.86, 0.84, 0.88), pairs=(PairRow("Liver", "Cyst", Interval(0.91), 14, 60),))
>>> html = render(page)
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from ctglip.pages import plots
from ctglip.pages.document import render_template
from ctglip.pages.parts import Control, Curve, Fact, OrganRecognition, Picture, ReliabilityBin, Retrieval, Table, known
from ctglip.types import Interval


@dataclass(frozen=True)
class PairRow:
    """One (organ, abnormality) of the evaluation. Names are display names; shares are 0 to 1.

    Attributes:
        organ: display name of the organ.
        abnormality: display name of the abnormality.
        auroc: area under the ROC curve with its interval over patients.
        positives: number of positive organs judged.
        n: number of organs judged.
        threshold: probability threshold chosen on the validation split; f1, sensitivity and specificity are at it.
        roc: the ROC curve, or None.
    """

    organ: str
    abnormality: str
    auroc: Interval
    positives: int
    n: int
    auprc: float | None = None
    f1: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    threshold: float | None = None
    roc: Curve | None = None


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: ``Reliability("After temperature scaling", bins, ece=0.03)``."""

    name: str
    bins: tuple[ReliabilityBin, ...]
    ece: float | None = None


@dataclass(frozen=True)
class EmbeddedOrgan:
    """One organ of one study on the 2D map of organ embeddings."""

    x: float
    y: float
    organ: str


@dataclass(frozen=True)
class ExampleAnswer:
    """A best or worst case: what was asked, what is true, what the model said, and a picture."""

    title: str
    truth: bool
    probability: float
    picture: Picture | None = None
    note: str = ""


@dataclass(frozen=True)
class EvaluationPage:
    """Everything on the evaluation page; only the first five have to be given.

    Attributes:
        title: heading of the page.
        split: name of the split judged, e.g. ``"test"``.
        label_source: where the labels come from, e.g. ``"label table truth.csv"`` or ``"findings of the store"``.
        auroc: macro AUROC over the pairs: the headline.
        pairs: one row for each (organ, abnormality) judged.
        facts: about the cohort and the model (studies, patients, organs, prompts, model hash ...).
        controls: the same protocol with something taken away; drawn beside the headline.
        recognition: organ recognition, if judged.
        notes: what the reader must bear in mind, one sentence each.
        reliability: diagrams, usually before and after calibration.
        retrieval: one entry for each level and direction.
        embeddings: 2D map of organ embeddings.
        tables: further results, each under a heading of its own.
        best: cases answered best.
        worst: cases answered worst.
    """

    title: str
    split: str
    label_source: str
    auroc: Interval
    pairs: tuple[PairRow, ...]
    facts: tuple[Fact, ...] = ()
    controls: tuple[Control, ...] = ()
    recognition: OrganRecognition | None = None
    notes: tuple[str, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    retrieval: tuple[Retrieval, ...] = ()
    embeddings: tuple[EmbeddedOrgan, ...] = ()
    tables: tuple[Table, ...] = ()
    best: tuple[ExampleAnswer, ...] = ()
    worst: tuple[ExampleAnswer, ...] = ()


def render(page: EvaluationPage) -> str:
    """The page as one self-contained HTML document."""
    points = [(point.x, point.y, point.organ) for point in page.embeddings]
    return render_template("report.html", page=page, forest=_forest(page), points=points)


def _forest(page: EvaluationPage) -> Markup:
    """The macro average, the controls, then the pairs, best first, those without a score last."""
    ranked = sorted(page.pairs, key=lambda row: row.auroc.value if known(row.auroc.value) else -1.0, reverse=True)
    rows = [plots.ForestRow("Macro average", page.auroc, "summary")]
    rows += [plots.ForestRow(control.name, control.score, "control") for control in page.controls]
    rows += [
        plots.ForestRow(f"{row.organ} · {row.abnormality}", row.auroc, "pair", f"{row.positives:,} / {row.n:,}")
        for row in ranked
    ]
    title = "AUROC of each organ and abnormality, with controls"
    return plots.forest(rows, title, "AUROC", "positives / n") + plots.forest(rows, title, narrow=True)
