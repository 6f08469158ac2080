"""Chest films of a split with what their reports say: findings and impression apart, region by region, as tags.

A batch is a function of (seed, step), whatever the number of ranks. A missing section is -1 among the text numbers,
never an empty or made-up text.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int8
from pydantic import Field

from ctglip.config import Settings
from ctglip.data.cache import Progress
from ctglip.data.film_input import kept_edge, scaled, shrunk
from ctglip.data.organs import findings_by_study, studies_of
from ctglip.data.sampling import rows_of_rank
from ctglip.data.sayings import NO_TEXT
from ctglip.errors import StoreError
from ctglip.film.recipe import FILM_MAX
from ctglip.film.regions import region_entries
from ctglip.film.triplets import Triplet, sentences_by_region, triplets
from ctglip.film.views import FRONTAL
from ctglip.store.tables import Store
from ctglip.text.tags import Tagger
from ctglip.types import Finding


class FilmDataSettings(Settings):
    """Training on films.

    Attributes:
        size: rows and columns of a model's input, a window of a slightly larger film.
        margin: how much larger that film is; the window's place is drawn in training and the middle otherwise.
        batch: films in a batch, over all ranks.
        copies: independently drawn windows of each film (IMITATE and view-view terms want 2).
        contrast: deviation of the factor and of the shift of the grey values, in training.
        flip: share of windows that are mirrored. It contradicts the sides that reports name (IMITATE's 0.5).
        mean, std: of the grey values (0 to 1), for a model's input; ECAMP's.
        lateral: take lateral films too; frontal ones, and those of unknown projection, always count.
        tags: which list of tags, ``tags`` (ASG's 40) or ``entities`` (ECAMP's).
        threads: threads that read films.
    """

    size: int = Field(default=128, ge=16)
    margin: float = Field(default=1.125, ge=1, le=2)
    batch: int = Field(default=32, ge=2)
    copies: int = Field(default=1, ge=1, le=4)
    contrast: float = Field(default=0.1, ge=0, le=1)
    flip: float = Field(default=0.0, ge=0, le=1)
    mean: float = 0.4721
    std: float = Field(default=0.3037, gt=0)
    lateral: bool = False
    tags: str = "tags"
    threads: int = Field(default=2, ge=1)


@dataclass(frozen=True)
class FilmPair:
    """A film and one text; the fields are those of ``objectives.samples.PairSample``."""

    image: Float[np.ndarray, "1 h w"]
    text_id: int
    text_key: int


@dataclass(frozen=True)
class FilmRegions:
    """A film with m regions that have both a box and sentences; the fields are those of ``samples.StudySample``."""

    image: Float[np.ndarray, "1 h w"]
    labels: None
    boxes: Float[np.ndarray, "m 4"]
    size: Float[np.ndarray, "m 4"]
    organ_id: Int[np.ndarray, " m"]
    text_id: Int[np.ndarray, " m"]
    text_key: Int[np.ndarray, " m"]
    negative_ids: Int[np.ndarray, "m k"]


@dataclass(frozen=True)
class FilmSample:
    """One film with all that is known of it. Text numbers are -1 where there is no such text.

    Attributes:
        study_id: of the store.
        images: one window for each copy.
        boxes: of the regions in each copy, half-open ``(row0, row1, column0, column1)`` in its pixels, clipped.
        region_id: which regions, by their place in ``FilmDataset.regions``; those with a box that is on every copy.
        region_text: the sentences of each region as one text; equal sentences share a number.
        findings, impression, report: the sections, and both together.
        sentences: every sentence that belongs to a region -> text number, by ``sentence_index``.
        region_sentences: for each region its ``sentence_index`` values.
        tags: 1 affirmed, 0 denied, -1 unsaid.
        triplets: region, finding, existence.
    """

    study_id: str
    images: Float[np.ndarray, "v 1 h w"]
    boxes: Float[np.ndarray, "v m 4"]
    region_id: Int[np.ndarray, " m"]
    region_text: Int[np.ndarray, " m"]
    findings: int
    impression: int
    report: int
    sentences: dict[int, int]
    region_sentences: tuple[tuple[int, ...], ...]
    tags: Int8[np.ndarray, " t"]
    triplets: tuple[Triplet, ...]

    @property
    def image(self) -> Float[np.ndarray, "1 h w"]:
        """The first copy."""
        return self.images[0]

    @property
    def has_findings(self) -> bool:
        """The report has a findings section."""
        return self.findings != NO_TEXT

    @property
    def has_impression(self) -> bool:
        """The report has an impression section."""
        return self.impression != NO_TEXT

    def pair(self) -> FilmPair:
        """The film with its whole report."""
        return FilmPair(self.image, self.report, self.report)

    def grounded(self) -> FilmRegions:
        """The film with its regions that the report speaks of."""
        told = self.region_text != NO_TEXT
        count = int(told.sum())
        return FilmRegions(
            image=self.image,
            labels=None,
            boxes=self.boxes[0][told],
            size=np.zeros((count, 4), np.float32),
            organ_id=self.region_id[told],
            text_id=self.region_text[told],
            text_key=self.region_text[told],
            negative_ids=np.zeros((count, 0), np.int64),
        )


@dataclass(frozen=True)
class _Said:
    """What a report says, by numbers in the dataset's list of texts."""

    findings: int
    impression: int
    report: int
    sentences: dict[int, int]
    regions: dict[str, tuple[int, ...]]
    region_texts: dict[str, int]
    tags: Int8[np.ndarray, " t"]
    triplets: tuple[Triplet, ...]


class FilmDataset:
    """All films of one split that have a report.

    Args:
        store: a store of films.
        split: train, val or test.
        settings: what is wanted.
        seed: of all that is drawn.
        training: draw windows, contrast and flips; otherwise the middle of the film as it is.
        progress: called with (films read, films).

    Attributes:
        study_ids: the films, sorted.
        regions: the names that ``region_id`` counts through.
        tag_names: of ``tags``.
        texts: every text; ``bind`` gives their numbers elsewhere.

    Raises:
        StoreError: ``not_films``, ``empty_split`` or ``no_texts``.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        settings: FilmDataSettings,
        seed: int = 0,
        training: bool = True,
        progress: Progress | None = None,
    ) -> None:
        if store.info.modality != "cxr":
            raise StoreError(f"{store.path} holds no films.", code="not_films", fix="Preprocess films into a store.")
        self.settings, self.seed, self.training = settings, seed, training
        self.regions: tuple[str, ...] = tuple(region_entries())
        tagger = Tagger(settings.tags)
        self.tag_names = tagger.names
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self.study_ids = _reported(store, split, settings.lateral)
        self._said = self._read_reports(store, tagger)
        self._text_ids = np.arange(len(self.texts))
        edge = kept_edge(settings)
        self._films = _read_films(store, self.study_ids, edge, settings.threads, progress)
        self._boxes = _read_boxes(store, self.study_ids, self.regions, edge)

    def __len__(self) -> int:
        return len(self.study_ids)

    def bind(self, text_ids: Sequence[int]) -> None:
        """Give each of ``texts`` the index that it has in the text bank."""
        self._text_ids = np.asarray(text_ids, dtype=np.int64)

    def region_numbers(self, row: int) -> list[int]:
        """The regions that a film has a box of, by their place in ``regions``."""
        return [number for number, _ in self._boxes[row]]

    def rows(self, step: int) -> list[int]:
        """The films of a step's batch, of all ranks; each is seen once before any is seen again."""
        batch = min(self.settings.batch, len(self))
        epoch, place = divmod(step, len(self) // batch)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self))
        return order[place * batch : (place + 1) * batch].tolist()

    def samples(self, step: int, rank: int = 0, world: int = 1) -> list[FilmSample]:
        """A rank's films of a step; the batch is the same however many ranks share it."""
        placed = list(enumerate(self.rows(step)))
        return [
            self.sample(row, np.random.default_rng([self.seed, 1, step, place]))
            for place, row in rows_of_rank(placed, rank, world)
        ]

    def sample(self, row: int, rng: np.random.Generator | None = None) -> FilmSample:
        """One film; ``rng`` draws what training draws."""
        said, boxes = self._said[row], self._boxes[row]
        rng = rng or np.random.default_rng([self.seed, 2, row])
        edges = np.array([box for _, box in boxes]).reshape(-1, 4)
        made = [self._copy(self._films[row], edges, rng) for _ in range(self.settings.copies)]
        placed = np.stack([box for _, box in made])
        kept = ((placed[..., 1] - placed[..., 0] >= 1) & (placed[..., 3] - placed[..., 2] >= 1)).all(0)
        ids = np.array([number for number, _ in boxes], dtype=np.int64)[kept]
        names = [self.regions[number] for number in ids]
        return FilmSample(
            study_id=self.study_ids[row],
            images=np.stack([image for image, _ in made]),
            boxes=placed[:, kept].astype(np.float32),
            region_id=ids,
            region_text=np.array([self._id(said.region_texts.get(name, NO_TEXT)) for name in names], dtype=np.int64),
            findings=self._id(said.findings),
            impression=self._id(said.impression),
            report=self._id(said.report),
            sentences={index: self._id(number) for index, number in said.sentences.items()},
            region_sentences=tuple(said.regions.get(name, ()) for name in names),
            tags=said.tags,
            triplets=said.triplets,
        )

    # --- texts

    def _id(self, number: int) -> int:
        return NO_TEXT if number == NO_TEXT else int(self._text_ids[number])

    def _number(self, text: str | None) -> int:
        """The number of a text; blank ones have none."""
        text = " ".join((text or "").split())
        if not any(c.isalnum() for c in text):
            return NO_TEXT
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]

    def _read_reports(self, store: Store, tagger: Tagger) -> list[_Said]:
        sections: dict[str, dict[str, str]] = {}
        for study_id, section, text in store.table("reports").iter_rows():
            sections.setdefault(study_id, {})[section] = text
        findings = findings_by_study(store, set(self.study_ids))
        return [self._say(sections.get(i, {}), findings.get(i, []), tagger) for i in self.study_ids]

    def _say(self, sections: dict[str, str], rows: Sequence[Finding], tagger: Tagger) -> _Said:
        texts = {row.sentence_index: row.sentence for row in rows}
        regions = sentences_by_region(rows)
        used = sorted({index for indices in regions.values() for index in indices})
        both = " ".join(filter(None, (sections.get("findings"), sections.get("impression"))))
        return _Said(
            findings=self._number(sections.get("findings")),
            impression=self._number(sections.get("impression")),
            report=self._number(both),
            sentences={index: self._number(texts[index]) for index in used},
            regions=regions,
            region_texts={name: self._number(" ".join(texts[i] for i in found)) for name, found in regions.items()},
            tags=tagger.tags(rows),
            triplets=triplets(rows),
        )

    # --- images

    def _copy(
        self, film: np.ndarray, boxes: np.ndarray, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "1 h w"], Float[np.ndarray, "m 4"]]:
        """A window of a film, as a model's input, with its boxes."""
        settings, size = self.settings, self.settings.size
        room = len(film) - size
        row, column = rng.integers(0, room + 1, 2) if self.training else (room // 2, room // 2)
        grey = film[row : row + size, column : column + size].astype(np.float32) / FILM_MAX
        placed = np.clip(boxes - np.array([row, row, column, column]), 0, size)
        if self.training:
            factor, shift = rng.normal([1, 0], settings.contrast)
            middle = float(grey.mean())
            grey = np.clip((grey - middle) * max(factor, 0.2) + middle + 0.5 * shift, 0, 1)
            if rng.random() < settings.flip:
                grey = grey[:, ::-1]
                placed[:, 2:] = size - placed[:, [3, 2]]
        return scaled(grey, settings)[None], placed


def _reported(store: Store, split: str, lateral: bool) -> list[str]:
    """Films of a split with a findings or an impression section."""
    reports = store.table("reports")
    told = set(reports.filter(reports["section"].is_in(["findings", "impression"]))["study_id"])
    views = dict(store.table("studies").select("study_id", "view").iter_rows())
    wanted = [i for i in studies_of(store, split) if lateral or views.get(i) in (None, *FRONTAL)]
    found = [i for i in wanted if i in told]
    if not found:
        raise StoreError(
            f"No film of the split {split!r} of {store.path} has a findings or impression section.",
            code="no_texts",
            fix="Give the cohort reports.",
        )
    return found


def _read_films(
    store: Store, study_ids: Sequence[str], edge: int, threads: int, progress: Progress | None
) -> np.ndarray:
    """uint16 ``[films, edge, edge]``."""
    films = np.zeros((len(study_ids), edge, edge), np.uint16)

    def read(row: int) -> None:
        films[row] = shrunk(store.study(study_ids[row]).image(), edge)

    with ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(read, range(len(study_ids))), start=1):
            if progress is not None:
                progress(done, len(study_ids))
    return films


def _read_boxes(
    store: Store, study_ids: Sequence[str], regions: Sequence[str], edge: int
) -> list[list[tuple[int, tuple[float, float, float, float]]]]:
    """For each film its known regions: (number, box in pixels of the kept film)."""
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
