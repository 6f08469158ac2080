"""Per-organ contrast over whole images, as fVLM has it: an organ's texts are compared with that organ's alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ctglip.data.samples import OrganBatch, OrganSample, StudyBatch, StudySample
from ctglip.features.text_bank import TextBank
from ctglip.models.dual_encoder import OrganTextModel
from ctglip.objectives.base import Features, LogitScale, Losses, Objective, Report
from ctglip.objectives.contrast import Contrast, ContrastSettings, KeyFindings, Negatives
from ctglip.objectives.grounded import collate_grounded, organ_features
from ctglip.objectives.texts import Texts, positions


class OrganQuerySettings(ContrastSettings):
    """The contrast; every organ of the batch counts the same.

    Attributes:
        within_organ: compare texts of one organ only (fVLM), or of all organs.
    """

    name: Literal["organ_query"] = "organ_query"
    negatives: Negatives = "batch"
    within_organ: bool = True


class OrganQuery(Objective):
    """Each image is encoded once; its organs are read by label map, box or query (or each from its crop).

    Each organ meets its sentence. Positives are the own text, identical texts, and normal with normal of one organ (by
    their keys).

    Args:
        model: with any grounding but ``none``.
        bank: text bank; samples hold indices into it.
        member: 0/1 ``[organs, L]``, the labels that make up each organ; for grounding ``pool``.
        settings: targets, temperature.
        findings: what text keys affirm, for ``targets: hierarchy``.
    """

    member: Tensor | None

    def __init__(
        self,
        model: OrganTextModel,
        bank: TextBank,
        member: Float[Tensor, "o l"] | None = None,
        settings: OrganQuerySettings | None = None,
        findings: KeyFindings | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings or OrganQuerySettings()
        self.texts = Texts(bank)
        self.register_buffer("member", member, persistent=False)
        self.contrast = Contrast(self.settings, findings)

    @property
    def diagnosis_scale(self) -> LogitScale:
        """The contrast's temperature."""
        return self.contrast.scale

    def collate(self, samples: Sequence[StudySample] | Sequence[OrganSample]) -> StudyBatch | OrganBatch:
        """Stack images, concatenate organs and fetch the distinct texts."""
        return collate_grounded(self.model, samples, self.texts)

    def encode(self, batch: StudyBatch | OrganBatch) -> Features:
        """``organ [M, D]`` and what ``compute`` needs beside it."""
        organ = organ_features(self.model, batch, self.member)
        return {"organ": organ, "organ_id": batch.organ_id, "pool": self.texts(batch.pool), **batch.texts()}

    def compute(self, features: Features) -> tuple[Losses, Report]:
        """Loss ``organ_query``; report: temperature, similarities, effective ranks."""
        image, pool = self.model.diagnosis(features["organ"]), self.model.text(features["pool"])
        text = pool[positions(features["text_id"], features["pool_ids"])]
        negatives = positions(features["negative_ids"], features["pool_ids"])
        group = features["organ_id"] if self.settings.within_organ else None
        pairs = (image, text, features["text_key"], features["text_id"] >= 0)
        loss = self.contrast(*pairs, group=group, extra=pool, extra_index=negatives)
        return {"organ_query": loss}, self.contrast.report(*pairs, group=group)
