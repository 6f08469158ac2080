"""Whole scans and radiographs of a split with their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from ctglip.cxr.sentence_regions import SECTIONS
from ctglip.data.caption_parts import SILENT, CaptionRules
from ctglip.data.caption_tables import Taught
from ctglip.data.collate import column, joined, owners
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.dataset import LoaderBatch, TextDataset, TextIds
from ctglip.data.images import (
    CxrImages,
    RegionReading,
    ScanImages,
    StudyImages,
    cxr_reader,
    frontal_studies,
    region_boxes,
    scan_reader,
)
from ctglip.data.organ_crops import instances_of
from ctglip.data.organs import (
    OrganTexts,
    check_modality,
    no_organs,
    studies_of,
    trainable_organs,
)
from ctglip.data.reader import CachedReader
from ctglip.data.report_texts import sections_by_study
from ctglip.data.samples import StudySample
from ctglip.data.sampling import rows_of_epoch, rows_of_rank
from ctglip.data.scans import ScanDataSettings
from ctglip.data.settings import WITHOUT_TEXTS
from ctglip.data.split_tables import caption_rules, organs_of_studies, split_captions
from ctglip.data.study_texts import NoTexts, StudyText, StudyTexts, TextsOfOrgans, TextsOfPairs, TextsOfReports
from ctglip.data.tokens import TokenDataSettings, open_tokens
from ctglip.errors import StoreError
from ctglip.reports.tags import Tagger
from ctglip.store.findings import findings_by_study
from ctglip.store.tables import Store
from ctglip.types import Failure, OrganRow, Progress
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import OrganDictionary

TextKind = Literal["organs", "pairs", "reports", "images"]
"""A text of each organ; the whole report (or one sentence of it) as one text; all texts of the report; none, of all
studies, with or without a report."""


class StudyDataset(TextDataset[StudySample]):
    """Whole scans or radiographs: a torch dataset, whose ``collate`` a ``DataLoader`` takes.

    Every study is seen once before any is seen again (but for the last ones where the batch does not divide them).

    Args:
        store: where the images and findings are.
        split: train, val or test.
        organs, abnormalities: the dictionaries.
        settings: which scans or radiographs, and how their texts are drawn.
        seed: of all that is drawn.
        texts: which texts go with a study.
        reading: how the model reads organs of a scan: ``mask`` needs masks and leaves out organs that are too small for
            the grid; ``box`` needs the organ table; ``query`` needs neither: where a study has no organ table, its
            organs are those that its report mentions, of unknown size. Organs of radiographs have boxes.
        strategy: which dictionary negatives are drawn.
        text_ids: numbers texts (see ``dataset.number_texts``).
        organ_names: what organ ids count through; all organs of the dictionary where it is None.
        reader: of another dataset of the same images, which then are kept once.
        progress: called with (studies read, studies) where memory holds them all.
        training: draw an augmentation; otherwise images are as they are.

    Attributes:
        study_ids: the studies, sorted.
        images: how they are read; ``images.regions`` is what ``organ_id`` counts through where ``texts`` is reports.
        tag_names: of ``StudySample.tags``.

    Raises:
        StoreError: the split is empty, has no wanted organ, no report that mentions one, or too few with a report; or
            code ``other_modality``.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        settings: ScanDataSettings | TokenDataSettings | CxrDataSettings,
        seed: int = 0,
        texts: TextKind = "organs",
        reading: RegionReading = "mask",
        strategy: Strategy = "same_organ",
        text_ids: TextIds | None = None,
        organ_names: Sequence[str] | None = None,
        reader: CachedReader[str, Any] | None = None,
        progress: Progress | None = None,
        training: bool = True,
    ) -> None:
        self.settings, self.seed, self.training, self._kind = settings, seed, training, texts
        self.organ_names = tuple(organ_names or organs.names)
        self.tag_names: tuple[str, ...] = ()
        check_modality(store, settings)
        study_ids = studies_of(store, split)
        self._findings = {} if texts == "images" else findings_by_study(store, set(study_ids))
        builder = (store, organs, abnormalities)
        self.images, study_ids = self._open(*builder, study_ids, texts, reading, reader, progress)
        where = f"the split {split!r} of {store.path}"
        rules = caption_rules(organs, abnormalities, settings.unmentioned_as_negative)
        self._texts: StudyTexts
        if texts == "organs":
            regions = {name: self._organs_of(name) for name in study_ids}
            regions = {name: several for name, several in regions.items() if several}
            if not regions:
                raise no_organs(store, split)
            pairs = [(number, organ) for number, several in enumerate(regions.values()) for organ in several.values()]
            captions = split_captions(store, organs_of_studies(list(regions), organs.names, pairs), rules)
            organ_texts = OrganTexts(captions, settings, strategy, seed, where, text_ids)
            self._texts, self.captions, self.keys, self.taught = (
                TextsOfOrgans(organ_texts, regions, self.organ_names), captions, captions.keys, captions.taught,
            )  # fmt: skip
        elif texts == "images":
            self._texts, self.taught = NoTexts(study_ids), Taught({}, 0, 0)
        else:
            self._texts = self._report_texts(store, study_ids, texts, text_ids)
            self.taught = self._taught_by_reports(store, self._texts.study_ids, rules)
        self.study_ids, self.texts, self.text_ids = self._texts.study_ids, self._texts.texts, self._texts.text_ids
        if texts in ("pairs", "reports") and len(self) < 1 + training:  # one report alone has nothing to compare with
            message = f"{len(self)} studies of {where} have a findings or impression section."
            raise StoreError(message, code="no_texts", fix=WITHOUT_TEXTS)
        if not study_ids:
            raise StoreError(f"There is no frontal radiograph in {where}.", code="no_images", fix="Set data.lateral.")

    def __len__(self) -> int:
        return len(self.study_ids)

    @property
    def failures(self) -> list[Failure]:
        """Studies that could not be read so far, and are left out."""
        return self.images.reader.failures

    @property
    def regions(self) -> tuple[str, ...]:
        """What ``organ_id`` counts through where ``texts`` is reports."""
        return self.images.regions

    def rows(self, step: int) -> list[int]:
        """The studies of a step's batch, of all ranks, by their place in ``study_ids``."""
        return rows_of_epoch(len(self), self.settings.batch, self.seed, step)

    @property
    def steps(self) -> int:
        """Steps in which every study is seen once."""
        return len(self) // min(self.settings.batch, len(self))

    def studies(self, step: int) -> list[str]:
        """The studies of a step's batch, of all ranks."""
        return [self.study_ids[row] for row in self.rows(step)]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[StudySample]:
        """A rank's share of the samples of a step."""
        return self._samples(self.rows(step), [self.seed, 2, step], [self.seed, 1, step], rank, world)

    def sampled(self, rows: Sequence[int], seed: int) -> list[StudySample]:
        """Samples of some studies; those that cannot be read are left out."""
        return self._samples(rows, [seed, 2], [seed, 1])

    def collate(self, samples: Sequence[StudySample]) -> LoaderBatch:
        """Studies as one batch.

        Returns:
            ``images [b, v, c, *s]`` and the first view ``image``; ``study_id``; ``labels`` or None; ``findings``,
            ``impression``, ``report`` and ``tags`` of the reports; of all organs, one image's after the other's:
            ``study_index``, ``organ`` (names of organs or regions) and ``organ_id``, ``boxes [m, e]`` in the first
            view, ``size [m, 4]``, ``organ_text`` and ``negatives``. ``text`` is the organs' where ``texts`` is organs,
            else the whole reports'. Texts are None where there is none.
        """
        images, integers = column(samples, "images"), ("organ_id", "text_id", "text_key", "negative_ids")
        numbers = {name: joined(samples, name) for name in integers}
        organ_text = self.text_of(numbers["text_id"])
        sections = {name: self.text_of([getattr(one, name) for one in samples]) for name in (*SECTIONS, "report")}
        names = self.organ_names if self._kind == "organs" else self.regions
        return {
            "image": images[:, 0],
            "images": images,
            "labels": None if samples[0].labels is None else column(samples, "labels"),
            "study_id": [sample.study_id for sample in samples],
            **sections,
            "text": organ_text if self._kind == "organs" else sections["report"],
            "tags": column(samples, "tags"),
            "study_index": owners([len(sample.organ_id) for sample in samples]),
            "organ": [names[number] for number in numbers["organ_id"].tolist()],
            "organ_text": organ_text,
            "negatives": [self.text_of(ids) for ids in numbers["negative_ids"]],
            "boxes": torch.cat([torch.as_tensor(sample.boxes[0]) for sample in samples]),
            "size": joined(samples, "size"),
            **numbers,
        }

    def _open(
        self,
        store: Store,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        study_ids: list[str],
        texts: TextKind,
        reading: RegionReading,
        reader: CachedReader[str, Any] | None,
        progress: Progress | None,
    ) -> tuple[StudyImages[Any], list[str]]:
        """The images, and the studies that can be read, as far as that is known."""
        settings = self.settings
        if settings.name == "cxr":
            study_ids = frontal_studies(store, study_ids, settings.lateral, reported=texts != "images")
            images = CxrImages(reader or cxr_reader(store, settings, study_ids), region_boxes(store, study_ids))
            return images, [*images.reader.preload(study_ids, progress)]
        names = settings.organs or trainable_organs(store, organs, abnormalities)
        names = names or tuple(name for name in organs.names if abnormalities.of_organ(name))
        names = tuple(organs[name].name for name in names)
        rows: dict[str, list[OrganRow]] = {name: [] for name in study_ids}
        if texts != "images":
            for instance in instances_of(store, study_ids, names, settings.crops):
                rows[instance.study_id].append(instance.row)
        if texts == "organs" and reading == "query":
            self._add_mentioned(rows, names)
        memory = (settings.keep_gb, settings.threads)
        if reader is None and isinstance(settings, TokenDataSettings):
            reader = open_tokens(settings, store).reader(study_ids, *memory)
        reader = reader or scan_reader(store, settings.input, study_ids, *memory)
        images = ScanImages(reader, rows, self.organ_names, names, organs, settings, reading)
        return images, [*images.reader.preload(study_ids, progress)]

    def _add_mentioned(self, rows: dict[str, list[OrganRow]], names: Sequence[str]) -> None:
        """Organs of studies without an organ table: those that their reports mention, of unknown size."""
        for study_id, several in rows.items():
            if not several:
                mentioned = {finding.organ for finding in self._findings.get(study_id, [])}
                several += [OrganRow(name, (0, 0, 0, 0, 0, 0), 0.0, 0.0, False) for name in names if name in mentioned]

    def _organs_of(self, study_id: str) -> dict[int, str]:
        """Which of a study's regions show an organ that is wanted, each organ once."""
        found: dict[str, int] = {}
        for at, number in enumerate(self.images.numbers[study_id]):
            organ = self.images.organ_of(self.images.regions[number])
            if organ is not None and (not self.settings.organs or organ in self.settings.organs):
                found.setdefault(organ, at)
        return {at: organ for organ, at in found.items()}

    def _taught_by_reports(self, store: Store, study_ids: Sequence[str], rules: CaptionRules) -> Taught:
        """The organs that any report mentions and that the dictionary has abnormalities of."""
        rows = (row for name in study_ids for row in self._findings.get(name, ()))
        mentioned = {row.organ for row in rows if row.section in SECTIONS}
        names = [name for name in rules.organs.names if name in mentioned and rules.abnormalities.of_organ(name)]
        pairs = [(number, organ) for number in range(len(study_ids)) for organ in names]
        captions = split_captions(store, organs_of_studies(study_ids, names, pairs), rules)
        return captions.take(np.flatnonzero(captions.kind != SILENT)).taught

    def _report_texts(
        self, store: Store, study_ids: Sequence[str], kind: TextKind, text_ids: TextIds | None
    ) -> StudyTexts:
        """Of the studies that have a report; for a control reports are exchanged."""
        sections = sections_by_study(store, self._findings)
        names = [name for name in study_ids if sections.get(name)]
        others = names
        if self.settings.permute_texts:
            others = [names[row] for row in np.random.default_rng(self.seed).permutation(len(names))]
        reports = dict(zip(names, others, strict=True))
        if kind == "pairs":
            by_sentence = isinstance(self.settings, ScanDataSettings) and self.settings.text == "sentence"
            return TextsOfPairs(reports, sections, self._findings, by_sentence, text_ids)
        assert not isinstance(self.settings, TokenDataSettings)  # which are for organs and pairs
        tagger = Tagger(self.settings.tags)
        self.tag_names = tagger.names
        return TextsOfReports(reports, sections, self._findings, self.images, tagger, text_ids)

    def _samples(
        self, rows: Sequence[int], text_seed: Sequence[int], image_seed: Sequence[int], rank: int = 0, world: int = 1
    ) -> list[StudySample]:
        """A rank's share of a batch: texts are drawn for all rows, so that it is the same for any number of ranks."""
        names = [self.study_ids[row] for row in rows]
        texts = self._texts.draw(names, np.random.default_rng(text_seed))
        share = rows_of_rank(range(len(rows)), rank, world)
        items = self.images.reader.read([names[number] for number in share])
        found = [
            self._sample(names[number], item, texts[number], np.random.default_rng([*image_seed, number]))
            for number, item in zip(share, items, strict=True)
            if item is not None
        ]
        if share and not found:
            raise StoreError(
                f"None of {len(share)} studies that are asked for can be read: {self.failures[0].message}",
                code="damaged_store",
                fix="Run: ctglip store verify STORE --repair",
            )
        return found

    def _sample(self, study_id: str, item: Any, text: StudyText, rng: np.random.Generator) -> StudySample:
        views = self.images.views(study_id, item, self.settings.copies, rng if self.training else None)
        visible = views.visible[text.regions]
        regions = text.regions[visible]
        return StudySample(
            study_id=study_id,
            images=views.images,
            labels=views.labels,
            boxes=views.boxes[:, regions],
            size=views.size[regions],
            organ_id=text.organ_id[visible],
            text_id=text.text_id[visible],
            text_key=text.text_key[visible],
            negative_ids=text.negative_ids[visible],
            organ_sentences=[one for one, is_visible in zip(text.organ_sentences, visible, strict=False) if is_visible],
            **text.columns,
        )
