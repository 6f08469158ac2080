"""How a model reads organs from images: crops of organs, whole scans, or radiographs; one class each, one interface.

Questions, the feature cache, validation, fine-tuning and evaluation go through a reader and ask nothing of modality or
model. A reader takes *images*: one crop of each organ, or one whole image with all of its organs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ctglip.data.augment import AugmentSettings
from ctglip.data.reader import CachedReader, InMemory, StandardizedStudy
from ctglip.data.samples import OrganInstance
from ctglip.errors import ModelError
from ctglip.inference.encoding import (
    WHOLE_INPUTS,
    OrganEmbeddings,
    concatenated,
    diagnosis_of,
    encode_inputs,
    evaluating,
    read_organs,
)
from ctglip.inference.heatmap import HeatMap, contributions, scaled
from ctglip.inference.scoring import Dictionaries, Scorer
from ctglip.modality import MODALITIES, Modality
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.types import Finding, OrganRegion, Standardized
from ctglip.vocabulary.organs import load_organs

T = TypeVar("T")
Read = Literal["organs", "whole", "observations"]
"""How images are wanted to be read: organs as the model finds them, the whole radiograph, or what learned queries
observe."""
GLOBAL = ("whole", "observations")
"""Readings that give every organ of an image the same."""
Load = Callable[[Store, str, Sequence[OrganRegion]], Sequence[T]]
ImageKey = tuple[str, tuple[OrganRegion, ...]]
"""A study, and the organs that one of its images is read for."""


@dataclass(frozen=True)
class OrganReading:
    """How an organ is read from an image.

    Attributes:
        region: where.
        reading: how, in the model's terms: its region reader, or on radiographs ``whole`` or ``observations``.
        read_from: how in words, where organs can be read in more ways than one: "the box of the left lung".
        cut_off: that the field of view cuts the organ off, in words.
    """

    region: OrganRegion
    reading: str
    read_from: str = ""
    cut_off: str = ""


class OrganReader(ABC, Generic[T]):
    """Reads organs from standardised studies as its model was trained to.

    Args:
        release: the model.
        reading: how organs are read where nothing else is said.

    Attributes:
        reads: ways of reading that it offers.
        at_once: images that are encoded together at most; None: as many as asked for.
    """

    reads: ClassVar[tuple[Read, ...]] = ("organs",)
    at_once: ClassVar[int | None] = None

    def __init__(self, release: Release, reading: str) -> None:
        self.release, self.reading = release, reading
        self.organs = load_organs(release.organ_dictionary / "organs.yaml")

    @property
    def modality(self) -> Modality[Any, Any]:
        """What kind of images the model was trained on."""
        return MODALITIES[self.release.modality]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.release.model.parameters()).device

    def check_heads(self) -> None:
        """The model has the heads that embeddings take.

        Raises:
            ModelError: code ``no_whole_image``, ``no_observations``.
        """

    @property
    @abstractmethod
    def channel_names(self) -> tuple[str, ...]:
        """What each channel of ``model_input`` shows."""

    @property
    def known(self) -> Collection[str]:
        """The organs that it can read, beside those of the model's training."""
        return ()

    @property
    @abstractmethod
    def item_bytes(self) -> int:
        """Memory of one image as ``prepare`` gives it."""

    @abstractmethod
    def instances(self, store: Store, study_ids: Sequence[str], names: Sequence[str]) -> list[OrganInstance]:
        """The wanted organs of some stored studies, study by study."""

    @abstractmethod
    def trainable(self, store: Store, dictionaries: Dictionaries, findings: Iterable[Finding]) -> Sequence[str]:
        """The organs of a store that there is something to ask about.

        Args:
            findings: of the reports of some split.
        """

    @abstractmethod
    def locate(
        self, organs: Sequence[str], standardized: Standardized, trained: Collection[str], min_organ_ml: float
    ) -> dict[str, OrganReading | str]:
        """How each organ is read from a study, or why it cannot be, in words.

        Args:
            trained: the organs of the model's training.
            min_organ_ml: organs with less were not listed.
        """

    def split(self, regions: Sequence[OrganRegion]) -> list[Sequence[OrganRegion]]:
        """The organs of a study by the image that each is read from: all from one."""
        return [regions]

    @abstractmethod
    def prepare(self, study: StandardizedStudy, regions: Sequence[OrganRegion]) -> list[T]:
        """The images that some organs of a study are read from, one for each of ``split``.

        Raises:
            StoreError: ``no_masks``: organs are cut out by masks, and the study has none.
        """

    def load(self, store: Store, study_id: str, regions: Sequence[OrganRegion]) -> list[T]:
        """``prepare`` of a stored study."""
        return self.prepare(store.study(study_id), regions)

    @abstractmethod
    def visible(self, image: T, regions: Sequence[OrganRegion], reading: str) -> Sequence[bool]:
        """Whether each organ can be read from an image."""

    @abstractmethod
    def inputs(
        self,
        images: Sequence[T],
        regions: Sequence[Sequence[OrganRegion]],
        reading: str,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: AugmentSettings | None = None,
    ) -> dict[str, Tensor]:
        """What the model reads (``encoding.Inputs``).

        Args:
            regions: the organs of each image, all visible.
            reading: how.
            device: where it is made.
            rng: draws an augmentation, of crops and scans as ``augment`` says, of radiographs as in their training.
        """

    def keys(self, instances: Sequence[OrganInstance]) -> list[ImageKey]:
        """The images that some organ instances are read from, study by study."""
        by_study: dict[str, list[OrganRegion]] = {}
        for instance in instances:
            by_study.setdefault(instance.study_id, []).append(instance.row)
        return [(name, tuple(some)) for name, rows in by_study.items() for some in self.split(rows)]

    def cache(
        self,
        store: Store,
        keys: Sequence[ImageKey],
        capacity: int,
        threads: int,
        load: Load[T] | None = None,
        max_damaged: float | None = None,
    ) -> CachedReader[ImageKey, T]:
        """Stored images, so many of them kept in memory (see ``CachedReader``); ``load`` in place of the reader's
        own."""
        make = load or self.load
        return CachedReader(
            lambda name, several: make(store, name, [region for _, regions in several for region in regions]),
            keys, lambda key: key[0], capacity, threads, max_damaged,
        )  # fmt: skip

    def encode(
        self,
        images: Sequence[T],
        regions: Sequence[Sequence[OrganRegion]],
        reading: str | None = None,
        batch: int = 64,
    ) -> OrganEmbeddings:
        """What the model makes of the organs of some images, image by image; NaN for those that cannot be read there.

        Args:
            regions: the organs of each image.
            reading: how, in place of the reader's own way.
            batch: images that are encoded at a time.
        """
        model, how = self.release.model, reading or self.reading
        there = [self.visible(image, several, how) for image, several in zip(images, regions, strict=True)]
        rows = [_chosen(several, visible) for several, visible in zip(regions, there, strict=True)]
        parts, used = [], [number for number, several in enumerate(rows) if several]
        count = min(batch, self.at_once or batch)
        with evaluating(model):
            for start in range(0, len(used), count):
                some = used[start : start + count]
                inputs = self.inputs([images[n] for n in some], [rows[n] for n in some], how, self.device)
                parts.append(encode_inputs(model, inputs, how == "observations"))
        found = concatenated(model, parts)
        return found.spread(np.array([is_visible for visible in there for is_visible in visible], dtype=bool))

    def maps(
        self,
        study: StandardizedStudy,
        readings: Mapping[str, OrganReading],
        questions: Mapping[str, Sequence[str]],
        scorer: Scorer,
    ) -> Iterator[HeatMap]:
        """Where answers about a study come from, one map for each, organ by organ.

        Args:
            readings: how each organ was read.
            questions: organ to the abnormalities asked about.
            scorer: the prompts.
        """
        model, every = self.release.model, [readings[organ].region for organ in questions]
        for image, regions in zip(self.prepare(study, every), self.split(every), strict=True):
            pairs = [(n, (region.organ, name)) for n, region in enumerate(regions) for name in questions[region.organ]]
            axes = scorer.axes([pair for _, pair in pairs])
            inputs = self.inputs([image], [regions], self.reading, self.device)
            placed = [self.placed(image, region, study.affine) for region in regions]
            found = contributions(
                model,
                lambda inputs=inputs: diagnosis_of(model, read_organs(model, inputs), inputs),
                [(n, axis) for (n, _), axis in zip(pairs, axes, strict=True)],
                tuple(inputs["images"].shape[2:]),
            )
            for (n, pair), added in zip(pairs, found, strict=True):
                affine, coverage = placed[n]
                yield HeatMap(*pair, scaled(added, coverage), affine, coverage)

    @abstractmethod
    def placed(
        self, image: T, region: OrganRegion, affine: Float[np.ndarray, "4 4"]
    ) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "*s"] | None]:
        """The affine of an image's voxels, given the study's, and how much of each an organ covers, where known."""

    def model_input(self, standardized: Standardized, regions: Sequence[OrganRegion]) -> dict[str, Any]:
        """The channels that the encoder takes, and where organs are on them (``Pipeline.model_input``).

        Raises:
            ModelError: code ``no_organ``: an organ cannot be read; ``regions``: the model cannot read that.
        """
        reading = self.reading if regions else "whole"
        images, grouped = self.prepare(InMemory(standardized), regions), self.split(regions)
        for image, several in zip(images, grouped, strict=True):
            for region, visible in zip(several, self.visible(image, several, reading), strict=True):
                if not visible:
                    raise ModelError(f"The {self.organs[region.organ].display} is too small for the model's grid.",
                                     code="no_organ")  # fmt: skip
        inputs = self.inputs(images, grouped, reading)
        found: dict[str, Any] = {"image": self.release.model.pad_channels(inputs["images"].to(self.device)).cpu()}
        if inputs.keys() != WHOLE_INPUTS:
            found |= {name: value for name, value in inputs.items() if name not in ("images", "organ_id")}
            found["organ"] = [region.organ for region in regions]
        return found


def image_batches(images: Iterable[tuple[ImageKey, T]], least: int) -> Iterator[list[tuple[ImageKey, T]]]:
    """Images gathered, whole studies, until at least so many organs are read from them."""
    several: list[tuple[ImageKey, T]] = []
    for key, image in images:
        if several and key[0] != several[-1][0][0] and sum(len(regions) for (_, regions), _ in several) >= least:
            yield several
            several = []
        several.append((key, image))
    if several:
        yield several


def _chosen(regions: Sequence[OrganRegion], there: Sequence[bool]) -> list[OrganRegion]:
    return [region for region, visible in zip(regions, there, strict=True) if visible]
