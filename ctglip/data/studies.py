"""Whole scans of a split with what their reports say: organ by organ, or report by report.

A batch is a function of (seed, step). Texts are drawn for the whole batch and images made for a rank's slice of it, so
that a run's batches do not depend on the number of ranks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.augment import augment_hu
from ctglip.data.cache import instances_of
from ctglip.data.captions import CaptionBuilder, Negatives, OrganCaptions
from ctglip.data.dataset import Batch, TextDataset, join, names_of, owners, stack
from ctglip.data.organs import (
    DataSettings,
    draw_texts,
    findings_by_study,
    no_organs,
    paraphrases_of,
    permuted,
    studies_of,
    told_of,
    trainable_organs,
)
from ctglip.data.samples import NO_TEXT, OrganInstance, StudySample
from ctglip.data.scans import ScanCut, ScanReader, ScanSettings, render_scans
from ctglip.errors import StoreError
from ctglip.store.tables import Store
from ctglip.types import Failure, OrganRow
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import OrganDictionary

ReadBy = Literal["mask", "box", "query"]
T = TypeVar("T")
S = TypeVar("S")
Chance = Callable[[int], np.random.Generator]
"""What is random of each image of a batch, by its place."""


class ScanDataSettings(Settings):
    """Training on whole scans.

    Attributes:
        input: how a scan becomes an input.
        batch: scans in a batch, over all ranks.
        text: what a scan is paired with where it has one text: its whole report (findings and impression), or one
            sentence of it, drawn anew at each step.
        keep_gb: memory for scans that were cut; beyond it they are read from the store again.
        copies: views of each scan, changed independently of each other (``data.augment``); for objectives that compare
            views.
        shift_voxels: largest shift of a view along each axis; for those objectives too.
        tags: which list of tags a report is read for, ``tags`` (ASG's 40) or ``entities`` (ECAMP's).
    """

    input: ScanSettings = ScanSettings()
    batch: int = Field(default=8, ge=2)
    text: Literal["report", "sentence"] = "report"
    keep_gb: float = Field(default=4.0, ge=0)
    copies: int = Field(default=1, ge=1, le=4)
    shift_voxels: int = Field(default=0, ge=0)
    tags: str = "tags"


class WholeScans(TextDataset[S]):
    """What the datasets share: studies, their scans, the order in which they are seen, and what is said of organs.

    Every study is seen once before any is seen again (but for the last ones where the batch does not divide them).
    """

    def __init__(
        self,
        store: Store,
        split: str,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        data: DataSettings,
        settings: ScanDataSettings,
        seed: int,
    ) -> None:
        self.organs, self.data, self.settings, self.seed = organs, data, settings, seed
        self.study_ids = studies_of(store, split)
        self.findings = findings_by_study(store, set(self.study_ids))
        names = data.organs or trainable_organs(store, organs, abnormalities)
        if not names:
            names = tuple(name for name in organs.names if abnormalities.of_organ(name))
        self.organ_names = tuple(organs[name].name for name in names)
        self.reader = ScanReader(store, settings.input, len(self.study_ids), settings.keep_gb, data.threads)
        self.texts: list[str] = []
        self.keys: tuple[tuple[str, frozenset[str]], ...] = ()
        self.captions: list[OrganCaptions] = []
        self._text_ids = np.zeros(0, dtype=np.int64)

    def _keep_told(self, told: Mapping[str, object], store: Store, split: str) -> None:
        """Leave out studies that nothing is told of; one report alone has nothing to be compared with."""
        self.study_ids = [name for name in self.study_ids if told[name]]
        if len(self.study_ids) < 2:
            raise StoreError(
                f"Fewer than two studies of the split {split!r} of {store.path} have a report.",
                code="no_texts",
                fix="Give the cohort reports.",
            )

    def __len__(self) -> int:
        return len(self.study_ids)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[S]:
        """A rank's share of the batch of a step."""
        rng = np.random.default_rng([self.seed, 2, step])
        return self._samples(
            self.rows(step), rng, lambda instance: np.random.default_rng([self.seed, 1, step, instance]), rank, world
        )

    def sampled(self, rows: Sequence[int], seed: int) -> list[S]:
        """Samples of some studies; those that cannot be read are left out."""
        rng = np.random.default_rng([seed, 2])
        return self._samples(rows, rng, lambda instance: np.random.default_rng([seed, 1, instance]))

    @abstractmethod
    def _samples(
        self, rows: Sequence[int], rng: np.random.Generator, chance: Chance, rank: int = 0, world: int = 1
    ) -> list[S]:
        """A rank's share of a batch: texts are drawn from ``rng`` for all rows, images changed by ``chance``."""

    def _words(self) -> tuple[Sequence[str], Sequence[int] | np.ndarray]:
        return self.texts, self._text_ids

    @property
    def failures(self) -> list[Failure]:
        """Studies that could not be read so far."""
        return self.reader.failures

    def studies(self, step: int) -> list[str]:
        """The studies of a step's batch, of all ranks."""
        return [self.study_ids[row] for row in self.rows(step)]

    def rows(self, step: int) -> list[int]:
        count = len(self.study_ids)
        batch = min(self.settings.batch, count)
        epoch, instance = divmod(step, count // batch)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(count)
        return [int(row) for row in order[instance * batch : (instance + 1) * batch]]

    def _images(
        self, drawn: Sequence[tuple[int, T]], names: Sequence[str], chance: Chance
    ) -> list[tuple[T, ScanCut, np.ndarray]]:
        """The scans of some places of the batch, each with what was drawn for it; unreadable ones are left out."""
        return [(item, cut, self._shown(cut.hu, rng)) for item, cut, rng in self._cuts(drawn, names, chance)]

    def _shown(self, hu: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "c x y z"]:
        """A scan on the grid as the model sees it, with what training draws."""
        changed, _ = augment_hu(hu[None], self.data.augment, rng)
        return render_scans(changed[0], self.settings.input)

    def _cuts(
        self, drawn: Sequence[tuple[int, T]], names: Sequence[str], chance: Chance
    ) -> list[tuple[T, ScanCut, np.random.Generator]]:
        found = []
        for (instance, item), cut in zip(drawn, self.reader.read(names), strict=True):
            if cut is not None:
                found.append((item, cut, chance(instance)))
        if drawn and not found:
            raise StoreError(
                f"None of {len(names)} scans that are asked for can be read: {self.failures[0].message}",
                code="damaged_store",
                fix="Run: ctglip store verify STORE --repair",
            )
        return found


@dataclass(frozen=True)
class _Said:
    """One organ of a study and its texts of a step, by their numbers in the dataset's list of texts."""

    row: OrganRow
    number: int
    text: int
    key: int
    negatives: Int[np.ndarray, " k"]


class StudyDataset(WholeScans[StudySample]):
    """Whole scans with their organs, for objectives that find organs in them: a torch dataset, whose ``collate`` a
    ``DataLoader`` takes.

    Args:
        store: where the scans and findings are.
        split: train, val or test.
        organs, abnormalities: the dictionaries.
        data: which organs, and what is said of them.
        settings: the scans.
        seed: of all that is drawn.
        regions: how the model reads organs: ``mask`` needs masks and leaves out organs that are too small for the
            grid; ``box`` needs the organ table; ``query`` needs neither: where a study has no organ table, its organs
            are those that its report speaks of, of unknown size.
        strategy: which dictionary negatives are drawn.

    Attributes:
        sayings: what is said of each organ of each study.
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
        data: DataSettings,
        settings: ScanDataSettings,
        seed: int = 0,
        regions: ReadBy = "mask",
        strategy: Strategy = "same_organ",
    ) -> None:
        super().__init__(store, split, organs, abnormalities, data, settings, seed)
        self.regions = regions
        instances = instances_of(store, self.study_ids, self.organ_names, data.crops)
        book = CaptionBuilder(organs, abnormalities, data.unmentioned_as_negative)
        if regions == "query":
            instances += self._spoken_of({instance.study_id for instance in instances})
        if not instances:
            raise no_organs(store, split)
        said = [(self.findings.get(instance.study_id, []), instance.organ) for instance in instances]
        told = told_of(said, book, f"the split {split!r} of {store.path}")
        self.captions = permuted(told, np.random.default_rng(seed)) if data.permute_texts else told
        self.negatives = Negatives(paraphrases_of(self.captions, book), strategy)
        self.texts, self.keys = book.texts, book.keys
        self.study_ids = list(dict.fromkeys(instance.study_id for instance in instances))
        self._organs: dict[str, list[tuple[OrganRow, OrganCaptions]]] = {name: [] for name in self.study_ids}
        for instance, said in zip(instances, self.captions, strict=True):
            self._organs[instance.study_id].append((instance.row, said))
        self.bind(range(len(self.texts)), organs.names)

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:
        """Give the numbers by which others know things.

        Args:
            text_ids: for each of ``texts``, its index in the text bank.
            organ_names: the organs in the order of the objective's organ ids.
        """
        self._text_ids = np.asarray(text_ids, dtype=np.int64)
        self._organ_ids = {name: number for number, name in enumerate(organ_names)}

    def collate(self, samples: Sequence[StudySample]) -> Batch:
        """``image [b, c, x, y, z]`` and ``labels`` (None but for ``pool``); of all organs, image by image:
        ``study_index``, ``organ`` (names), ``size [m, 4]``, ``boxes`` (None but for ``box``), ``text`` (None where
        nothing is said) and the samples' numbers."""
        return organs_of_images(samples, self._organ_ids, self)

    def _samples(
        self, rows: Sequence[int], rng: np.random.Generator, chance: Chance, rank: int = 0, world: int = 1
    ) -> list[StudySample]:
        taken: dict[int, int] = {}
        drawn = [
            (number, (self.study_ids[row], self._draw(self.study_ids[row], rng, taken)))
            for number, row in enumerate(rows)
        ][rank::world]
        names = [self.study_ids[rows[instance]] for instance, _ in drawn]
        return [
            self._sample(study_id, said, cut, image)
            for (study_id, said), cut, image in self._images(drawn, names, chance)
        ]

    def _draw(self, study_id: str, rng: np.random.Generator, taken: dict[int, int]) -> list[_Said]:
        out = []
        for row, said in self._organs[study_id]:
            drawn = draw_texts(said, self.negatives, self.data, rng, taken)
            out.append(_Said(row, self._organ_ids[said.organ], *drawn))
        return out

    def _sample(self, study_id: str, said: list[_Said], cut: ScanCut, image: np.ndarray) -> StudySample:
        if self.regions == "mask":
            assert cut.labels is not None
            there = np.bincount(cut.labels.ravel(), minlength=256) > 0
            said = [one for one in said if there[list(self.organs.roi_labels(one.row.organ))].any()]
        rows = [one.row for one in said]
        known = np.array([row.volume_ml > 0 for row in rows], dtype=np.float32).reshape(len(rows), 1)
        bank = np.append(self._text_ids, NO_TEXT)
        negatives = [one.negatives for one in said] or [np.zeros(self.data.negatives, dtype=np.int64)][:0]
        return StudySample(
            study_id=study_id,
            images=image[None],
            labels=cut.labels if self.regions == "mask" else None,
            boxes=cut.boxes(rows)[None],
            size=cut.sizes(rows) * known,
            organ_id=np.array([one.number for one in said], dtype=np.int64),
            text_id=bank[np.array([one.text for one in said], dtype=np.int64)],
            text_key=np.array([one.key for one in said], dtype=np.int64),
            negative_ids=bank[np.array(negatives, dtype=np.int64).reshape(len(said), self.data.negatives)],
        )

    def _spoken_of(self, known: set[str]) -> list[OrganInstance]:
        """Organs of studies without an organ table: those that their reports speak of."""
        found = []
        for study_id in self.study_ids:
            if study_id not in known:
                said = {finding.organ for finding in self.findings.get(study_id, [])}
                rows = (
                    OrganRow(name, (0, 0, 0, 0, 0, 0), 0.0, 0.0, False) for name in self.organ_names if name in said
                )
                found += [OrganInstance(study_id, row) for row in rows]
        return found


def organs_of_images(samples: Sequence[Any], organ_ids: Mapping[str, int], words: TextDataset[Any]) -> Batch:
    """Images with organs as one batch, see ``StudyDataset.collate``."""
    found = join(samples, ["size", "organ_id", "text_id", "text_key", "negative_ids"])
    return {
        "image": stack(samples, "image"),
        "labels": None if samples[0].labels is None else stack(samples, "labels"),
        "boxes": torch.cat([torch.as_tensor(sample.boxes[0]) for sample in samples]),
        "study_index": owners([len(sample.organ_id) for sample in samples]),
        "organ": names_of(found["organ_id"], organ_ids),
        "text": words.text_of(found["text_id"]),
        **found,
    }
