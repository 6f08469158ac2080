"""What of an image encoder is trained: all of it, nothing, or low-rank updates."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctglip.config import OneOf, Settings
from ctglip.models.lora import ALPHA, add_lora


class EncoderTuning(Settings):
    """What all kinds have: a ``name``."""

    name: str

    @abstractmethod
    def apply(self, encoder: nn.Module) -> None:
        """Choose what is trained of an encoder that has its first weights, in place.

        Raises:
            ModelError: code ``lora``: it has no such layer.
        """

    def hold(self, encoder: nn.Module) -> None:  # noqa: ARG002
        """Keep in evaluation mode what must not change, after a change of mode."""
        return


class FullEncoder(EncoderTuning):
    """All of it is trained."""

    name: Literal["full"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]

    def apply(self, encoder: nn.Module) -> None:
        """See ``EncoderTuning``."""


class FrozenEncoder(EncoderTuning):
    """Nothing is trained, and it stays in evaluation mode."""

    name: Literal["frozen"] = "frozen"  # pyright: ignore[reportIncompatibleVariableOverride]

    def apply(self, encoder: nn.Module) -> None:
        """See ``EncoderTuning``."""
        encoder.requires_grad_(False)

    def hold(self, encoder: nn.Module) -> None:
        """See ``EncoderTuning``."""
        encoder.eval()


class LowRankEncoder(EncoderTuning):
    """Low-rank updates of linear layers and convolutions are trained (LoRA, arXiv 2106.09685); batch norms keep their
    statistics. The model that is released holds plain layers with the updates in them.

    Attributes:
        rank: of the updates.
        alpha: an update of a linear layer counts ``alpha / rank`` times.
        dropout: of what such an update reads.
        layers: names of the layers; none: all linear layers and convolutions without groups.
    """

    name: Literal["lora"] = "lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=ALPHA, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    layers: tuple[str, ...] = ()

    def apply(self, encoder: nn.Module) -> None:
        """See ``EncoderTuning``."""
        add_lora(encoder, self.rank, self.layers or None, self.alpha, self.dropout)

    def hold(self, encoder: nn.Module) -> None:
        """See ``EncoderTuning``."""
        for module in encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


ENCODER_TUNINGS: dict[str, type[EncoderTuning]] = {"full": FullEncoder, "frozen": FrozenEncoder, "lora": LowRankEncoder}
"""What is trained of an image encoder, by the ``name`` of the settings."""

AnyEncoderTuning = Annotated[EncoderTuning, OneOf(ENCODER_TUNINGS)]
