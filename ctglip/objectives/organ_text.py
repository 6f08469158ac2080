"""CT-GLIP's two alignments over organs (the idea: arXiv 2404.15272; the definitions are this project's own)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from ctglip.data.samples import OrganBatch, OrganSample, StudyBatch, StudySample
from ctglip.features.text_bank import TextBank
from ctglip.losses.contrastive import class_prompts
from ctglip.models.dual_encoder import OrganTextModel
from ctglip.models.heads import group_directions
from ctglip.objectives.base import Features, LogitScale, Losses, Objective, Report
from ctglip.objectives.contrast import Contrast, ContrastSettings, KeyFindings
from ctglip.objectives.grounded import collate_grounded, organ_features
from ctglip.objectives.report import accuracy
from ctglip.objectives.texts import Texts, positions


class OrganTextSettings(ContrastSettings):
    """The diagnosis contrast, and the weights of both alignments.

    Attributes:
        anatomy_weight, diagnosis_weight: of the two alignments.
    """

    name: Literal["organ_text"] = "organ_text"
    anatomy_weight: float = 0.5
    diagnosis_weight: float = 1.0


class OrganText(Objective):
    """Anatomy: cross-entropy against all organs' prompts. Diagnosis: soft contrast with dictionary negatives.

    Args:
        model: with any grounding but ``none``, and ``anatomy``.
        bank: text bank; samples hold indices into it.
        prompt_ids: ``[Q]``, the organ prompts' indices in the bank, several templates for each organ.
        prompt_organ: ``[Q]``, the organ of each prompt: 0 .. number of organs - 1, each at least once.
        settings: weights, targets, temperature.
        findings: what text keys affirm, for ``targets: hierarchy``.
        member: 0/1, the labels that make up each organ; for grounding ``pool``.
    """

    prompts: Tensor
    prompt_organ: Tensor
    member: Tensor | None

    def __init__(
        self,
        model: OrganTextModel,
        bank: TextBank,
        prompt_ids: Int[Tensor, " q"],
        prompt_organ: Int[Tensor, " q"],
        settings: OrganTextSettings | None = None,
        findings: KeyFindings | None = None,
        member: Float[Tensor, "o l"] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings or OrganTextSettings()
        self.texts = Texts(bank)
        wanted, pool = self.texts.collate(prompt_ids)
        self.register_buffer("prompts", pool[positions(prompt_ids, wanted)], persistent=False)
        self.register_buffer("prompt_organ", prompt_organ.clone(), persistent=False)
        self.register_buffer("member", member, persistent=False)
        self.organs = int(prompt_organ.max()) + 1
        self.diagnosis = Contrast(self.settings, findings)
        self.anatomy_scale = LogitScale(
            self.settings.temperature, self.settings.learn_temperature, self.settings.max_scale
        )

    @property
    def diagnosis_scale(self) -> LogitScale:
        """The diagnosis contrast's temperature, which also turns similarities into probabilities at inference."""
        return self.diagnosis.scale

    def collate(self, samples: Sequence[OrganSample] | Sequence[StudySample]) -> OrganBatch | StudyBatch:
        """Stack samples and fetch the distinct texts."""
        return collate_grounded(self.model, samples, self.texts)

    def encode(self, batch: OrganBatch | StudyBatch) -> Features:
        """``organ [M, D]`` and what ``compute`` needs beside it."""
        organ = organ_features(self.model, batch, self.member)
        return {"organ": organ, "organ_id": batch.organ_id, "pool": self.texts(batch.pool), **batch.texts()}

    def compute(self, features: Features) -> tuple[Losses, Report]:
        """Losses ``anatomy`` and ``diagnosis``; report: temperatures, similarities, effective ranks, accuracy."""
        settings, model, organ = self.settings, self.model, features["organ"]
        anatomy, diagnosis, pool = model.anatomy(organ), model.diagnosis(organ), model.text(features["pool"])
        classes = group_directions(model.text(self.texts(self.prompts)), self.prompt_organ, self.organs)
        text = pool[positions(features["text_id"], features["pool_ids"])]
        negatives = positions(features["negative_ids"], features["pool_ids"])
        pairs = (diagnosis, text, features["text_key"], features["text_id"] >= 0)
        right = (anatomy, classes, features["organ_id"])
        losses = {
            "anatomy": settings.anatomy_weight * class_prompts(*right, self.anatomy_scale(), gather=settings.gather),
            "diagnosis": settings.diagnosis_weight * self.diagnosis(*pairs, extra=pool, extra_index=negatives),
        }
        report = {
            "anatomy_accuracy": accuracy(*right),
            "anatomy_temperature": self.anatomy_scale.value(),
            **self.diagnosis.report(*pairs),
        }
        return losses, report
