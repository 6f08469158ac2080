"""PLACE (re-implementation from the abstract, arXiv 2506.10573) on crops of organs: each crop is a picture, and what is
said of its organ is its report. All is as for whole pictures, but that the instance is the organ, which is read as in
``organ_text``: a trained model answers for organs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ctglip.data.collate import collate_organs
from ctglip.data.samples import OrganBatch, OrganSample
from ctglip.models.region_readers import Regions
from ctglip.objectives.base import START, Features, ModelNeeds, StepContext
from ctglip.objectives.place import Place, PlaceSettings, patch_seed


class PlaceOrganSettings(PlaceSettings):
    """As for whole pictures; sentences that a report shares between organs belong to none of them."""

    name: Literal["place_organs"] = "place_organs"  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True)
class OrganSentenceBatch(OrganBatch):
    """M crops with all that is said of their organs.

    Attributes:
        sentence_id: by its number in the text bank, filled up with -1.
        patch_seed: one number; micro-batches and ranks have the same, so they compare the same patches.
    """

    sentence_id: Int[Tensor, "m k"]
    patch_seed: Int[Tensor, " 1"]

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of crops ``start .. stop - 1``."""
        return {**super().cut(start, stop), "patch_seed": self.patch_seed}

    def all_ids(self) -> Int[Tensor, " n"]:
        """Every text that the batch needs, -1 where there is none."""
        return torch.cat([super().all_ids(), self.sentence_id.flatten()])


class PlaceOrgans(Place):
    """``Place`` of crops; the arguments are its own, the model reads crops."""

    Settings = PlaceOrganSettings
    input_kind = "organs"

    @classmethod
    def needs(cls, settings: PlaceSettings) -> ModelNeeds:
        """What it needs of the model."""
        return ModelNeeds(readers=("crop",), resampler=settings.observes)

    def collate(self, samples: Sequence[OrganSample], context: StepContext = START) -> OrganSentenceBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Stack crops and fetch the distinct texts; sentences that do not count become -1."""
        table = torch.full((len(samples), self.settings.sentences), -1)
        for row, sample in zip(table, samples, strict=True):
            text_ids = torch.as_tensor(sample.sentence_ids, dtype=torch.long)
            counted = text_ids[self.long(text_ids)][: len(row)]
            row[: len(counted)] = counted
        columns = vars(collate_organs(samples, self.texts.collate, table))
        return OrganSentenceBatch(**columns, sentence_id=table, patch_seed=patch_seed(context))

    def encode(self, batch: OrganSentenceBatch) -> Features:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As for whole pictures; ``image [M, D]`` is the organ's feature."""
        image = self.model.pad_channels(batch.image)
        vision = self.model.encoder(image)
        organ = self.model(image, Regions(mask=batch.mask, size=batch.size), vision)
        return self.features_of(batch, image, vision, organ, batch.sentence_id, batch.text_id, batch.patch_seed)

    def instance(self, image: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """The organ's unit vector in the common space."""
        return self.model.diagnosis(image)
