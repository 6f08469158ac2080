"""Organ features of a batch, whether the model sees crops of organs or looks for organs in whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ctglip.data.collate import collate_organs, collate_studies
from ctglip.data.samples import OrganBatch, StudyBatch
from ctglip.models.dual_encoder import OrganTextModel
from ctglip.objectives.texts import Texts


def collate_grounded(model: OrganTextModel, samples: Sequence[Any], texts: Texts) -> OrganBatch | StudyBatch:
    """One batch of ``OrganSample`` for grounding ``crop``, of ``StudySample`` for every other."""
    collate = collate_organs if model.settings.grounding == "crop" else collate_studies
    return collate(samples, texts.collate)


def organ_features(
    model: OrganTextModel, batch: OrganBatch | StudyBatch, member: Float[Tensor, "o l"] | None = None
) -> Float[Tensor, "m d"]:
    """One feature for each organ of a batch.

    Args:
        model: crops are encoded one by one; of a whole image all organs are read after it was encoded once.
        batch: as ``collate_grounded`` makes it.
        member: 0/1, the labels that make up each organ; for grounding ``pool``.
    """
    if isinstance(batch, OrganBatch):
        return model.organ_features(batch.image, batch.mask, batch.size, batch.organ_id)
    own = None if member is None else member[batch.organ_id]
    return model.study_features(
        batch.image, batch.size, batch.organ_id, batch.study_index, batch.labels, own, batch.boxes
    )
