"""The page of one scan or radiograph: what was asked, what the model answers, and what it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ctglip.pages.document import render_template
from ctglip.pages.parts import Fact, Picture
from ctglip.pages.pictures import BONE_HU, HEAT_OPACITY, LEAST_HEAT, LUNG_HU, SOFT_TISSUE_HU
from ctglip.pages.viewer import Viewer
from ctglip.pages.wording import number, share
from ctglip.types import QualityCheck


@dataclass(frozen=True)
class SimilarText:
    """A sentence and its cosine similarity (-1 to 1) with the organ's embedding."""

    text: str
    similarity: float


@dataclass(frozen=True)
class OrganFound:
    """One organ of the scan: display name, volume, mean HU, and whether the field of view cuts it off."""

    name: str
    volume_ml: float | None = None
    mean_hu: float | None = None
    cut_off: bool = False


@dataclass(frozen=True)
class AnswerRow:
    """The answer to one question: a ``probability``, a ``similarity``, or the ``reason`` why there is none.

    Attributes:
        question: as asked, e.g. ``"liver: fatty liver"``.
        organ: display name of the organ found in the question, or "" when none was.
        abnormality: display name of the abnormality, or "" when none was.
        probability: 0 to 1, or None when there is no answer.
        calibrated: the probability was calibrated on a validation split.
        rank: rank of the abnormality among the organ's abnormalities, from 1 (most likely), or None.
        of: how many were ranked, or None.
        reason: why there is no answer: "The gallbladder is not in the scan."
        texts: the most similar sentences, most similar first.
        read_from: what was looked at: "the whole radiograph", "the box of the left lung"; "" where it is the organ
                    itself.
        caveats: why the probability cannot be trusted, one sentence each.
        threshold: the probability from which on the answer is yes, or None.
        remark: how the question was understood: "Asked as its absence."
        similarity: cosine (-1 to 1) of the organ with a sentence of one's own; ranked among the dictionary's.
        group: one of several that the question asked for; where these are many they are listed organ by organ.
    """

    question: str
    organ: str
    abnormality: str
    probability: float | None
    rank: int | None = None
    of: int | None = None
    reason: str = ""
    calibrated: bool = False
    texts: tuple[SimilarText, ...] = ()
    read_from: str = ""
    caveats: tuple[str, ...] = ()
    threshold: float | None = None
    remark: str = ""
    similarity: float | None = None
    group: bool = False


@dataclass(frozen=True)
class Where:
    """Where an answer comes from.

    Attributes:
        organ, abnormality: display names.
        probability: of the answer.
        picture: a slice through the highest value.
        heat: the map, as large as the picture and laid over it; None where nothing speaks for the answer.
        outline: a line around its highest values, or None.
    """

    organ: str
    abnormality: str
    probability: float
    picture: Picture
    heat: Picture | None
    outline: Picture | None = None


@dataclass(frozen=True)
class AnswersPage:
    """Everything on the page of one scan or radiograph.

    Attributes:
        title: heading; the scan's id or name.
        answers: in the order asked.
        facts: spacing, size, model, mask source ...
        organs: the organs found.
        checks: what was noticed about the scan and its masks.
        pictures: slices with mask outlines (``ctglip.pages.pictures.slice_pictures``).
        notes: what the reader must bear in mind, one sentence each.
        warnings: what holds for all answers, at the top: "This scan is outside what this model has seen."
        where: heat maps of answers.
        maps: what they show: ``evidence`` for the abnormality, or where the model's ``attention`` was.
        viewer: slices to go through (``ctglip.pages.viewer.make_viewer``), or None for the pictures alone.
        kind: ``scan`` or ``radiograph``.
    """

    title: str
    answers: tuple[AnswerRow, ...] = ()
    facts: tuple[Fact, ...] = ()
    organs: tuple[OrganFound, ...] = ()
    checks: tuple[QualityCheck, ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    where: tuple[Where, ...] = ()
    maps: Literal["evidence", "attention"] = "evidence"
    viewer: Viewer | None = None
    kind: str = "scan"


def render(page: AnswersPage) -> str:
    """The page as one self-contained HTML document."""
    windows = [("Soft tissue", *SOFT_TISSUE_HU), ("Lung", *LUNG_HU), ("Bone", *BONE_HU)]
    return render_template(
        "answers.html", page=page, viewer_data=_viewer_data(page), windows=windows, strength=round(100 * HEAT_OPACITY)
    )


def _viewer_data(page: AnswersPage) -> dict[str, Any]:
    """What the viewer's script is told: the organs with what was answered of each."""
    if page.viewer is None:
        return {}
    organs = [
        {
            "name": organ.name,
            "colour": organ.colour,
            "centre": organ.centre,
            "answers": [_in_words(answer) for answer in page.answers if answer.organ == organ.name],
        }
        for organ in page.viewer.organs
    ]
    return {
        "organs": organs,
        "maps": [{"organ": one.organ, "peak": one.peak} for one in page.viewer.maps],
        "heat": {"least": round(255 * LEAST_HEAT), "opacity": HEAT_OPACITY},
        "shape": page.viewer.shape,
        "window": page.viewer.window_hu,
        "centre": page.viewer.organs[0].centre if page.viewer.organs else (0.5, 0.5, 0.5),
        "subject": f"Axial, coronal and sagittal slices of {page.title}",
    }


def _in_words(answer: AnswerRow) -> str:
    words = f"no answer. {answer.reason}"
    if answer.probability is not None:
        words = share(answer.probability) + ("" if answer.calibrated else ", not calibrated")
    elif answer.similarity is not None:
        words = f"similarity {number(answer.similarity, 2)}"
    return f"{answer.abnormality or answer.question}: {words}"
