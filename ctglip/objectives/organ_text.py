"""CT-GLIP's two alignments over organ crops (the idea: arXiv 2404.15272; the definitions are this project's own)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from ctglip.config import Settings
from ctglip.features.text_bank import TextBank
from ctglip.losses.contrastive import class_prompts, soft_contrastive
from ctglip.losses.targets import equal_key
from ctglip.models.heads import group_directions
from ctglip.models.towers import OrganTextModel
from ctglip.objectives.base import (
    Features,
    Losses,
    Objective,
    OrganBatch,
    OrganSample,
    Report,
    Temperature,
    collate_organs,
    positions,
)
from ctglip.objectives.report import accuracy, effective_rank, pair_similarity


class OrganTextSettings(Settings):
    """Weights and temperature.

    Attributes:
        anatomy_weight, diagnosis_weight: of the two alignments.
        temperature: at the start, or for good where it is not learned.
        learn_temperature: one temperature for each alignment is learned.
        max_scale: largest inverse temperature.
    """

    name: Literal["organ_text"] = "organ_text"
    anatomy_weight: float = 0.5
    diagnosis_weight: float = 1.0
    temperature: float = 0.07
    learn_temperature: bool = True
    max_scale: float = 100.0


class OrganText(Objective):
    """Anatomy: cross-entropy against all organs' prompts. Diagnosis: soft contrast with dictionary negatives.

    Args:
        model: the model to train.
        bank: text bank of the frozen text encoder; samples hold indices into it.
        prompt_ids: ``[Q]``, the organ prompts' indices in the bank, several templates for each organ.
        prompt_organ: ``[Q]``, the organ of each prompt: 0 .. number of organs - 1, each at least once.
        settings: weights and temperature.
    """

    prompts: Tensor
    prompt_organ: Tensor

    def __init__(
        self,
        model: OrganTextModel,
        bank: TextBank,
        prompt_ids: Int[Tensor, " q"],
        prompt_organ: Int[Tensor, " q"],
        settings: OrganTextSettings | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.bank = bank
        self.settings = settings or OrganTextSettings()
        self.register_buffer("prompts", bank.vectors(prompt_ids), persistent=False)
        self.register_buffer("prompt_organ", prompt_organ.clone(), persistent=False)
        self.organs = int(prompt_organ.max()) + 1
        start = (self.settings.temperature, self.settings.learn_temperature, self.settings.max_scale)
        self.anatomy_scale, self.diagnosis_scale = Temperature(*start), Temperature(*start)

    def collate(self, samples: Sequence[OrganSample]) -> OrganBatch:
        """Stack samples and fetch the distinct texts' embeddings."""
        return collate_organs(samples, self.bank)

    def encode(self, batch: OrganBatch) -> Features:
        """``organ [M, D]`` and what ``compute`` needs beside it."""
        organ = self.model.organ_features(batch.image, batch.mask, batch.size)
        names = ("organ_id", "text_id", "text_key", "negative_ids", "pool_ids", "pool")
        return {"organ": organ, **{name: getattr(batch, name) for name in names}}

    def compute(self, features: Features) -> tuple[Losses, Report]:
        """Losses ``anatomy`` and ``diagnosis``; report: temperatures, similarities, effective rank, accuracy."""
        anatomy = self.model.anatomy(features["organ"])
        diagnosis = self.model.diagnosis(features["organ"])
        classes = group_directions(self.model.text(self.prompts), self.prompt_organ, self.organs)
        pool = self.model.text(features["pool"])
        text = pool[positions(features["text_id"], features["pool_ids"])]
        said = features["text_id"] >= 0
        losses = {
            "anatomy": self.settings.anatomy_weight
            * class_prompts(anatomy, classes, features["organ_id"], self.anatomy_scale()),
            "diagnosis": self.settings.diagnosis_weight
            * soft_contrastive(
                diagnosis,
                text,
                self.diagnosis_scale(),
                target=equal_key,
                context=features["text_key"],
                valid=said,
                extra=pool,
                extra_index=positions(features["negative_ids"], features["pool_ids"]),
            ),
        }
        report = {
            "anatomy_accuracy": accuracy(anatomy, classes, features["organ_id"]),
            "anatomy_temperature": self.anatomy_scale.value(),
            "diagnosis_temperature": self.diagnosis_scale.value(),
            **pair_similarity(diagnosis[said], text[said], features["text_key"][said]),
            "image_rank": effective_rank(diagnosis),
            "text_rank": effective_rank(text),
        }
        return losses, report
