"""Films with their organs, a true text for each and dictionary negatives: CT-GLIP's training in two dimensions.

An organ is where the box of its region is (``film/regions.yaml``); what is said of it comes from its report's
findings as for scans (``data.sayings``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ctglip.data.dataset import Batch, TextDataset
from ctglip.data.films import FilmDataset, FilmRegions, FilmSample
from ctglip.data.organs import DataSettings, draw_texts, findings_by_study, permuted, told_of, wordings_of
from ctglip.data.sayings import NO_TEXT, Negatives, Phrasebook
from ctglip.data.studies import organs_of_images
from ctglip.errors import StoreError
from ctglip.film.regions import region_entries
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


class FilmOrganDataset(TextDataset[FilmRegions]):
    """The films of a ``FilmDataset`` with their organs that have a box: a torch dataset, whose ``collate`` a
    ``DataLoader`` takes.

    Args:
        films: the films; their windows are taken as it draws them, the first copy of each.
        store: where they are.
        organs, abnormalities: the dictionaries.
        data: which organs (all that have a region by default), and what is said of them.
        strategy: which dictionary negatives are drawn.

    Attributes:
        sayings: what is said of each (film, organ).
        texts: every text that can be drawn; ``bind`` gives their numbers elsewhere.
        keys: what each text key stands for.

    Raises:
        StoreError: ``no_organs`` or ``no_texts``.
    """

    def __init__(
        self,
        films: FilmDataset,
        store: Store,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        data: DataSettings,
        strategy: Strategy = "same_organ",
    ) -> None:
        self.films, self.data = films, data
        findings = findings_by_study(store, set(films.study_ids))
        book = Phrasebook(organs, abnormalities, data.silence_is_normal)
        wanted = [self._wanted(row) for row in range(len(films))]
        places = [(row, organ) for row, members in enumerate(wanted) for organ in members.values()]
        if not places:
            raise StoreError("No film has a box of a wanted organ.", code="no_organs", fix="Give the films boxes.")
        said = [(findings.get(films.study_ids[row], []), organ) for row, organ in places]
        told = told_of(said, book, store.path.name)
        self.sayings = permuted(told, np.random.default_rng(films.seed)) if data.permute_texts else told
        self._said = dict(zip(places, self.sayings, strict=True))
        self._negatives = Negatives(wordings_of(self.sayings, book), strategy)
        self.texts, self.keys = book.texts, book.keys
        self.bind(range(len(self.texts)), organs.names)

    def _wanted(self, row: int) -> dict[int, str]:
        """Region number -> organ of a film, each organ once."""
        found: dict[str, int] = {}
        for number in self.films.region_numbers(row):
            organ = organ_of_region(self.films.regions[number])
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
        """Films that could not be read."""
        return self.films.failures

    def studies(self, step: int) -> list[str]:
        """The films of a step's batch, of all ranks."""
        return self.films.studies(step)

    def __len__(self) -> int:
        return len(self.films)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[FilmRegions]:
        """A rank's films of a step, with organs, texts and negatives; the batch is the same for any number of ranks."""
        rng = np.random.default_rng([self.films.seed, 3, step])
        return self._with_texts(self.films.samples(step, rank, world), self.films.rows(step), rng)

    def sampled(self, rows: Sequence[int], seed: int) -> list[FilmRegions]:
        """Some films; those that cannot be read are left out."""
        return self._with_texts(self.films.sampled(rows, seed), rows, np.random.default_rng([seed, 3]))

    def collate(self, samples: Sequence[FilmRegions]) -> Batch:
        """As of ``data.studies.StudyDataset``, in two dimensions: ``boxes [m, 4]``, no ``labels``."""
        return organs_of_images(samples, self._organ_ids, self)

    def _words(self) -> tuple[Sequence[str], np.ndarray]:
        return self.texts, self._text_ids

    def _with_texts(
        self, films: Sequence[FilmSample], rows: Sequence[int], rng: np.random.Generator
    ) -> list[FilmRegions]:
        """Films with a text for each organ, drawn for all rows of a batch whoever reads them."""
        taken: dict[int, int] = {}
        drawn = {self.films.study_ids[row]: self._draw(row, rng, taken) for row in rows}
        return [self._sample(film, drawn[film.study_id]) for film in films]

    def _draw(self, row: int, rng: np.random.Generator, taken: dict[int, int]) -> _Drawn:
        out: _Drawn = {}
        for number, organ in self._wanted(row).items():
            said = self._said[row, organ]
            out[number] = (self._organ_ids[organ], *draw_texts(said, self._negatives, self.data, rng, taken))
        return out

    def _sample(self, film: FilmSample, said: _Drawn) -> FilmRegions:
        kept = [(at, said[int(number)]) for at, number in enumerate(film.region_id) if int(number) in said]
        at = [place for place, _ in kept]
        columns = [np.array([row[n] for _, row in kept], dtype=np.int64) for n in range(3)]
        negatives = np.array([row[3] for _, row in kept], dtype=np.int64).reshape(len(kept), self.data.negatives)
        return FilmRegions(
            image=film.image,
            labels=None,
            boxes=film.boxes[0][at],
            size=np.zeros((len(kept), 4), np.float32),
            organ_id=columns[0],
            text_id=self._text_ids[columns[1]],
            text_key=columns[2],
            negative_ids=self._text_ids[negatives],
        )
