"""One scan in, answers out: read and standardised by the model's own recipe, each organ encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ctglip.data.cache import CropCache, Place, stacked
from ctglip.data.crops import CropSettings, OrganCrop, cut_crop
from ctglip.data.scans import ScanSettings, cut_scan
from ctglip.errors import MaskError, ModelError
from ctglip.inference.encoding import encode_crops
from ctglip.inference.heatmap import HeatMap, crop_affine, heat_map
from ctglip.inference.questions import Question, parse_question
from ctglip.inference.scans import encode_scan, readable
from ctglip.inference.scoring import Pair, Scorer
from ctglip.models.release import Release
from ctglip.types import LabelMap, OrganRow, QualityCheck, Scan, Standardized
from ctglip.vocabulary.organs import Organ
from ctglip.vocabulary.prompts import normal_prompts
from ctglip.volume.io import read_scan
from ctglip.volume.masks import read_masks
from ctglip.volume.recipe import VolumeRecipe
from ctglip.volume.segmentation import SegmentationSettings, segment
from ctglip.volume.standardize import standardize

_OPEN_ENDED = frozenset(
    {"aorta", "arteries", "veins", "digestive", "ribs", "muscles", "body_wall", "regions", "airways"}
)
_MASKLESS = ("query", "none")
"""Groundings that need no masks."""
_SIMILAR = 3
_GRAZE = 0.1
"""A border face that holds less than this share of an organ's largest cross-section takes nothing away from it."""


@dataclass(frozen=True)
class SimilarSentence:
    """A sentence of the dictionary and its cosine similarity with the organ."""

    text: str
    similarity: float


@dataclass(frozen=True)
class Answer:
    """The answer to one question about one organ: a probability, or the reason why there is none.

    Attributes:
        question: as asked.
        organ, abnormality: names in the dictionaries.
        probability: 0 to 1, or None.
        calibrated: the probability was calibrated on a validation split.
        rank: of the abnormality among those of the organ that the model has learned, from 1.
        of: how many were ranked.
        reason: why there is no answer.
        seen: the model has seen this abnormality of this organ in training.
        similar: the dictionary sentences nearest to the organ.
    """

    question: str
    organ: str
    abnormality: str
    probability: float | None
    calibrated: bool = False
    rank: int | None = None
    of: int | None = None
    reason: str = ""
    seen: bool = False
    similar: tuple[SimilarSentence, ...] = ()


@dataclass(frozen=True)
class ScanAnswers:
    """All answers about one scan, and what is needed to show them.

    Attributes:
        scan: the scan's file or folder name.
        masks: where the masks come from.
        answers: in the order asked.
        standardized: the scan as the model saw it.
        displays: display names of the organs and abnormalities that occur.
        grid: shape and affine of the scan as it was read (RAS+).
        source: the scan's file or folder, where it came from one.
    """

    scan: str
    masks: str
    answers: tuple[Answer, ...]
    standardized: Standardized
    displays: dict[str, str] = field(default_factory=dict)
    grid: tuple[tuple[int, ...], np.ndarray] | None = None
    source: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: answers, organs found, quality checks."""
        return {
            "scan": self.scan,
            "masks": self.masks,
            "answers": [asdict(answer) for answer in self.answers],
            "organs": [asdict(row) for row in self.standardized.rows],
            "checks": [asdict(check) for check in self.standardized.checks],
        }


@dataclass(frozen=True)
class _Reading:
    """One organ's abnormalities with their differences of similarities, and the sentences nearest to it."""

    names: list[str]
    differences: Float[np.ndarray, " n"]
    similar: tuple[SimilarSentence, ...]


class Pipeline:
    """A trained model that answers questions.

    Args:
        release: as ``models.release.load_release`` gives it.
    """

    def __init__(self, release: Release) -> None:
        self.release = release
        self.recipe = VolumeRecipe.model_validate(release.recipe)
        self.crops = CropSettings.model_validate(release.crops)
        self.scorer = Scorer(release)
        self.dictionaries = self.scorer.dictionaries
        self.trained: dict[str, tuple[str, ...]] = {
            organ: tuple(names) for organ, names in release.provenance.get("trained", {}).items()
        }

    def query(
        self,
        scan: Path | str | Scan,
        questions: Sequence[str],
        masks: Path | str | LabelMap | None = None,
        everything: bool = False,
    ) -> ScanAnswers:
        """Answer questions about one scan.

        Args:
            scan: NIfTI or NRRD file, folder of DICOM slices, or a scan in memory.
            questions: in words, see ``inference.questions``.
            masks: organ masks of the scan; made by TotalSegmentator where there are none.
            everything: ask, after the questions, for every abnormality of the dictionary of every organ that the model
                was trained on (``Answer.seen`` says whether it has seen that abnormality there).

        Raises:
            VocabularyError: a question that is not understood (before the scan is read).
            ScanError, MaskError: the scan or its masks cannot be used.
            ModelError: nothing was asked.
        """
        asked = [parse_question(text, self.dictionaries, self.trained) for text in questions]
        pairs = [entry for question in asked for entry in self._pairs(question)]
        if everything:
            pairs += [("", pair) for pair in self.screened()]
        if not pairs:
            raise ModelError("There is no question.", code="no_question", fix='Ask for example "gallstones?".')
        read, checks = (scan, ()) if isinstance(scan, Scan) else read_scan(Path(scan), self.recipe)
        standardized, origin = self._standardized(read, checks, masks)
        answers = self._answers(pairs, standardized)
        return ScanAnswers(
            scan="scan in memory" if isinstance(scan, Scan) else Path(scan).name,
            masks=origin,
            answers=tuple(answers),
            standardized=standardized,
            displays=self._displays(answers, standardized),
            grid=(read.hu.shape, read.affine),
            source=None if isinstance(scan, Scan) else Path(scan),
        )

    def screened(self) -> list[Pair]:
        """Every (organ, abnormality) of the dictionary, of the organs that the model was trained on."""
        of_organ = self.dictionaries.abnormalities.of_organ
        return [
            (organ, name)
            for organ, learned in self.trained.items()
            for name in dict.fromkeys((*learned, *(entry.name for entry in of_organ(organ))))
        ]

    def heat_maps(self, answers: ScanAnswers) -> Iterator[HeatMap]:
        """Where each answer comes from, one map at a time (``inference.heatmap``).

        Args:
            answers: as ``query`` gave them; answers without a probability have no map.

        Raises:
            ModelError: code ``no_maps``: the model reads whole scans.
        """
        rows = {row.organ: row for row in answers.standardized.rows}
        pairs = dict.fromkeys((a.organ, a.abnormality) for a in answers.answers if a.probability is not None)
        crops: dict[str, OrganCrop] = {}
        for organ, name in pairs:
            if organ not in crops:
                crops = {organ: self._crops(answers.standardized, [rows[organ]])[0]}
            crop, affine = crops[organ], answers.standardized.affine
            axis = self.scorer.axes([(organ, name)])[0]
            place = crop_affine(crop, rows[organ], affine)
            query = self.release.organs.index(organ) if organ in self.release.organs else None
            yield heat_map(self.release.model, crop, self.crops, axis, (organ, name), place, query)

    def standardize(
        self, scan: Path | str | Scan, masks: Path | str | LabelMap | None = None
    ) -> tuple[Standardized, str]:
        """The scan on the model's grid, by the recipe that the model was trained with; and where its masks are from."""
        read, checks = (scan, ()) if isinstance(scan, Scan) else read_scan(Path(scan), self.recipe)
        return self._standardized(read, checks, masks)

    def _standardized(
        self, read: Scan, checks: tuple[QualityCheck, ...], masks: Path | str | LabelMap | None
    ) -> tuple[Standardized, str]:
        organs = self.dictionaries.organs
        more: tuple[QualityCheck, ...] = ()
        if masks is None:
            labels, origin = self._made(read)
        elif isinstance(masks, LabelMap):
            labels, origin = masks, "label map in memory"
        else:
            labels, more = read_masks(Path(masks), read, self.recipe, organs)
            origin = Path(masks).name
        found = standardize(read, labels, self.recipe, organs)
        return Standardized(
            found.image, found.organs, found.affine, found.rows, (*checks, *more, *found.checks)
        ), origin

    def cut(self, standardized: Standardized, rows: Sequence[OrganRow]) -> CropCache:
        """The crops of some organs: the same voxels as training would cut from the store."""
        return stacked([Place("", row) for row in rows], self._crops(standardized, rows), self.crops)

    def _crops(self, standardized: Standardized, rows: Sequence[OrganRow]) -> list[OrganCrop]:
        organs = self.dictionaries.organs
        assert standardized.organs is not None
        return [
            cut_crop(
                standardized.image, standardized.organs, standardized.affine, organs[r.organ], r, organs, self.crops
            )
            for r in rows
        ]

    def _made(self, scan: Scan) -> tuple[LabelMap | None, str]:
        """Masks from TotalSegmentator; none where it cannot run and the model finds organs without."""
        try:
            return self._segmented(scan), "TotalSegmentator"
        except MaskError:
            if self.release.model.settings.grounding in _MASKLESS:
                return None, "none: the model reads the whole scan"
            raise

    def _segmented(self, scan: Scan) -> LabelMap:
        try:
            return segment(scan, self.recipe.segmentation or SegmentationSettings(), self.dictionaries.organs)
        except MaskError as error:
            raise MaskError(
                f"The scan comes without masks, and they cannot be made: {error.message}",
                code=error.code,
                fix=f"Give the scan's organ masks. {error.fix}".strip(),
            ) from error

    def _pairs(self, question: Question) -> list[tuple[str, Pair]]:
        """The question's pairs; "anything abnormal" becomes all that the organ was learned with."""
        if question.abnormality is not None:
            return [(question.text, (organ, question.abnormality)) for organ in question.organs]
        found: list[tuple[str, Pair]] = []
        for organ in question.organs:
            names = self.trained.get(organ) or tuple(e.name for e in self.dictionaries.abnormalities.of_organ(organ))
            found += [(question.text, (organ, name)) for name in names] or [(question.text, (organ, ""))]
        return found

    def _answers(self, pairs: Sequence[tuple[str, Pair]], standardized: Standardized) -> list[Answer]:
        organs = list(dict.fromkeys(organ for _, (organ, _) in pairs))
        rows = {row.organ: row for row in standardized.rows}
        if standardized.organs is None:
            x, y, z = standardized.image.shape
            rows = {organ: OrganRow(organ, (0, x, 0, y, 0, z), 0.0, 0.0, False) for organ in organs}
        reasons = {organ: self._no_answer(organ, rows.get(organ), standardized) for organ in organs}
        whole = [organ for organ in organs if not reasons[organ]]
        found = self._vectors(standardized, [rows[organ] for organ in whole])
        for organ, vector in zip(whole, found, strict=True):
            if np.isnan(vector).any():
                entry = self.dictionaries.organs[organ]
                reasons[organ] = (
                    f"The {entry.display} {'are' if entry.plural else 'is'} too small for the model's grid."
                )
        seen = ((organ, vector) for organ, vector in zip(whole, found, strict=True) if not reasons[organ])
        read = {organ: self._read(organ, pairs, vector) for organ, vector in seen}
        out = []
        for text, (organ, name) in pairs:
            question = text or f"{organ}: {name}"
            if organ in read:
                out.append(self._answer(question, organ, name, read[organ]))
            else:
                out.append(Answer(question, organ, name, None, reason=reasons[organ]))
        return out

    def _vectors(self, standardized: Standardized, rows: Sequence[OrganRow]) -> Float[np.ndarray, "m e"]:
        """What meets findings, of each organ; NaN for one that cannot be read in a whole scan."""
        release, organs = self.release, self.dictionaries.organs
        if release.reads_crops:
            cache = self.cut(standardized, rows)
            return encode_crops(release.model, cache, self.crops, organs=release.organs).diagnosis
        settings = ScanSettings.model_validate(release.scans)
        cut = cut_scan(standardized.image, standardized.organs, standardized.affine, settings)
        there = np.array(readable(cut, rows, release.model, organs), dtype=bool).reshape(len(rows), 1)
        found = encode_scan(release.model, cut, rows, organs, release.organs, settings)
        return np.where(there, found.diagnosis, np.nan)

    def _read(self, organ: str, pairs: Sequence[tuple[str, Pair]], vector: Float[np.ndarray, " e"]) -> _Reading:
        """All that is asked of one organ, and all that it was learned with, read off its vector at once."""
        names = list(dict.fromkeys((*self.trained.get(organ, ()), *(name for _, (o, name) in pairs if o == organ))))
        differences = self.scorer.differences(vector[None], [(organ, name) for name in names])[0]
        return _Reading(names, differences, self._similar(organ, names, vector))

    def _answer(self, question: str, organ: str, name: str, read: _Reading) -> Answer:
        learned = self.trained.get(organ, ())
        place = read.names.index(name)
        ranked = [n for n, other in enumerate(read.names) if other in learned or n == place]
        own = read.differences[place]
        calibration = self.scorer.calibration
        return Answer(
            question=question,
            organ=organ,
            abnormality=name,
            probability=float(calibration.probabilities(own)),
            calibrated=calibration.fitted_on is not None,
            rank=1 + int((read.differences[ranked] > own).sum()),
            of=len(ranked),
            seen=name in learned,
            similar=read.similar,
        )

    def _similar(
        self, organ: str, names: Sequence[str], vector: Float[np.ndarray, " e"]
    ) -> tuple[SimilarSentence, ...]:
        texts = list(normal_prompts(self.dictionaries.organs[organ], self.scorer.templates))
        texts += [text for name in names for text in self.scorer.prompts((organ, name))[0]]
        texts = list(dict.fromkeys(texts))
        similarity = self.scorer.similarities(vector, texts)
        best = np.argsort(-similarity, kind="stable")[:_SIMILAR]
        return tuple(SimilarSentence(texts[i], round(float(similarity[i]), 4)) for i in best)

    def _no_answer(self, organ: str, row: OrganRow | None, standardized: Standardized) -> str:
        """Why nothing can be said of an organ; empty where something can."""
        entry = self.dictionaries.organs[organ]
        verb = "are" if entry.plural else "is"
        if organ not in self.trained:
            return f"The model was not trained on the {entry.display}."
        labels = list(self.dictionaries.organs.grounding_labels(organ))
        if row is None:
            there = standardized.organs is not None and bool(np.isin(standardized.organs, labels).any())
            why = f"too small (less than {self.recipe.min_organ_ml:g} ml)" if there else "not in the scan's masks"
            return f"The {entry.display} {verb} {why}."
        if row.touches_border and not _open_ended(entry) and not _grazes(standardized, row, labels):
            return f"The {entry.display} {verb} cut off by the field of view."
        return ""

    def _displays(self, answers: Sequence[Answer], standardized: Standardized) -> dict[str, str]:
        organs, abnormalities = self.dictionaries.organs, self.dictionaries.abnormalities
        names = {answer.organ for answer in answers} | {row.organ for row in standardized.rows}
        found = {name: organs[name].display for name in names}
        return found | {a.abnormality: abnormalities[a.abnormality].display for a in answers if a.abnormality}


def _grazes(standardized: Standardized, row: OrganRow, labels: Sequence[int]) -> bool:
    """Whether an organ that touches the field of view's border loses next to nothing there: a lung's apex in the last
    slice. False where it ends at padding inside the volume, since nobody knows how much is missing."""
    assert standardized.organs is not None
    inside = np.isin(standardized.organs, labels)
    faces = []
    for axis, size in enumerate(inside.shape):
        areas = inside.sum(axis=tuple(other for other in range(3) if other != axis))
        ends = [areas[0]] * (row.box[2 * axis] == 0) + [areas[-1]] * (row.box[2 * axis + 1] == size)
        faces += [float(end) / float(areas.max()) for end in ends]
    return bool(faces) and max(faces) < _GRAZE


def _open_ended(organ: Organ) -> bool:
    """Whether scans hardly ever hold the whole of it, so that a cut end says nothing."""
    return organ.group in _OPEN_ENDED or (organ.group == "vertebrae" and bool(organ.parts))
