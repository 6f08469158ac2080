"""Organ-text pairs of a split: crops, and at each step a text that is true of the organ and texts that are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Int
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.augment import AugmentationParameters, AugmentSettings, augment_crop, draw_augmentations
from ctglip.data.cache import CropCache, instances_of
from ctglip.data.captions import CaptionBuilder, Negatives, OrganCaptions, Paraphrases, draw_text
from ctglip.data.crops import CropSettings
from ctglip.data.dataset import Batch, TextDataset, names_of, numbers, stack
from ctglip.data.mirror import Mirror
from ctglip.data.rendering import CropStack
from ctglip.data.samples import NO_TEXT, OrganInstance, OrganSample
from ctglip.data.sampling import rows_of_rank
from ctglip.data.stored import CacheSettings, StoredCrops, open_crops
from ctglip.errors import StoreError
from ctglip.reports.parser import get_parser
from ctglip.store.tables import Store
from ctglip.types import Finding, Progress
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import organ_evidence
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import OrganDictionary

_FINDING = tuple(Finding.__dataclass_fields__)


class DataSettings(Settings):
    """Which organs are learned from, and what is said of them.

    Attributes:
        organs: names; empty takes every organ that has an abnormality in the dictionary and is in the store.
        crops: how an organ becomes an input.
        cache: where crops stay between steps.
        augment: small changes of crops in training.
        silence_is_normal: an organ that a report never speaks of counts as normal; otherwise it teaches anatomy alone.
        dictionary_wording: how often a finding is worded as in the dictionary rather than as in its report.
        report_wording: how often a negative is worded as in another study's report rather than as in the dictionary.
        negatives: dictionary negatives for each organ of a batch.
        threads: threads that cut crops.
        permute_texts: a control that must learn nothing: reports are exchanged between studies, organ by organ.
        held_out: abnormalities that are not to be taught, to ask later about what was never seen: crops of organs in
            which a report affirms one are left out.
    """

    organs: tuple[str, ...] = ()
    crops: CropSettings = CropSettings()
    cache: CacheSettings = CacheSettings()
    augment: AugmentSettings = AugmentSettings()
    unmentioned_as_negative: bool = False
    dictionary_wording: float = Field(default=0.5, ge=0, le=1)
    report_wording: float = Field(default=0.5, ge=0, le=1)
    negatives: int = Field(default=8, ge=0)
    threads: int = Field(default=2, ge=1)
    permute_texts: bool = False
    held_out: tuple[str, ...] = ()


class OrganDataset(TextDataset[OrganSample]):
    """All (study, organ) pairs of one split: a torch dataset, whose ``collate`` a ``DataLoader`` takes.

    Args:
        store: where the scans and findings are.
        split: train, val or test.
        organs, abnormalities: the dictionaries.
        settings: what is wanted.
        seed: of the permutation, where one is asked for.
        progress: called with (studies done, studies) while crops are cut.
        strategy: which dictionary negatives are drawn.

    Attributes:
        cache: the crops.
        sayings: what is said of each of them.
        texts: every text that can be drawn; ``bind`` gives their numbers elsewhere.
        keys: what each text key stands for: an organ and what is affirmed in it.

    Raises:
        StoreError: the split is empty, has no wanted organ, or no report that says anything of one.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        settings: DataSettings,
        seed: int = 0,
        progress: Progress | None = None,
        strategy: Strategy = "same_organ",
    ) -> None:
        self.settings = settings
        self.organs = organs
        study_ids = studies_of(store, split)
        names = settings.organs or trainable_organs(store, organs, abnormalities)
        instances = instances_of(store, study_ids, [organs[name].name for name in names], settings.crops)
        findings = findings_by_study(store, {instance.study_id for instance in instances})
        if settings.held_out:
            instances = _without(settings.held_out, instances, findings, organs, abnormalities)
        if not instances:
            raise no_organs(store, split)
        self.cache: CropCache | StoredCrops = open_crops(
            store, instances, settings.crops, organs, settings.cache, settings.threads, progress
        )
        book = CaptionBuilder(organs, abnormalities, settings.unmentioned_as_negative)
        said = [(findings.get(p.study_id, []), p.organ) for p in self.cache.instances]
        told = told_of(said, book, f"the split {split!r} of {store.path}")
        self._mirrored = _mirrored(said, told, book) if settings.augment.mirror else {}
        self.captions = permuted(told, np.random.default_rng(seed)) if settings.permute_texts else told
        self.negatives = Negatives(paraphrases_of((*self.captions, *self._mirrored.values()), book), strategy)
        self.texts, self.keys = book.texts, book.keys
        numbers = {study_id: number for number, study_id in enumerate(study_ids)}
        self._study_index = np.array([numbers[instance.study_id] for instance in self.cache.instances])
        self._organ_ids = {name: number for number, name in enumerate(organs.names)}
        self._text_ids = np.append(np.arange(len(self.texts)), NO_TEXT)

    def __len__(self) -> int:
        return len(self.cache)

    def sampled(self, rows: Sequence[int], seed: int) -> list[OrganSample]:
        """Samples of some rows; a row whose study is damaged gives its place to another of its organ."""
        return self.samples(rows, np.random.default_rng(seed))

    def collate(self, samples: Sequence[OrganSample]) -> Batch:
        """``image [b, c, x, y, z]``, ``mask [b, 1, x, y, z]``, ``size [b, 4]``, ``organ`` (names), ``text`` (None where
        nothing is said), ``negatives`` (texts that are false), and the samples' numbers."""
        drawn = CropStack.of([sample.crop for sample in samples], self.settings.crops).to("cpu")
        found = numbers(samples, ("organ_id", "study_index", "text_id", "text_key", "row"))
        return {
            "image": drawn.image,
            "mask": drawn.mask,
            "size": stack(samples, "size"),
            "organ": names_of(found["organ_id"], self._organ_ids),
            "text": self.text_of(found["text_id"]),
            "negatives": [self.text_of(sample.negative_ids) for sample in samples],
            **found,
        }

    def _words(self) -> tuple[Sequence[str], np.ndarray]:
        return self.texts, self._text_ids

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:
        """Give the numbers by which others know things.

        Args:
            text_ids: for each of ``texts``, its index in the text bank.
            organ_names: the organs in the order of the objective's organ ids.
        """
        self._text_ids = np.append(np.asarray(text_ids, dtype=np.int64), NO_TEXT)  # which stays what it is
        self._organ_ids = {name: number for number, name in enumerate(organ_names)}

    def samples(
        self, rows: Sequence[int], rng: np.random.Generator, rank: int = 0, world: int = 1
    ) -> list[OrganSample]:
        """Samples of one batch, all chance drawn from ``rng``.

        The same is drawn for any number of ranks, and each makes the images of its own share (``rows_of_rank``). A row
        whose study is damaged gives its place to the next of its organ, of the same kind where there is one.

        Args:
            rows: of the whole batch.
        """
        settings = self.settings
        changes = draw_augmentations(len(rows), settings.augment, rng)
        own = rows_of_rank(range(len(rows)), rank, world)
        in_batch = set(rows)
        drawn, crops = self.cache.draw(
            [rows[instance] for instance in own], lambda row: (r for r in self._stand_ins(row) if r not in in_batch)
        )
        rows = list(rows)
        for instance, row in zip(own, drawn, strict=True):
            rows[instance] = row
        said = [self._said(row, change) for row, change in zip(rows, changes, strict=True)]
        texts = self._texts([captions for captions, _ in said], rng)
        out = []
        for crop, instance in zip(crops, own, strict=True):
            (captions, change), (text, key, false) = said[instance], texts[instance]
            augmented, parameters = augment_crop(crop, change, settings.augment.noise_hu)
            out.append(
                OrganSample(
                    crop=augmented,
                    settings=settings.crops,
                    parameters=parameters,
                    organ_id=self._organ_ids[captions.organ],
                    study_index=int(self._study_index[rows[instance]]),
                    text_id=int(self._text_ids[text]),
                    text_key=key,
                    negative_ids=self._text_ids[false],
                    sentence_ids=self._text_ids[list(captions.sentences)],
                    row=rows[instance],
                )
            )
        return out

    def _said(self, row: int, change: AugmentationParameters) -> tuple[OrganCaptions, AugmentationParameters]:
        """What is said of a row's organ after a change, and the change without a mirror image that cannot be told."""
        captions = self.captions[row]
        mirrored = self._mirrored.get(captions) if change.mirrored else None
        if change.mirrored and (mirrored is None or mirrored.organ not in self._organ_ids):
            return captions, replace(change, mirrored=False)
        return mirrored or captions, change

    def _texts(
        self, said: Sequence[OrganCaptions], rng: np.random.Generator
    ) -> list[tuple[int, int, Int[np.ndarray, " k"]]]:
        """For each row a text, its key, and texts that are false, by their numbers in ``texts``."""
        taken: dict[int, int] = {}
        return [draw_texts(captions, self.negatives, self.settings, rng, taken) for captions in said]

    def _stand_ins(self, row: int) -> list[int]:
        """Rows of the same organ, those of the same kind first, each kind from this row on."""
        kind, rows = self.captions[row].kind, self._by_organ[self.captions[row].organ]
        after = [*rows[rows > row].tolist(), *rows[rows < row].tolist()]
        return sorted(after, key=lambda other: self.captions[other].kind != kind)

    @cached_property
    def _by_organ(self) -> dict[str, np.ndarray]:
        organs = np.array([captions.organ for captions in self.captions])
        return {organ: np.flatnonzero(organs == organ) for organ in np.unique(organs).tolist()}


def _mirrored(
    said: Sequence[tuple[Sequence[Finding], str]], captions: Sequence[OrganCaptions], book: CaptionBuilder
) -> dict[OrganCaptions, OrganCaptions]:
    """What is said of an organ to what is said of its mirror image, where that can be said."""
    mirror = Mirror(book.organs, get_parser())
    found = [(own, mirror.findings(rows, organ)) for own, (rows, organ) in zip(captions, said, strict=True)]
    pairs = [(own, (rows, book.organs.mirror(own.organ))) for own, rows in found if rows is not None]
    return dict(zip([own for own, _ in pairs], book.add_all([other for _, other in pairs]), strict=True))


def told_of(said: Sequence[tuple[Sequence[Finding], str]], book: CaptionBuilder, where: str) -> list[OrganCaptions]:
    """What reports say of organs.

    Args:
        said: for each organ the findings of its report, and its name.
        where: for the message.

    Raises:
        StoreError: code ``no_texts``: no report says anything of any of them.
    """
    told = book.add_all(said)
    if all(captions.kind == "silent" for captions in told):
        raise StoreError(
            f"No report of {where} says anything of the wanted organs.",
            code="no_texts",
            fix="Give the cohort reports.",
        )
    return told


def paraphrases_of(captions: Iterable[OrganCaptions], book: CaptionBuilder) -> dict[tuple[str, str], Paraphrases]:
    """How each (organ, abnormality) is affirmed that may be a negative of one of the sayings."""
    asked = dict.fromkeys((said.organ, name) for said in captions for name in (*said.hard, *said.others))
    return {pair: book.wordings(*pair) for pair in asked}


def draw_texts(
    said: OrganCaptions,
    negatives: Negatives,
    settings: DataSettings,
    rng: np.random.Generator,
    taken: dict[int, int],
) -> tuple[int, int, Int[np.ndarray, " k"]]:
    """A text that is true of an organ, its key, and texts that are false, by their numbers in the phrasebook.

    All are ``NO_TEXT`` where nothing is said of it.

    Args:
        taken: the key of each text that the batch holds; the text drawn is entered.
    """
    text, key = draw_text(said, settings.dictionary_wording, rng, taken)
    if text == NO_TEXT:
        return text, key, np.full(settings.negatives, NO_TEXT, dtype=np.int64)
    taken[text] = key
    return text, key, negatives.draw(said, settings.negatives, settings.report_wording, rng)


def studies_of(store: Store, split: str) -> list[str]:
    """Ids of a split's studies, sorted.

    Raises:
        StoreError: there are none.
    """
    found = store.table("splits").filter(pl.col("split") == split)["study_id"].sort().to_list()
    if not found:
        raise StoreError(
            f"The split {split!r} of {store.path} is empty.",
            code="empty_split",
            fix="Give studies a split in the cohort table, or preprocess more patients.",
        )
    return found


def no_organs(store: Store, split: str) -> StoreError:
    """Why a split has no organ to train on."""
    if store.info.modality == "ct" and store.table("organs").is_empty():
        return StoreError(
            f"None of the {len(store.study_ids)} studies of {store.path} has organ masks, so there is no organ to "
            "train on.",
            code="no_masks",
            fix="Preprocess into a new store with masks (the cohort's column masks), or without the setting "
            "ct.segmentation=null, so that TotalSegmentator draws them.",
        )
    return StoreError(f"None of the wanted organs is in the split {split!r} of {store.path}.", code="no_organs")


def trainable_organs(store: Store, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> tuple[str, ...]:
    """Organs of the store that have an abnormality in the dictionary, in dictionary order."""
    present = set(store.table("organs")["organ"].unique())
    return tuple(name for name in organs.names if name in present and abnormalities.of_organ(name))


def findings_by_study(store: Store, study_ids: set[str]) -> dict[str, list[Finding]]:
    """The findings of some studies' reports, in reading order."""
    found: dict[str, list[Finding]] = {}
    for columns in store.table("findings").iter_rows(named=True):
        if columns["study_id"] in study_ids:
            finding = Finding(**{name: columns[name] for name in _FINDING})
            found.setdefault(columns["study_id"], []).append(finding)
    return found


def _without(
    held_out: Sequence[str],
    instances: Sequence[OrganInstance],
    findings: Mapping[str, Sequence[Finding]],
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
) -> list[OrganInstance]:
    """The places in which no report affirms any of some abnormalities."""
    names = {abnormalities[name].name for name in held_out}
    told = ((instance, findings.get(instance.study_id, ())) for instance in instances)
    return [p for p, rows in told if names.isdisjoint(organ_evidence(rows, p.organ, organs, abnormalities).affirmed)]


def permuted(captions: list[OrganCaptions], rng: np.random.Generator) -> list[OrganCaptions]:
    """Sayings exchanged between the studies of each organ."""
    out = list(captions)
    for organ in dict.fromkeys(s.organ for s in captions):
        rows = [row for row, s in enumerate(captions) if s.organ == organ]
        for row, other in zip(rows, rng.permutation(rows), strict=True):
            out[row] = captions[int(other)]
    return out
