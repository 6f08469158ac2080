"""What a pretraining run is made of: one file of settings, kept in the run as ``config.resolved.yaml``."""

from __future__ import annotations

from typing import Literal

from ctglip.config import Settings
from ctglip.data.organs import DataSettings
from ctglip.data.sampling import SamplingSettings
from ctglip.models.text import TextEncoderSettings
from ctglip.models.towers import OrganTextModelSettings
from ctglip.objectives.organ_text import OrganTextSettings
from ctglip.training.loop import LoopSettings
from ctglip.training.optim import OptimSettings


class PretrainConfig(Settings):
    """One pretraining run.

    Attributes:
        seed: of weights, batches, texts and augmentations.
        initial: start from the weights of this run or model folder rather than from chance.
        model: ``in_channels`` and ``text_dim`` are set from the crops and the text encoder.
    """

    kind: Literal["pretrain"] = "pretrain"
    seed: int = 0
    initial: str | None = None
    data: DataSettings = DataSettings()
    sampling: SamplingSettings = SamplingSettings()
    text: TextEncoderSettings = TextEncoderSettings()
    model: OrganTextModelSettings = OrganTextModelSettings()
    objective: OrganTextSettings = OrganTextSettings()
    optim: OptimSettings = OptimSettings()
    loop: LoopSettings = LoopSettings()
