"""The pairs page: samples of what a model is trained on, an organ crop beside its text and its negatives."""

from __future__ import annotations

from dataclasses import dataclass

from ctglip.pages.document import render_template
from ctglip.pages.parts import Fact, Picture


@dataclass(frozen=True)
class NegativeText:
    """A text that is false of this organ; ``hard`` when the report itself rules it out."""

    text: str
    hard: bool = False


@dataclass(frozen=True)
class PairSample:
    """One training pair.

    Attributes:
        study_id: the study.
        organ: display name.
        text: the positive text.
        source: where the text comes from: "report sentence", "dictionary wording", "normal template".
        picture: the crop with the organ's outline, or None.
        negatives: texts the organ is contrasted with.
        facts: volume, spacing of the crop, cut off ...
    """

    study_id: str
    organ: str
    text: str
    source: str = ""
    picture: Picture | None = None
    negatives: tuple[NegativeText, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class PairsPage:
    """Everything on the pairs page."""

    title: str
    samples: tuple[PairSample, ...] = ()
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()


def render(page: PairsPage) -> str:
    """The page as one self-contained HTML document."""
    return render_template("pairs.html", page=page)
