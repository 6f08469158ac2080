"""How a model reads organs from images: crops of organs, whole scans, or radiographs; one class each, one interface.

A question, the feature cache and evaluation go through a reader and ask nothing of modality or model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ctglip.data.samples import OrganInstance
from ctglip.inference.encoding import OrganEmbeddings
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.readings import OrganReading
from ctglip.inference.scoring import Pair, Scorer
from ctglip.modality import MODALITIES, Modality
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.types import OrganRegion, Standardized
from ctglip.vocabulary.organs import load_organs


class StandardizedStudy(Protocol):
    """A standardised study, stored (``StudyReader``) or in memory (``InMemory``)."""

    affine: np.ndarray

    def image(self) -> np.ndarray:
        """int16 HU ``[x, y, z]`` or uint16 ``[row, column]``."""
        ...

    def organs(self) -> np.ndarray | None:
        """Organ labels like the image, or None."""
        ...


class InMemory:
    """A standardised study that is in no store."""

    def __init__(self, standardized: Standardized) -> None:
        self._standardized, self.affine = standardized, standardized.affine

    def image(self) -> np.ndarray:
        return self._standardized.image

    def organs(self) -> np.ndarray | None:
        return self._standardized.organs


class OrganReader(ABC):
    """Reads organs from standardised studies as its model was trained to.

    Args:
        release: the model.
        reading: how organs are read where nothing else is said.
    """

    def __init__(self, release: Release, reading: str) -> None:
        self.release, self.reading = release, reading
        self.organs = load_organs(release.organ_dictionary / "organs.yaml")

    @property
    def modality(self) -> Modality[Any, Any]:
        """What kind of images the model was trained on."""
        return MODALITIES[self.release.modality]

    @staticmethod
    @abstractmethod
    def channel_names(release: Release) -> tuple[str, ...]:
        """What each channel of ``model_input`` shows."""

    @property
    @abstractmethod
    def known(self) -> Collection[str]:
        """The organs that it can read, beside those of the model's training."""

    @abstractmethod
    def instances(self, store: Store, study_ids: Sequence[str], names: Sequence[str]) -> list[OrganInstance]:
        """The wanted organs of some stored studies, study by study."""

    @abstractmethod
    def locate(
        self, organs: Sequence[str], standardized: Standardized, trained: Collection[str], min_organ_ml: float
    ) -> dict[str, OrganReading | str]:
        """How each organ is read from a study, or why it cannot be, in words.

        Args:
            trained: the organs of the model's training.
            min_organ_ml: organs with less were not listed.
        """

    @abstractmethod
    def prepare(self, study: StandardizedStudy, regions: Sequence[OrganRegion]) -> Any:
        """What the model reads of a study: crops of the organs, or the image on its grid.

        Raises:
            StoreError: ``no_masks``: organs are cut out by masks, and the study has none.
        """

    @abstractmethod
    def encode(
        self,
        prepared: Sequence[Any],
        regions: Sequence[Sequence[OrganRegion]],
        reading: str | None = None,
        batch: int = 64,
    ) -> OrganEmbeddings:
        """What the model makes of the organs of some studies, study by study; NaN for those that cannot be read there.

        Args:
            prepared: of each study, as ``prepare`` gives it.
            regions: the organs of each study.
            reading: how, in place of the reader's own way.
            batch: how many are encoded at a time.
        """

    @abstractmethod
    def maps(
        self,
        standardized: Standardized,
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

    @abstractmethod
    def model_input(self, standardized: Standardized, regions: Sequence[OrganRegion]) -> dict[str, Any]:
        """The channels that the encoder takes, and where organs are on them (``Pipeline.model_input``).

        Raises:
            ModelError: code ``no_organ``: an organ cannot be read; ``regions``: the model cannot read that.
        """


def pairs_of(questions: Mapping[str, Sequence[str]]) -> list[Pair]:
    """Organ to abnormalities as pairs."""
    return [(organ, name) for organ, names in questions.items() for name in names]
