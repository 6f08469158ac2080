"""Radiographs with their organs, a true text for each and dictionary negatives: CT-GLIP's training in two dimensions.

An organ is where the box of its region is (``cxr/regions.yaml``); what is said of it comes from its report's
findings as for scans (``data.captions``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ctglip.cxr.regions import region_entries
from ctglip.data.captions import CaptionBuilder, Negatives
from ctglip.data.cxr import CxrDataset
from ctglip.data.dataset import Batch, TextDataset
from ctglip.data.organs import DataSettings, draw_texts, findings_by_study, paraphrases_of, permuted, told_of
from ctglip.data.samples import NO_TEXT, StudySample
from ctglip.data.studies import organs_of_images
from ctglip.errors import StoreError
from ctglip.store.tables import Store
from ctglip.types import Failure
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import OrganDictionary


@functools.cache
def organ_of_region(region: str) -> str | None:
    """The organ that a region shows as a whole; the pleura for a costophrenic angle, None for a zone of the lung."""
    entry = region_entries()[region]
    if region.endswith("_costophrenic_angle"):
        return f"pleura_{entry.side}"
    return entry.organs[0] if entry.organs and not entry.level else None


_Drawn = dict[int, tuple[int, int, int, np.ndarray]]
"""Region number -> organ id, text, key, negatives."""


class CxrOrganDataset(TextDataset[StudySample]):
    """The radiographs of a ``CxrDataset`` with their organs that have a box: a torch dataset, whose ``collate`` a
    ``DataLoader`` takes.

    Args:
        radiographs: the radiographs; their windows are taken as it draws them, the first copy of each.
        store: where they are.
        organs, abnormalities: the dictionaries.
        data: which organs (all that have a region by default), and what is said of them.
        strategy: which dictionary negatives are drawn.

    Attributes:
        sayings: what is said of each (radiograph, organ).
        texts: every text that can be drawn; ``bind`` gives their numbers elsewhere.
        keys: what each text key stands for.

    Raises:
        StoreError: ``no_organs`` or ``no_texts``.
    """

    def __init__(
        self,
        radiographs: CxrDataset,
        store: Store,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        data: DataSettings,
        strategy: Strategy = "same_organ",
    ) -> None:
        self.radiographs, self.data = radiographs, data
        findings = findings_by_study(store, set(radiographs.study_ids))
        book = CaptionBuilder(organs, abnormalities, data.unmentioned_as_negative)
        wanted = [self._wanted(row) for row in range(len(radiographs))]
        instances = [(row, organ) for row, members in enumerate(wanted) for organ in members.values()]
        if not instances:
            raise StoreError(
                "No radiograph has a box of a wanted organ.", code="no_organs", fix="Give the radiographs boxes."
            )
        said = [(findings.get(radiographs.study_ids[row], []), organ) for row, organ in instances]
        told = told_of(said, book, store.path.name)
        self.captions = permuted(told, np.random.default_rng(radiographs.seed)) if data.permute_texts else told
        self._said = dict(zip(instances, self.captions, strict=True))
        self._negatives = Negatives(paraphrases_of(self.captions, book), strategy)
        self.texts, self.keys = book.texts, book.keys
        self.bind(range(len(self.texts)), organs.names)

    def _wanted(self, row: int) -> dict[int, str]:
        """Region number -> organ of a radiograph, each organ once."""
        found: dict[str, int] = {}
        for number in self.radiographs.region_numbers(row):
            organ = organ_of_region(self.radiographs.regions[number])
            if organ is not None and (not self.data.organs or organ in self.data.organs):
                found.setdefault(organ, number)
        return {number: organ for organ, number in found.items()}

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:
        """Give the numbers by which others know things.

        Args:
            text_ids: for each of ``texts``, its index in the text bank.
            organ_names: the organs in the order of the objective's organ ids.
        """
        self._text_ids = np.append(np.asarray(text_ids, dtype=np.int64), NO_TEXT)
        self._organ_ids = {name: number for number, name in enumerate(organ_names)}

    @property
    def failures(self) -> list[Failure]:
        """Radiographs that could not be read."""
        return self.radiographs.failures

    def studies(self, step: int) -> list[str]:
        """The radiographs of a step's batch, of all ranks."""
        return self.radiographs.studies(step)

    def __len__(self) -> int:
        return len(self.radiographs)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[StudySample]:
        """A rank's radiographs of a step, with organs, texts and negatives; the batch is the same for any number of
        ranks."""
        rng = np.random.default_rng([self.radiographs.seed, 3, step])
        return self._with_texts(self.radiographs.samples(step, rank, world), self.radiographs.rows(step), rng)

    def sampled(self, rows: Sequence[int], seed: int) -> list[StudySample]:
        """Some radiographs; those that cannot be read are left out."""
        return self._with_texts(self.radiographs.sampled(rows, seed), rows, np.random.default_rng([seed, 3]))

    def collate(self, samples: Sequence[StudySample]) -> Batch:
        """As of ``data.studies.StudyDataset``, in two dimensions: ``boxes [m, 4]``, no ``labels``."""
        return organs_of_images(samples, self._organ_ids, self)

    def _words(self) -> tuple[Sequence[str], np.ndarray]:
        return self.texts, self._text_ids

    def _with_texts(
        self, radiographs: Sequence[StudySample], rows: Sequence[int], rng: np.random.Generator
    ) -> list[StudySample]:
        """Radiographs with a text for each organ, drawn for all rows of a batch whoever reads them."""
        taken: dict[int, int] = {}
        drawn = {self.radiographs.study_ids[row]: self._draw(row, rng, taken) for row in rows}
        return [self._sample(radiograph, drawn[radiograph.study_id]) for radiograph in radiographs]

    def _draw(self, row: int, rng: np.random.Generator, taken: dict[int, int]) -> _Drawn:
        out: _Drawn = {}
        for number, organ in self._wanted(row).items():
            said = self._said[row, organ]
            out[number] = (self._organ_ids[organ], *draw_texts(said, self._negatives, self.data, rng, taken))
        return out

    def _sample(self, radiograph: StudySample, said: _Drawn) -> StudySample:
        kept = [(at, said[int(number)]) for at, number in enumerate(radiograph.organ_id) if int(number) in said]
        at = [instance for instance, _ in kept]
        columns = [np.array([row[n] for _, row in kept], dtype=np.int64) for n in range(3)]
        negatives = np.array([row[3] for _, row in kept], dtype=np.int64).reshape(len(kept), self.data.negatives)
        return StudySample(
            study_id=radiograph.study_id,
            images=radiograph.images,
            labels=None,
            boxes=radiograph.boxes[:, at],
            size=np.zeros((len(kept), 4), np.float32),
            organ_id=columns[0],
            text_id=self._text_ids[columns[1]],
            text_key=columns[2],
            negative_ids=self._text_ids[negatives],
        )
