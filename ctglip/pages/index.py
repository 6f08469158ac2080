"""The landing page of the demo: scores with their controls, pictures, two scans that were asked, timings, links."""

from __future__ import annotations

from dataclasses import dataclass

from ctglip.pages.answers import AnswersPage
from ctglip.pages.document import render_template
from ctglip.pages.parts import Control, Fact, Link, OrganRecognition, Picture
from ctglip.types import Interval


@dataclass(frozen=True)
class ScanPanel:
    """A scan that was asked, shown on the landing page.

    Attributes:
        scan: its page; the first pictures and all answers are shown.
        kind: "Simulated patient" or "Real chest CT".
        explanation: where the scan comes from and what to expect of the answers.
        link: to the scan's own page, or None.
    """

    scan: AnswersPage
    kind: str
    explanation: str = ""
    link: Link | None = None


@dataclass(frozen=True)
class Step:
    """One step of the run and how long it took; ``detail`` says what it did ("240 studies, 2 workers")."""

    name: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class IndexPage:
    """Everything on the landing page.

    Attributes:
        title: heading.
        summary: what was done, in two or three sentences.
        auroc: macro AUROC on held-out patients: the headline.
        auroc_detail: what it is the AUROC of: "20 (organ, abnormality) pairs, 60 held-out simulated patients".
        controls: the same protocol with something taken away.
        recognition: organ recognition, if judged.
        facts: cohort, model, machine.
        montage: pictures of simulated abnormalities beside their normal.
        scans: the scans that were asked.
        steps: timings.
        links: to the other pages.
        notes: what the reader must bear in mind, one sentence each.
    """

    title: str
    summary: str
    auroc: Interval
    auroc_detail: str = ""
    controls: tuple[Control, ...] = ()
    recognition: OrganRecognition | None = None
    facts: tuple[Fact, ...] = ()
    montage: tuple[Picture, ...] = ()
    scans: tuple[ScanPanel, ...] = ()
    steps: tuple[Step, ...] = ()
    links: tuple[Link, ...] = ()
    notes: tuple[str, ...] = ()


def render(page: IndexPage) -> str:
    """The page as one self-contained HTML document."""
    longest = max((step.seconds for step in page.steps), default=0.0) or 1.0
    return render_template("index.html", page=page, longest=longest)
