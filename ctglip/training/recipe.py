"""What a pretraining run is made of: one file of settings, kept in the run as ``config.resolved.yaml``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctglip.config import Settings
from ctglip.data.organs import DataSettings
from ctglip.data.sampling import SamplingSettings
from ctglip.models.text import TextEncoderSettings
from ctglip.models.towers import OrganTextModelSettings
from ctglip.objectives.organ_text import OrganTextSettings
from ctglip.training.optim import OptimSettings


class LoopSettings(Settings):
    """How long, on what, and how often something is written.

    Attributes:
        steps: optimiser steps of the whole run.
        log_every: steps between lines of ``metrics.jsonl``.
        checkpoint_every: steps between checkpoints; the last step is always one.
        validate_every: steps between validations; 0 validates at the end alone.
        device: ``auto`` takes a GPU where there is one.
        autocast: bfloat16 in the forward pass (GPUs).
        threads: torch threads on a CPU; 0 leaves torch's own choice.
    """

    steps: int = Field(default=1000, ge=1)
    log_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)
    validate_every: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    autocast: bool = False
    threads: int = Field(default=0, ge=0)


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
