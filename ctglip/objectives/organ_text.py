"""CT-GLIP's two alignments for organ crops (definitions: docs; arXiv 2404.15272 states the idea, not these details)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from ctglip.config import Settings
from ctglip.features.text_bank import TextBank
from ctglip.models.towers import OrganTextModel
from ctglip.objectives.base import Features, Losses, Objective, OrganBatch, OrganSample, Report


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

    def __init__(
        self,
        model: OrganTextModel,
        bank: TextBank,
        prompt_ids: Int[Tensor, " q"],
        prompt_organ: Int[Tensor, " q"],
        settings: OrganTextSettings = OrganTextSettings(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        raise NotImplementedError

    def collate(self, samples: Sequence[OrganSample]) -> OrganBatch:
        """Stack samples and fetch the distinct texts' embeddings."""
        raise NotImplementedError

    def encode(self, batch: OrganBatch) -> Features:
        """``organ [M, D]`` and what ``compute`` needs beside it."""
        raise NotImplementedError

    def compute(self, features: Features) -> tuple[Losses, Report]:
        """Losses ``anatomy`` and ``diagnosis``; report: temperatures, similarities, effective rank, accuracy."""
        raise NotImplementedError
