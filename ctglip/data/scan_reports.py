"""Whole scans with all that their reports say: the same samples as radiographs, an organ in place of a region.

What is said of an organ: sentences about it or a part of it, and what a sentence about a whole denies or calls normal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ctglip.cxr.sentence_regions import SECTIONS
from ctglip.data.cache import instances_of
from ctglip.data.captions import CaptionBuilder
from ctglip.data.dataset import Batch
from ctglip.data.organs import DataSettings
from ctglip.data.report_texts import ReportTexts, organs_spoken_of, reports_of_images, sections_by_study
from ctglip.data.samples import StudySample
from ctglip.data.scans import ScanCut
from ctglip.data.studies import Chance, ScanDataSettings, WholeScans
from ctglip.reports.tags import Tagger
from ctglip.store.tables import Store
from ctglip.types import Finding, OrganRow
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary


class ScanReportDataset(WholeScans[StudySample]):
    """All scans of one split that have a report: a torch dataset, whose ``collate`` a ``DataLoader`` takes.

    Args:
        store, split, organs, abnormalities, data, settings, seed: as for ``data.studies.StudyDataset``; ``data`` says
            which organs are regions, and how views are changed.
        labels: samples have label maps, for models that read regions by masks.

    Attributes:
        regions: the organs that ``region_id`` counts through.
        tag_names: of ``tags``.
        sayings: what is said of organs, which tells what a model was trained on.

    Raises:
        StoreError: the split is empty, or fewer than two of its studies have a report.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        data: DataSettings,
        settings: ScanDataSettings,
        seed: int = 0,
        labels: bool = False,
    ) -> None:
        super().__init__(store, split, organs, abnormalities, data, settings, seed)
        self.labels = labels
        sections = sections_by_study(store)
        told = {name: _sections(sections.get(name, {}), self.findings.get(name, ())) for name in self.study_ids}
        self._keep_told(told, store, split)
        self._rows: dict[str, list[OrganRow]] = {name: [] for name in self.study_ids}
        for instance in instances_of(store, self.study_ids, self.organ_names, data.crops):
            self._rows[instance.study_id].append(instance.row)
        self._book, tagger = ReportTexts(), Tagger(settings.tags)
        self.tag_names = tagger.names
        order = np.arange(len(self.study_ids))
        order = np.random.default_rng(seed).permutation(order) if data.permute_texts else order
        self._said = []
        for name in (self.study_ids[row] for row in order):
            rows = self.findings.get(name, [])
            spoken = sentences_by_organ(rows, self.organ_names, organs)
            self._said.append(self._book.say(told[name], rows, spoken, tagger))
        self.texts = self._book.texts
        phrases = CaptionBuilder(organs, abnormalities, data.unmentioned_as_negative)
        self.captions = organs_spoken_of(self.findings, self.study_ids, phrases)
        self.bind(range(len(self.texts)), organs.names)

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:
        """Give the numbers by which others know things.

        Args:
            text_ids: for each of ``texts``, its index in the text bank.
            organ_names: the organs in the order of the objective's organ ids, which ``region_id`` then counts through.
        """
        self._book.bind(text_ids)
        self.regions = tuple(organ_names)
        numbers = {name: number for number, name in enumerate(organ_names)}
        self._rows = {name: [row for row in rows if row.organ in numbers] for name, rows in self._rows.items()}
        self._region_id = {
            name: np.array([numbers[row.organ] for row in rows], dtype=np.int64) for name, rows in self._rows.items()
        }

    def collate(self, samples: Sequence[StudySample]) -> Batch:
        """As ``report_texts.reports_of_images`` says; regions are organs."""
        return reports_of_images(samples, self.regions, self)

    def _words(self) -> tuple[Sequence[str], Sequence[int]]:
        return self._book.texts, self._book.ids

    def _samples(
        self,
        rows: Sequence[int],
        rng: np.random.Generator,  # noqa: ARG002  (the report is told whole)
        chance: Chance,
        rank: int = 0,
        world: int = 1,
    ) -> list[StudySample]:
        drawn = list(enumerate(rows))[rank::world]
        names = [self.study_ids[row] for _, row in drawn]
        return [self._sample(row, cut, rng) for row, cut, rng in self._cuts(drawn, names, chance)]

    def _sample(self, row: int, cut: ScanCut, rng: np.random.Generator) -> StudySample:
        name = self.study_ids[row]
        boxes, labels = cut.boxes(self._rows[name]), cut.labels if self.labels else None
        views = [self._view(cut.hu, labels, boxes, rng) for _ in range(self.settings.copies)]
        found = self._book.sample(
            name,
            self._said[row],
            images=np.stack([image for image, _, _ in views]),
            boxes=np.stack([placed for _, _, placed in views]),
            region_id=self._region_id[name],
            regions=self.regions,
        )
        return replace(found, labels=views[0][1])

    def _view(
        self, hu: np.ndarray, labels: np.ndarray | None, boxes: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """A scan, shifted (what comes in at a face repeats that face), with its labels and boxes."""
        reach = self.settings.shift_voxels
        if reach:
            steps = rng.integers(-reach, reach + 1, 3)
            instances = np.ix_(*(np.clip(np.arange(n) + by, 0, n - 1) for n, by in zip(hu.shape, steps, strict=True)))
            hu, labels = hu[instances], None if labels is None else labels[instances]
            boxes = np.clip(boxes - np.repeat(steps, 2), 0, np.repeat(hu.shape, 2)).astype(np.float32)
        return self._shown(hu, rng), labels, boxes


def sentences_by_organ(
    findings: Sequence[Finding], names: Sequence[str], organs: OrganDictionary
) -> dict[str, tuple[int, ...]]:
    """The sentences that belong to each of some organs, by their ``sentence_index``; organs without any are left out.

    Args:
        findings: of one report; sections that tell why and how are left out.
        names: the organs.
    """
    by_organ: dict[str, list[Finding]] = {}
    for row in findings:
        if row.organ is not None and row.section in SECTIONS and row.status != "historical":
            by_organ.setdefault(row.organ, []).append(row)
    found = {}
    for name in names:
        own = [row for organ in {name, *organs.parts_of(name)} & by_organ.keys() for row in by_organ[organ]]
        containers = organs.containing(name) & by_organ.keys()
        own += [row for organ in containers for row in by_organ[organ] if row.status in ("negated", "normal")]
        if own:
            found[name] = tuple(sorted({row.sentence_index for row in own}))
    return found


def _sections(sections: Mapping[str, str], findings: Sequence[Finding]) -> dict[str, str]:
    """Findings and impression; from the parsed sentences where the store has no text."""
    told = {name: sections[name] for name in SECTIONS if sections.get(name, "").strip()}
    if not told:
        for name in SECTIONS:
            said = dict.fromkeys(row.sentence for row in findings if row.section == name)
            told |= {name: " ".join(said)} if said else {}
    return told
