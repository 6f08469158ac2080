"""Answers about one scan as the page's values."""

from __future__ import annotations

import numpy as np

from ctglip.inference.pipeline import Answer, ScanAnswers
from ctglip.pages import scan as page
from ctglip.pages.parts import Fact, Picture
from ctglip.pages.pictures import LUNG_HU, SOFT_TISSUE_HU, slice_pictures
from ctglip.pages.viewer import make_viewer
from ctglip.vocabulary.organs import OrganDictionary, load_organs


def scan_page(answers: ScanAnswers, title: str = "", organs: OrganDictionary | None = None) -> page.ScanPage:
    """The page of one scan; its table of organs holds what the masks draw, not what is read beside another organ.

    Args:
        answers: as ``Pipeline.query`` gives them.
        title: heading; the scan's name by default.
        organs: the dictionary that numbers the labels.
    """
    standardized = answers.standardized
    organs = organs or load_organs()
    outlined = _outlined(answers, organs)
    drawn = [row for row in standardized.rows if organs.labels_of(row.organ)]
    shape = " x ".join(str(n) for n in standardized.image.shape)
    spacing = " x ".join(f"{edge:g}" for edge in np.round(standardized.spacing_mm, 3))
    facts = (
        Fact("Scan", answers.scan),
        Fact("Masks", answers.masks),
        Fact("Seen by the model as", f"{shape} voxels", f"{spacing} mm"),
        Fact("Organs found", str(len(drawn))),
    )
    notes = []
    unseen = sorted(
        {_shown(answers, a.abnormality) for a in answers.answers if a.probability is not None and not a.seen}
    )
    if unseen:
        notes.append(f"Not seen in training, answered through the words alone: {', '.join(unseen)}.")
    return page.ScanPage(
        title=title or answers.scan,
        answers=tuple(_answer(answers, answer) for answer in answers.answers),
        facts=facts,
        organs=tuple(
            page.OrganFound(_shown(answers, row.organ), row.volume_ml, row.mean_hu, row.touches_border) for row in drawn
        ),
        checks=standardized.checks,
        pictures=_pictures(answers, outlined),
        viewer=make_viewer(standardized.image, standardized.affine, standardized.organs, outlined, _window(answers)),
        notes=tuple(notes),
    )


def _shown(answers: ScanAnswers, name: str) -> str:
    return answers.displays.get(name, name)


def _answer(answers: ScanAnswers, answer: Answer) -> page.Answer:
    return page.Answer(
        question=answer.question,
        organ=_shown(answers, answer.organ),
        abnormality=_shown(answers, answer.abnormality),
        probability=answer.probability,
        rank=answer.rank,
        of=answer.of,
        reason=answer.reason,
        calibrated=answer.calibrated,
        texts=tuple(page.SimilarText(similar.text, similar.similarity) for similar in answer.similar),
    )


def _outlined(answers: ScanAnswers, organs: OrganDictionary) -> dict[str, list[int]]:
    """Display name to label numbers of the organs asked about."""
    asked = dict.fromkeys(answer.organ for answer in answers.answers)
    return {_shown(answers, name): sorted(organs.grounding_labels(name)) for name in asked}


def _window(answers: ScanAnswers) -> tuple[float, float]:
    """The lung window where most questions are about lungs, else soft tissue."""
    about_lungs = sum(answer.organ.startswith("lung") for answer in answers.answers)
    return LUNG_HU if 2 * about_lungs > len(answers.answers) else SOFT_TISSUE_HU


def _pictures(answers: ScanAnswers, outlined: dict[str, list[int]]) -> tuple[Picture, ...]:
    standardized = answers.standardized
    return slice_pictures(
        standardized.image,
        standardized.spacing_mm,
        standardized.organs,
        outlined,
        window_hu=_window(answers),
        subject=f"CT scan {answers.scan}",
    )
