"""Chest radiographs of a split with what their reports say: findings and impression apart, region by region, as tags.

A batch is a function of (seed, step), whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ctglip.config import Settings
from ctglip.cxr.regions import region_entries
from ctglip.cxr.sentence_regions import sentences_by_region
from ctglip.cxr.views import FRONTAL
from ctglip.data.cxr_input import kept_edge
from ctglip.data.cxr_reader import CxrReader
from ctglip.data.cxr_window import cxr_window
from ctglip.data.dataset import Batch, TextDataset
from ctglip.data.organs import findings_by_study, studies_of
from ctglip.data.report_texts import ReportTexts, reports_of_images, sections_by_study
from ctglip.data.samples import StudySample
from ctglip.data.sampling import rows_of_rank
from ctglip.errors import StoreError
from ctglip.reports.tags import Tagger
from ctglip.store.tables import Store
from ctglip.types import Failure, Progress


class CxrDataSettings(Settings):
    """Training on radiographs.

    Attributes:
        size: rows and columns of a model's input, a window of a slightly larger radiograph.
        margin: how much larger that radiograph is; the window's place is drawn in training and the middle otherwise.
        batch: radiographs in a batch, over all ranks.
        copies: independently drawn windows of each radiograph (IMITATE and view-view terms want 2).
        contrast: deviation of the factor and of the shift of the grey values, in training.
        flip: share of windows that are mirrored. It contradicts the sides that reports name (IMITATE's 0.5).
        autocontrast: share of windows whose grey values are stretched to all there are (IMITATE's 0.5).
        rotate: largest turn in degrees, either way (IMITATE's 30). The box of a turned region is that around it, larger
            than the region; so leave turns and warps out where regions are compared (ASG).
        perspective, distortion: share of windows that are warped, and how far their corners move inwards at most, in
            halves of the window (IMITATE's 0.5, 0.5).
        mean, std: of the grey values (0 to 1), for a model's input; ECAMP's.
        lateral: take lateral radiographs too; frontal ones, and those of unknown projection, always count.
        tags: which list of tags, ``tags`` (ASG's 40) or ``entities`` (ECAMP's).
        threads: threads that read radiographs.
        keep_gb: memory for all radiographs of the split; where they take more (two bytes a pixel, ``margin`` included)
        they
            are read from the store at each step, by ``loop.workers`` if there are any.
    """

    size: int = Field(default=128, ge=16)
    margin: float = Field(default=1.125, ge=1, le=2)
    batch: int = Field(default=32, ge=2)
    copies: int = Field(default=1, ge=1, le=4)
    contrast: float = Field(default=0.1, ge=0, le=1)
    flip: float = Field(default=0.0, ge=0, le=1)
    autocontrast: float = Field(default=0.0, ge=0, le=1)
    rotate: float = Field(default=0.0, ge=0, le=180)
    perspective: float = Field(default=0.0, ge=0, le=1)
    distortion: float = Field(default=0.5, ge=0, lt=1)
    mean: float = 0.4721
    std: float = Field(default=0.3037, gt=0)
    lateral: bool = False
    tags: str = "tags"
    threads: int = Field(default=2, ge=1)
    keep_gb: float = Field(default=4.0, ge=0)


class CxrDataset(TextDataset[StudySample]):
    """All radiographs of one split that have a report: a torch dataset, whose ``collate`` a ``DataLoader`` takes.

    Args:
        store: a store of radiographs.
        split: train, val or test.
        settings: what is wanted.
        seed: of all that is drawn.
        training: draw windows and what else is changed of them; otherwise the middle of the radiograph as it is.
        progress: called with (radiographs read, radiographs).
        permute_texts: a control that must learn nothing: reports are exchanged between radiographs.
        reader: of another dataset of the same radiographs, which then are kept once.

    Attributes:
        study_ids: the radiographs, sorted.
        regions: the names that ``region_id`` counts through.
        tag_names: of ``tags``.

    Raises:
        StoreError: ``not_cxr``, ``empty_split``, ``no_texts``, or ``damaged_store``: more than a twentieth of the
            radiographs cannot be read.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        settings: CxrDataSettings,
        seed: int = 0,
        training: bool = True,
        progress: Progress | None = None,
        permute_texts: bool = False,
        reader: CxrReader | None = None,
    ) -> None:
        if store.info.modality != "cxr":
            raise StoreError(
                f"{store.path} holds no radiographs.", code="not_cxr", fix="Preprocess radiographs into a store."
            )
        self.settings, self.seed, self.training = settings, seed, training
        self.regions: tuple[str, ...] = tuple(region_entries())
        wanted = _reported(store, split, settings.lateral)
        edge = kept_edge(settings)
        self.reader = reader or CxrReader(store, wanted, edge, settings.keep_gb, settings.threads, progress)
        self.study_ids = self.reader.study_ids
        self._boxes = _read_boxes(store, self.study_ids, self.regions, edge)
        tagger = Tagger(settings.tags)
        self.tag_names = tagger.names
        self._texts = ReportTexts()
        findings, sections = findings_by_study(store, set(self.study_ids)), sections_by_study(store)
        order = np.arange(len(self.study_ids))
        order = np.random.default_rng(seed).permutation(order) if permute_texts else order
        told = [self.study_ids[row] for row in order]
        rows = [findings.get(name, []) for name in told]
        self._said = [
            self._texts.say(sections.get(name, {}), own, sentences_by_region(own), tagger)
            for name, own in zip(told, rows, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.study_ids)

    @property
    def failures(self) -> list[Failure]:
        """Radiographs that could not be read so far, and are left out."""
        return self.reader.failures

    @property
    def texts(self) -> list[str]:
        """Every text; ``bind`` gives their numbers elsewhere."""
        return self._texts.texts

    def bind(self, text_ids: Sequence[int]) -> None:
        """Give each of ``texts`` the index that it has in the text bank."""
        self._texts.bind(text_ids)

    def region_numbers(self, row: int) -> list[int]:
        """The regions that a radiograph has a box of, by their place in ``regions``."""
        return [number for number, _ in self._boxes[row]]

    def rows(self, step: int) -> list[int]:
        """The radiographs of a step's batch, of all ranks; each is seen once before any is seen again."""
        batch = min(self.settings.batch, len(self))
        epoch, position = divmod(step, len(self) // batch)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self))
        return order[position * batch : (position + 1) * batch].tolist()

    def studies(self, step: int) -> list[str]:
        """The radiographs of a step's batch, of all ranks."""
        return [self.study_ids[row] for row in self.rows(step)]

    def samples(self, step: int, rank: int = 0, world: int = 1) -> list[StudySample]:
        """A rank's radiographs of a step; the batch is the same however many ranks share it."""
        return self._placed(rows_of_rank(list(enumerate(self.rows(step))), rank, world), [self.seed, 1, step])

    def sampled(self, rows: Sequence[int], seed: int) -> list[StudySample]:
        """Some radiographs; those that cannot be read are left out."""
        return self._placed(list(enumerate(rows)), [seed, 1])

    def collate(self, samples: Sequence[StudySample]) -> Batch:
        """As ``report_texts.reports_of_images`` says."""
        return reports_of_images(samples, self.regions, self)

    def _words(self) -> tuple[Sequence[str], Sequence[int]]:
        return self._texts.texts, self._texts.ids

    def _placed(self, placed: Sequence[tuple[int, int]], seed: Sequence[int]) -> list[StudySample]:
        """Rows with their places in a batch."""
        radiographs = self.reader.read([row for _, row in placed])
        found = [
            self._sample(row, radiograph, np.random.default_rng([*seed, position]))
            for (position, row), radiograph in zip(placed, radiographs, strict=True)
            if radiograph is not None
        ]
        if placed and not found:
            raise StoreError(
                f"None of {len(placed)} radiographs that are asked for can be read: {self.failures[0].message}",
                code="damaged_store",
            )
        return found

    def sample(self, row: int, rng: np.random.Generator | None = None) -> StudySample:
        """One radiograph; ``rng`` draws what training draws.

        Raises:
            StoreError: code ``damaged_store``: it cannot be read.
        """
        (radiograph,) = self.reader.read([row])
        if radiograph is None:
            raise StoreError(f"{self.study_ids[row]} cannot be read.", code="damaged_store")
        return self._sample(row, radiograph, rng or np.random.default_rng([self.seed, 2, row]))

    def _sample(self, row: int, radiograph: np.ndarray, rng: np.random.Generator) -> StudySample:
        boxes = self._boxes[row]
        edges = np.array([box for _, box in boxes]).reshape(-1, 4)
        drawn = rng if self.training else None
        made = [cxr_window(radiograph, edges, self.settings, drawn) for _ in range(self.settings.copies)]
        placed = np.stack([box for _, box in made])
        seen = (placed[..., 1::2] > placed[..., ::2]).all(axis=(0, 2))  # a region that a view has lost is left out
        return self._texts.sample(
            self.study_ids[row],
            self._said[row],
            images=np.stack([image for image, _ in made]),
            boxes=placed[:, seen],
            region_id=np.array([number for number, _ in boxes], dtype=np.int64)[seen],
            regions=self.regions,
        )


def _reported(store: Store, split: str, lateral: bool) -> list[str]:
    """Radiographs of a split with a findings or an impression section."""
    reports = store.table("reports")
    told = set(reports.filter(reports["section"].is_in(["findings", "impression"]))["study_id"])
    views = dict(store.table("studies").select("study_id", "view").iter_rows())
    wanted = [i for i in studies_of(store, split) if lateral or views.get(i) in (None, *FRONTAL)]
    found = [i for i in wanted if i in told]
    if not found:
        raise StoreError(
            f"No radiograph of the split {split!r} of {store.path} has a findings or impression section.",
            code="no_texts",
            fix="Give the cohort reports.",
        )
    return found


def _read_boxes(
    store: Store, study_ids: Sequence[str], regions: Sequence[str], edge: int
) -> list[list[tuple[int, tuple[float, float, float, float]]]]:
    """For each radiograph its known regions: (number, box in pixels of the kept radiograph)."""
    numbers = {name: number for number, name in enumerate(regions)}
    sizes = dict(store.table("studies").select("study_id", "shape").iter_rows())
    found: dict[str, list[tuple[int, tuple[float, float, float, float]]]] = {}
    for row in store.table("regions").iter_rows(named=True):
        if row["region"] not in numbers or row["study_id"] not in sizes:
            continue
        scale = [edge / n for n in sizes[row["study_id"]]]
        box = (
            row["row0"] * scale[0], row["row1"] * scale[0], row["column0"] * scale[1], row["column1"] * scale[1],
        )  # fmt: skip
        found.setdefault(row["study_id"], []).append((numbers[row["region"]], box))
    return [found.get(study_id, []) for study_id in study_ids]
