"""The texts that go with whole studies: one of each organ, the report as one text, or all texts of the report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Int

from ctglip.cxr.sentence_regions import SECTIONS
from ctglip.data.dataset import TextIds, number_texts
from ctglip.data.images import StudyImages
from ctglip.data.organs import OrganTexts
from ctglip.data.report_texts import ReportTextNumbers, ReportTexts, full_report
from ctglip.data.samples import NO_TEXT
from ctglip.reports.tags import Tagger
from ctglip.types import Finding

Findings = Mapping[str, Sequence[Finding]]
"""Of each study's report."""
Sections = Mapping[str, Mapping[str, str]]
"""Study -> section -> text."""


@dataclass(frozen=True)
class StudyText:
    """The texts of one study at a step; columns as of ``StudySample``.

    Attributes:
        regions: which of the study's regions have a row.
        columns: of the report.
    """

    regions: Int[np.ndarray, " m"]
    organ_id: Int[np.ndarray, " m"]
    text_id: Int[np.ndarray, " m"]
    text_key: Int[np.ndarray, " m"]
    negative_ids: Int[np.ndarray, "m k"]
    organ_sentences: Sequence[Sequence[int]] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


class StudyTexts(ABC):
    """The texts of some studies.

    Attributes:
        study_ids: studies that have texts.
        texts, text_ids: as of ``TextDataset``.
    """

    study_ids: list[str]
    texts: Sequence[str]
    text_ids: Int[np.ndarray, " n"]

    @abstractmethod
    def draw(self, study_ids: Sequence[str], rng: np.random.Generator) -> list[StudyText]:
        """The texts of a batch."""


class TextsOfOrgans(StudyTexts):
    """A text of each organ, with dictionary negatives.

    Args:
        organ_texts: of the organs, in the order of ``regions``.
        regions: study -> which of its regions -> organ.
        organ_names: what organ ids count through.
    """

    def __init__(
        self, organ_texts: OrganTexts, regions: Mapping[str, Mapping[int, str]], organ_names: Sequence[str]
    ) -> None:
        self.study_ids, self.texts, self.text_ids = list(regions), organ_texts.texts, organ_texts.text_ids
        self._organ_texts, self._regions = organ_texts, regions
        self._ends = dict(zip(regions, accumulate(map(len, regions.values())), strict=True))
        numbers = {name: number for number, name in enumerate(organ_names)}
        self._organ_ids = {
            study_id: np.array([numbers[organ] for organ in several.values()], dtype=np.int64)
            for study_id, several in regions.items()
        }

    def draw(self, study_ids: Sequence[str], rng: np.random.Generator) -> list[StudyText]:
        """See ``StudyTexts``."""
        taken: dict[int, int] = {}
        found = []
        for name in study_ids:
            end = self._ends[name]
            captions = self._organ_texts.captions[end - len(self._regions[name]) : end]
            rows = [self._organ_texts.draw(one, rng, taken) for one in captions]
            text_id, text_key = (np.array([row[n] for row in rows], dtype=np.int64) for n in (0, 1))
            regions, negatives = np.array(list(self._regions[name])), np.stack([row[2] for row in rows])
            found.append(StudyText(regions, self._organ_ids[name], text_id, text_key, negatives))
        return found


class NoTexts(StudyTexts):
    """Images alone.

    Args:
        study_ids: of the images.
    """

    def __init__(self, study_ids: Sequence[str]) -> None:
        self.study_ids, self.texts, self.text_ids = list(study_ids), (), number_texts((), None)

    def draw(self, study_ids: Sequence[str], rng: np.random.Generator) -> list[StudyText]:
        """See ``StudyTexts``; nothing is drawn."""
        del rng
        none = np.zeros(0, np.int64)
        return [StudyText(none, none, none, none, none.reshape(0, 0)) for _ in study_ids]


class TextsOfPairs(StudyTexts):
    """The whole report as one text, or one sentence of it.

    Args:
        reports: whose report goes with each study.
        by_sentence: one sentence at a time, drawn anew at each step.
    """

    def __init__(
        self,
        reports: Mapping[str, str],
        sections: Sections,
        findings: Findings,
        by_sentence: bool,
        text_ids: TextIds | None,
    ) -> None:
        texts = ReportTexts()
        self._numbers: dict[str, list[int]] = {}
        for study_id, other in reports.items():
            rows = [row for row in findings.get(other, []) if row.section in SECTIONS]
            several = dict.fromkeys(row.sentence for row in rows) if by_sentence else [full_report(sections[other])]
            numbers = [texts.number(text) for text in several]
            self._numbers[study_id] = [number for number in numbers if number != NO_TEXT]
        self.study_ids = [name for name, numbers in self._numbers.items() if numbers]
        self.texts, self.text_ids = texts.texts, number_texts(texts.texts, text_ids)

    def draw(self, study_ids: Sequence[str], rng: np.random.Generator) -> list[StudyText]:
        """See ``StudyTexts``."""
        reports = [int(self.text_ids[rng.choice(self._numbers[name])]) for name in study_ids]
        none = np.zeros(0, np.int64)
        return [StudyText(none, none, none, none, none.reshape(0, 0), (), {"report": one}) for one in reports]


class TextsOfReports(StudyTexts):
    """All texts of the report: sections, sentences, the sentences of each region, tags.

    Args:
        reports: whose report goes with each study.
        images: whose regions are meant.
        tagger: which tags are looked for.
    """

    def __init__(
        self,
        reports: Mapping[str, str],
        sections: Sections,
        findings: Findings,
        images: StudyImages[Any],
        tagger: Tagger,
        text_ids: TextIds | None,
    ) -> None:
        texts = ReportTexts()
        self._reports: dict[str, ReportTextNumbers] = {}
        self._regions = {
            name: (images.numbers[name], [images.regions[n] for n in images.numbers[name]]) for name in reports
        }
        for study_id, other in reports.items():
            rows = findings.get(other, [])
            self._reports[study_id] = texts.add(sections[other], rows, images.sentences(rows), tagger)
        self.study_ids, self.texts = list(reports), texts.texts
        self.text_ids = number_texts(self.texts, text_ids)

    def draw(self, study_ids: Sequence[str], rng: np.random.Generator) -> list[StudyText]:
        """See ``StudyTexts``; nothing is drawn."""
        del rng
        return [self._report(name) for name in study_ids]

    def _report(self, study_id: str) -> StudyText:
        report, ids, (numbers, names) = self._reports[study_id], self.text_ids, self._regions[study_id]
        text = ids[np.array([report.region_texts.get(name, NO_TEXT) for name in names], dtype=np.int64)]
        columns: dict[str, Any] = {name: int(ids[getattr(report, name)]) for name in (*SECTIONS, "report")}
        columns |= {"sentences": {at: int(ids[one]) for at, one in report.sentences.items()}, "tags": report.tags}
        sentences = [report.region_sentences.get(name, ()) for name in names]
        none = np.zeros((len(names), 0), np.int64)
        return StudyText(np.arange(len(names)), numbers, text, text, none, sentences, columns)
