"""Answers about one image as the page's values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ctglip.ct.resample import to_grid
from ctglip.cxr.recipe import CXR_MAX
from ctglip.cxr.regions import region_entries
from ctglip.inference.answers import Answer, Answers
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.maps import resample_map
from ctglip.inference.scoring import Pair
from ctglip.modality import MODALITIES
from ctglip.pages import answers as page
from ctglip.pages.cxr import cxr_picture, map_picture
from ctglip.pages.parts import Fact
from ctglip.pages.pictures import heat_picture, slice_picture, slice_pictures, window_for
from ctglip.pages.viewer import PlacedMap, make_viewer
from ctglip.pages.wording import number
from ctglip.types import Region
from ctglip.vocabulary.organs import OrganDictionary, load_organs

MOST_MAPS = 8
_MAP_PX = 384


def most_likely(answers: Answers) -> set[Pair]:
    """The (organ, abnormality) pairs whose heat maps a page shows, at most ``MOST_MAPS``: those seen in training before
    the others, the most likely first."""
    best: dict[Pair, tuple[bool, float]] = {}
    for answer in answers.answers:
        if answer.probability is not None:
            best[answer.organ, answer.abnormality] = (answer.taught, answer.probability)
    return set(sorted(best, key=lambda pair: best[pair], reverse=True)[:MOST_MAPS])


def answers_page(
    answers: Answers, organs: OrganDictionary | None = None, maps: Iterable[HeatMap] = ()
) -> page.AnswersPage:
    """The page of one image.

    Args:
        answers: as ``Pipeline.query`` gives them.
        organs: the dictionary that numbers the labels.
        maps: of answers, see ``most_likely``.
    """
    display = _DISPLAYS[answers.modality](answers, organs or load_organs())
    maps = list(maps)
    common = page.AnswersPage(
        title=answers.name,
        answers=page_answers(answers),
        facts=display.facts(),
        checks=answers.standardized.checks,
        notes=unseen_note(answers),
        warnings=answers.notes,
        kind=MODALITIES[answers.modality].image,
        where=tuple(display.where(one) for one in maps),
        maps="attention" if any(one.reading == "observations" for one in answers.readings.values()) else "evidence",
    )
    return display.completed(common, maps)


def facts_and_maps(
    answers: Answers, organs: OrganDictionary, maps: Sequence[HeatMap]
) -> tuple[tuple[Fact, ...], tuple[page.Where, ...]]:
    """What an image is, and maps on it, as its page has them."""
    display = _DISPLAYS[answers.modality](answers, organs)
    return display.facts() if answers.original is not None else (), tuple(display.where(one) for one in maps)


def page_answers(answers: Answers) -> tuple[page.AnswerRow, ...]:
    """The answers about an image as its page's."""
    return tuple(
        page.AnswerRow(
            question=answer.question,
            organ=answers.display(answer.organ),
            abnormality=answers.display(answer.abnormality),
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
    sentences = []
    if answer.denied:
        sentences.append("asked as its absence; the probability is that of its presence")
    if answer.unasked:
        sentences.append(f"answered without regard to {', '.join(repr(word) for word in answer.unasked)}")
    return "; ".join(sentences)


def unseen_note(answers: Answers) -> tuple[str, ...]:
    """A line that names the answers that rest on words alone, where there are any."""
    unseen = {answers.display(a.abnormality) for a in answers.answers if a.probability is not None and not a.taught}
    if not unseen:
        return ()
    return (f"Not seen in training, answered through the words alone: {', '.join(sorted(unseen))}.",)


class _Display:
    """How an image is shown on a page, by its modality."""

    def __init__(self, answers: Answers, organs: OrganDictionary) -> None:
        self.answers, self.organs, self.standardized = answers, organs, answers.standardized
        self.probabilities = {(one.organ, one.abnormality): one.probability or 0.0 for one in answers.answers}

    def facts(self) -> tuple[Fact, ...]:
        """What the image is."""
        raise NotImplementedError

    def completed(self, common: page.AnswersPage, maps: Sequence[HeatMap]) -> page.AnswersPage:
        """The page with the pictures of the image."""
        raise NotImplementedError

    def where(self, one: HeatMap) -> page.Where:
        """A map on the image."""
        raise NotImplementedError


class _ScanDisplay(_Display):
    """Slices with outlined organs, a viewer, and a table of what the masks draw (not of what is read beside another
    organ)."""

    def __init__(self, answers: Answers, organs: OrganDictionary) -> None:
        super().__init__(answers, organs)
        answered = dict.fromkeys(answer.organ for answer in answers.answers if answer.organ)
        self.outlined = {answers.display(name): sorted(organs.roi_labels(name)) for name in answered}
        self.window_hu = window_for([answer.organ for answer in answers.answers])
        self.organ_rows = [row for row in self.standardized.rows if organs.labels_of(row.organ)]

    def facts(self) -> tuple[Fact, ...]:
        """Masks, voxels and the number of organs."""
        shape = " x ".join(str(n) for n in self.standardized.image.shape)
        spacing = " x ".join(f"{edge:g}" for edge in np.round(self.standardized.spacing_mm, 3))
        return (
            Fact("Scan", self.answers.name),
            Fact("Masks", self.answers.masks),
            Fact("Seen by the model as", f"{shape} voxels", f"{spacing} mm"),
            Fact("Organs found", str(len(self.organ_rows))),
        )

    def completed(self, common: page.AnswersPage, maps: Sequence[HeatMap]) -> page.AnswersPage:
        """With organs, slices and the viewer."""
        made, answers = self.standardized, self.answers
        layers = [self._layer(one) for one in maps if one.speaks]
        return replace(
            common,
            organs=tuple(
                page.OrganFound(answers.display(row.organ), row.volume_ml, row.mean_hu, row.touches_border)
                for row in self.organ_rows
            ),
            pictures=slice_pictures(
                made.image, made.spacing_mm, made.organs, self.outlined,
                window_hu=self.window_hu, subject=f"CT scan {answers.name}",
            ),
            viewer=make_viewer(made.image, made.affine, made.organs, self.outlined, self.window_hu, layers),
        )  # fmt: skip

    def _layer(self, one: HeatMap) -> PlacedMap:
        organ, abnormality = self.answers.display(one.organ), self.answers.display(one.abnormality)
        return PlacedMap(f"{organ}: {abnormality}", organ, one.values, one.affine)

    def where(self, one: HeatMap) -> page.Where:
        """The axial slice with the map's highest value as far as the map reaches, and the map on it."""
        made = self.standardized
        into = np.linalg.solve(made.affine, one.affine)
        corners = [into[:3, :3] @ edge + into[:3, 3] for edge in (np.full(3, -0.5), np.array(one.values.shape) - 0.5)]
        limit = np.array(made.image.shape)
        low, high = np.clip([np.floor(corners[0]), np.ceil(corners[1]) + 1], 0, limit).astype(int)
        reach = (slice(low[0], high[0]), slice(low[1], high[1]))
        peak = np.unravel_index(int(one.values.argmax()), one.values.shape)
        index = int(np.clip(round((into @ [*peak, 1.0])[2]), 0, limit[2] - 1))
        layer, labels = self._layer(one), made.organs
        picture = slice_picture(
            made.image[reach],
            made.spacing_mm,
            "axial",
            index,
            None if labels is None else labels[reach],
            {layer.organ: self.outlined[layer.organ]},
            window_hu=window_for([one.organ]),
            longest_px=_MAP_PX,
            subject=f"CT scan {self.answers.name} about the {layer.organ}",
            numbered=False,
        )
        assert picture.size is not None
        start = np.eye(4)
        start[:3, 3] = (low[0], low[1], index)
        extent = (int(high[0] - low[0]), int(high[1] - low[1]), 1)
        heat = to_grid(one.values, one.affine, extent, made.affine @ start)
        words = {False: f"Heat map of {layer.name}.", True: f"Outline of the highest of the heat map of {layer.name}."}
        heats = [heat_picture(heat, "axial", picture.size, words[only], outline=only) for only in (False, True)]
        return page.Where(
            organ=layer.organ,
            abnormality=self.answers.display(one.abnormality),
            probability=self.probabilities[one.organ, one.abnormality],
            picture=replace(picture, caption=f"Axial slice {index + 1} of {limit[2]}.", legend=()),
            heat=heats[0] if one.speaks else None,
            outline=heats[1] if one.speaks else None,
        )


class _RadiographDisplay(_Display):
    """The radiograph with the boxes that were read, or with all that are known where none was."""

    def facts(self) -> tuple[Fact, ...]:
        """Boxes and pixels."""
        (rows, columns), answers = self.answers.original.pixels.shape, self.answers
        size = self.standardized.image.shape[0]
        return (
            Fact("Radiograph", answers.name, f"{rows} x {columns} pixels"),
            Fact("Boxes and masks", answers.masks, f"{len(self.standardized.regions)} boxes"),
            Fact("Standardised to", f"{size} x {size} pixels", "the model sees the middle of it"),
        )

    def completed(self, common: page.AnswersPage, maps: Sequence[HeatMap]) -> page.AnswersPage:
        """With the radiograph and its boxes."""
        del maps
        entries, readings = region_entries(), self.answers.readings.values()
        boxes = [
            Region(self.answers.display(one.region.organ), *one.region.box) for one in readings if one.reading == "box"
        ] or [
            replace(region, name=entries[region.name].display if region.name in entries else region.name)
            for region in self.standardized.regions
        ]
        picture = cxr_picture(
            self.standardized.image, CXR_MAX, boxes, longest_px=640, subject=self.answers.name,
            caption="The standardised radiograph. The patient’s right is on the left.",
        )  # fmt: skip
        return replace(common, pictures=(picture,))

    def where(self, one: HeatMap) -> page.Where:
        """The radiograph under a map."""
        made, answers = self.standardized, self.answers
        rows, columns = made.image.shape
        values = resample_map(one.values, np.linalg.inv(made.affine) @ one.affine, (rows, columns))
        known = values[np.isfinite(values)]
        organ, abnormality = answers.display(one.organ), answers.display(one.abnormality)
        attention = answers.readings[one.organ].reading == "observations"
        what, unit = ("Attention", ", 1 where it is even") if attention else ("Similarity", "")
        reach = (
            f"{what} {number(float(known.min()), 2)} to {number(float(known.max()), 2)}{unit}." if len(known) else ""
        )
        picture = cxr_picture(made.image, CXR_MAX, longest_px=_MAP_PX, subject=answers.name, caption=reach)
        assert picture.size is not None
        heat = map_picture(values, picture.size, f"Heat map of {organ}: {abnormality}.")
        return page.Where(organ, abnormality, self.probabilities[one.organ, one.abnormality], picture, heat)


_DISPLAYS: dict[str, type[_Display]] = {"ct": _ScanDisplay, "cxr": _RadiographDisplay}
