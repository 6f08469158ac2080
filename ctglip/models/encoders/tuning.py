"""What of an image encoder is trained: all of it, nothing, or low-rank updates."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctglip.config import OneOf
from ctglip.models.lora import add_lora
from ctglip.models.tuning import FrozenTuning, LowRankTuning, Tuning


class FullEncoder(Tuning):
    """All of it is trained."""

    name: Literal["full"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]

    def apply(self, model: nn.Module) -> None:
        """Nothing changes."""


class LowRankEncoder(LowRankTuning):
    """Low-rank updates of linear layers and convolutions; batch norms keep their statistics. The model that is released
    holds plain layers with the updates in them.

    Attributes:
        layers: names of the layers; none: all linear layers and convolutions without groups.
    """

    layers: tuple[str, ...] = ()

    def apply(self, model: nn.Module) -> None:
        """The updates are all that has a gradient."""
        add_lora(model, self.rank, self.layers or None, self.alpha, self.dropout)

    def hold(self, model: nn.Module) -> None:
        """Batch norms."""
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


ENCODER_TUNINGS: dict[str, type[Tuning]] = {"full": FullEncoder, "frozen": FrozenTuning, "lora": LowRankEncoder}
"""What is trained of an image encoder, by the ``name`` of the settings."""

AnyEncoderTuning = Annotated[Tuning, OneOf(ENCODER_TUNINGS)]
