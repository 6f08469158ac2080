"""Answers about one scan as the page's values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ctglip.ct.resample import to_grid
from ctglip.inference.answers import Answer, ScanAnswers
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.scoring import Pair
from ctglip.pages import scan as page
from ctglip.pages.parts import Fact, Picture
from ctglip.pages.pictures import LUNG_HU, SOFT_TISSUE_HU, heat_picture, slice_picture, slice_pictures
from ctglip.pages.viewer import LaidMap, make_viewer
from ctglip.vocabulary.organs import OrganDictionary, load_organs

MOST_MAPS = 8
_MAP_PX = 384


def most_likely(answers: ScanAnswers) -> set[Pair]:
    """The (organ, abnormality) pairs whose heat maps a page shows, at most ``MOST_MAPS``: those seen in training before
    the others, the most likely first."""
    best: dict[Pair, tuple[bool, float]] = {}
    for answer in answers.answers:
        if answer.probability is not None:
            best[answer.organ, answer.abnormality] = (answer.seen, answer.probability)
    return set(sorted(best, key=lambda pair: best[pair], reverse=True)[:MOST_MAPS])


def scan_page(
    answers: ScanAnswers, title: str = "", organs: OrganDictionary | None = None, maps: Iterable[HeatMap] = ()
) -> page.ScanPage:
    """The page of one scan; its table of organs holds what the masks draw, not what is read beside another organ.

    Args:
        answers: as ``Pipeline.query`` gives them.
        title: heading; the scan's name by default.
        organs: the dictionary that numbers the labels.
        maps: of answers, see ``most_likely``.
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
    maps = list(maps)
    laid = [_laid(answers, one) for one in maps if one.speaks]
    return page.ScanPage(
        title=title or answers.scan,
        answers=page_answers(answers),
        facts=facts,
        organs=tuple(
            page.OrganFound(answers.shown(row.organ), row.volume_ml, row.mean_hu, row.touches_border) for row in drawn
        ),
        checks=standardized.checks,
        pictures=_pictures(answers, outlined),
        viewer=make_viewer(
            standardized.image, standardized.affine, standardized.organs, outlined, _window(answers), laid
        ),
        notes=unseen_note(answers),
        warnings=answers.notes,
        where=tuple(_where(answers, one, outlined) for one in maps),
    )


def page_answers(answers: ScanAnswers) -> tuple[page.Answer, ...]:
    """The answers about a scan or a radiograph as its page's."""
    return tuple(
        page.Answer(
            question=answer.question,
            organ=answers.shown(answer.organ),
            abnormality=answers.shown(answer.abnormality),
            probability=answer.probability,
            rank=answer.rank,
            of=answer.of,
            reason=answer.reason,
            calibrated=answer.calibrated,
            texts=tuple(page.SimilarText(similar.text, similar.similarity) for similar in answer.similar),
            read_from=answer.read_from,
            caveats=answer.caveats,
            threshold=answer.threshold,
            remark=remark(answer),
            similarity=answer.similarity,
            group=answer.group,
        )
        for answer in answers.answers
    )


def remark(answer: Answer) -> str:
    """How a question was understood, where that is not plain; one line or nothing."""
    said = []
    if answer.denied:
        said.append("asked as its absence; the probability is that of its presence")
    if answer.unasked:
        said.append(f"answered without regard to {', '.join(repr(word) for word in answer.unasked)}")
    return "; ".join(said)


def unseen_note(answers: ScanAnswers) -> tuple[str, ...]:
    """A line that names the answers that rest on words alone, where there are any."""
    unseen = {answers.shown(a.abnormality) for a in answers.answers if a.probability is not None and not a.seen}
    if not unseen:
        return ()
    return (f"Not seen in training, answered through the words alone: {', '.join(sorted(unseen))}.",)


def _outlined(answers: ScanAnswers, organs: OrganDictionary) -> dict[str, list[int]]:
    """Display name to label numbers of the organs asked about."""
    asked = dict.fromkeys(answer.organ for answer in answers.answers if answer.organ)
    return {answers.shown(name): sorted(organs.roi_labels(name)) for name in asked}


def _window(answers: ScanAnswers) -> tuple[float, float]:
    """The lung window where most questions are about lungs, else soft tissue."""
    return _window_of([answer.organ for answer in answers.answers])


def _window_of(organs: Sequence[str]) -> tuple[float, float]:
    about_lungs = sum(organ.startswith("lung") for organ in organs)
    return LUNG_HU if 2 * about_lungs > len(organs) else SOFT_TISSUE_HU


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


def _laid(answers: ScanAnswers, one: HeatMap) -> LaidMap:
    organ, abnormality = answers.shown(one.organ), answers.shown(one.abnormality)
    return LaidMap(f"{organ}: {abnormality}", organ, one.values, one.affine)


def _where(answers: ScanAnswers, one: HeatMap, outlined: dict[str, list[int]]) -> page.Where:
    """The axial slice with the map's highest value as far as the map reaches, and the map on it."""
    standardized = answers.standardized
    into = np.linalg.solve(standardized.affine, one.affine)
    corners = [into[:3, :3] @ edge + into[:3, 3] for edge in (np.full(3, -0.5), np.array(one.values.shape) - 0.5)]
    limit = np.array(standardized.image.shape)
    low, high = np.clip([np.floor(corners[0]), np.ceil(corners[1]) + 1], 0, limit).astype(int)
    reach = (slice(low[0], high[0]), slice(low[1], high[1]))
    peak = np.unravel_index(int(one.values.argmax()), one.values.shape)
    index = int(np.clip(round((into @ [*peak, 1.0])[2]), 0, limit[2] - 1))
    laid, labels = _laid(answers, one), standardized.organs
    picture = slice_picture(
        standardized.image[reach],
        standardized.spacing_mm,
        "axial",
        index,
        None if labels is None else labels[reach],
        {laid.organ: outlined[laid.organ]},
        window_hu=_window_of([one.organ]),
        longest_px=_MAP_PX,
        subject=f"CT scan {answers.scan} about the {laid.organ}",
        numbered=False,
    )
    assert picture.size is not None
    start = np.eye(4)
    start[:3, 3] = (low[0], low[1], index)
    across = (int(high[0] - low[0]), int(high[1] - low[1]), 1)
    heat = to_grid(one.values, one.affine, across, standardized.affine @ start)
    said = {(answer.organ, answer.abnormality): answer.probability for answer in answers.answers}
    words = {False: f"Heat map of {laid.name}.", True: f"Outline of the highest of the heat map of {laid.name}."}
    heats = [heat_picture(heat, "axial", picture.size, words[only], outline=only) for only in (False, True)]
    return page.Where(
        organ=laid.organ,
        abnormality=answers.shown(one.abnormality),
        probability=said[one.organ, one.abnormality] or 0.0,
        picture=replace(picture, caption=f"Axial slice {index + 1} of {limit[2]}.", legend=()),
        heat=heats[0] if one.speaks else None,
        outline=heats[1] if one.speaks else None,
    )
