"""The baseline without organs: a whole image against its whole report (CLIP, or SigLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ctglip.data.collate import collate_reports
from ctglip.data.samples import ReportBatch, StudySample
from ctglip.features.text_bank import TextBank
from ctglip.models.dual_encoder import OrganTextModel
from ctglip.objectives.base import Features, LogitScale, Losses, Objective, Report
from ctglip.objectives.contrast import Contrast, ContrastSettings, Negatives
from ctglip.objectives.texts import Texts, positions


class GlobalPairSettings(ContrastSettings):
    """Plain InfoNCE unless told otherwise."""

    name: Literal["global_pair"] = "global_pair"
    targets: Literal["identity", "equal_key", "hierarchy"] = "identity"
    negatives: Negatives = "batch"


class GlobalPair(Objective):
    """The same encoder as for organs, pooled over the whole image.

    Args:
        model: with ``whole_image``.
        bank: text bank; samples hold indices into it.
        settings: form, targets, temperature.
    """

    def __init__(self, model: OrganTextModel, bank: TextBank, settings: GlobalPairSettings | None = None) -> None:
        super().__init__()
        self.model = model
        self.settings = settings or GlobalPairSettings()
        self.texts = Texts(bank)
        self.contrast = Contrast(self.settings)

    @property
    def diagnosis_scale(self) -> LogitScale:
        """The contrast's temperature."""
        return self.contrast.scale

    def collate(self, samples: Sequence[StudySample]) -> ReportBatch:
        """Stack images and fetch the distinct texts."""
        return collate_reports(samples, self.texts.collate, ("report",))

    def encode(self, batch: ReportBatch) -> Features:
        """``image``, what the head for whole images reads, and what ``compute`` needs beside it."""
        seen = self.model.encoder(self.model.filled(batch.image))
        return {"image": self.model.image_input(seen), "pool": self.texts(batch.pool), **batch.texts()}

    def compute(self, features: Features) -> tuple[Losses, Report]:
        """Loss ``global_pair``; report: temperature, similarities, effective ranks."""
        image = self.model.whole(self.model.image_feature(features["image"]))
        pool = self.model.text(features["pool"])
        text = pool[positions(features["text_id"], features["pool_ids"])]
        pairs = (image, text, features["text_key"], features["text_id"] >= 0)
        return {"global_pair": self.contrast(*pairs)}, self.contrast.report(*pairs)
