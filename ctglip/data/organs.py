"""Organ-text pairs of a split: crops in memory, and at each step a text that is true and texts that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.augment import AugmentSettings, augment_hu, shift_crops
from ctglip.data.cache import CropCache, Progress, cut_places, places_of
from ctglip.data.crops import CropSettings, render
from ctglip.data.sayings import NO_TEXT, OrganSayings, Phrasebook, Wordings, draw_negatives, draw_text
from ctglip.errors import StoreError
from ctglip.store.tables import Store
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary

_FINDING = tuple(Finding.__dataclass_fields__)


class DataSettings(Settings):
    """Which organs are learned from, and what is said of them.

    Attributes:
        organs: names; empty takes every organ that has an abnormality in the dictionary and is in the store.
        crops: how an organ becomes an input.
        augment: small changes of crops in training.
        silence_is_normal: an organ that a report never speaks of counts as normal; otherwise it teaches anatomy alone.
        dictionary_wording: how often a finding is worded as in the dictionary rather than as in its report.
        report_wording: how often a negative is worded as in another study's report rather than as in the dictionary.
        negatives: dictionary negatives for each organ of a batch.
        threads: threads that cut crops.
        permute_texts: a control that must learn nothing: reports are exchanged between studies, organ by organ.
    """

    organs: tuple[str, ...] = ()
    crops: CropSettings = CropSettings()
    augment: AugmentSettings = AugmentSettings()
    silence_is_normal: bool = False
    dictionary_wording: float = Field(default=0.5, ge=0, le=1)
    report_wording: float = Field(default=0.5, ge=0, le=1)
    negatives: int = Field(default=8, ge=0)
    threads: int = Field(default=2, ge=1)
    permute_texts: bool = False


@dataclass(frozen=True)
class OrganSample:
    """One organ of one study with this step's text; the fields are those of ``objectives.base.OrganSample``."""

    image: Float[np.ndarray, "c x y z"]
    mask: Float[np.ndarray, "1 x y z"]
    size: Float[np.ndarray, " 4"]
    organ_id: int
    study_index: int
    text_id: int
    text_key: int
    negative_ids: Int[np.ndarray, " k"]


class OrganDataset:
    """All (study, organ) pairs of one split.

    Args:
        store: where the scans and findings are.
        split: train, val or test.
        organs, abnormalities: the dictionaries.
        settings: what is wanted.
        seed: of the permutation, where one is asked for.
        progress: called with (studies done, studies) while crops are cut.

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
    ) -> None:
        self.settings = settings
        self.organs = organs
        study_ids = studies_of(store, split)
        names = settings.organs or trainable_organs(store, organs, abnormalities)
        places = places_of(store, study_ids, [organs[name].name for name in names], settings.crops)
        if not places:
            raise StoreError(f"None of the wanted organs is in the split {split!r} of {store.path}.", code="no_organs")
        self.cache: CropCache = cut_places(store, places, settings.crops, organs, settings.threads, progress)
        book = Phrasebook(organs, abnormalities, settings.silence_is_normal)
        findings = findings_by_study(store, {place.study_id for place in self.cache.places})
        self.sayings = book.add_all([(findings.get(p.study_id, []), p.organ) for p in self.cache.places])
        if all(sayings.kind == "silent" for sayings in self.sayings):
            raise StoreError(
                f"No report of the split {split!r} of {store.path} says anything of the wanted organs.",
                code="no_texts",
                fix="Give the cohort reports.",
            )
        if settings.permute_texts:
            self.sayings = permuted(self.sayings, np.random.default_rng(seed))
        self.wordings: dict[tuple[str, str], Wordings] = {
            (sayings.organ, name): book.wordings(sayings.organ, name)
            for sayings in self.sayings
            for name in (*sayings.hard, *sayings.others)
        }
        self.texts, self.keys = book.texts, book.keys
        numbers = {study_id: number for number, study_id in enumerate(study_ids)}
        self._study_index = np.array([numbers[place.study_id] for place in self.cache.places])
        self._organ_ids = {name: number for number, name in enumerate(organs.names)}
        self._text_ids = np.arange(len(self.texts))

    def __len__(self) -> int:
        return len(self.cache)

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:
        """Give the numbers by which others know things.

        Args:
            text_ids: for each of ``texts``, its index in the text bank.
            organ_names: the organs in the order of the objective's organ ids.
        """
        self._text_ids = np.asarray(text_ids, dtype=np.int64)
        self._organ_ids = {name: number for number, name in enumerate(organ_names)}

    def samples(self, rows: Sequence[int], rng: np.random.Generator) -> list[OrganSample]:
        """Samples of one batch, all chance drawn from ``rng``."""
        settings = self.settings
        hu, mask = self.cache.hu[rows], self.cache.mask[rows]
        hu, mask = shift_crops((hu, mask), settings.augment, rng)
        hu, shift = augment_hu(hu, settings.augment, rng)
        images = render(hu, mask, self.cache.median_hu[rows] + shift, settings.crops)
        masks = mask[:, None].astype(np.float32) / 255.0
        taken: dict[int, int] = {}
        out = []
        for place, row in enumerate(rows):
            sayings = self.sayings[row]
            text, key = draw_text(sayings, settings.dictionary_wording, rng, taken)
            taken[text] = key
            false = draw_negatives(sayings, self.wordings, settings.negatives, settings.report_wording, rng)
            silent = text == NO_TEXT
            out.append(
                OrganSample(
                    image=images[place],
                    mask=masks[place],
                    size=self.cache.size[row],
                    organ_id=self._organ_ids[sayings.organ],
                    study_index=int(self._study_index[row]),
                    text_id=NO_TEXT if silent else int(self._text_ids[text]),
                    text_key=key,
                    negative_ids=np.where(false == NO_TEXT, NO_TEXT, self._text_ids[false]) if not silent else false,
                )
            )
        return out


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


def permuted(sayings: list[OrganSayings], rng: np.random.Generator) -> list[OrganSayings]:
    """Sayings exchanged between the studies of each organ."""
    out = list(sayings)
    for organ in dict.fromkeys(s.organ for s in sayings):
        rows = [row for row, s in enumerate(sayings) if s.organ == organ]
        for row, other in zip(rows, rng.permutation(rows), strict=True):
            out[row] = sayings[int(other)]
    return out
