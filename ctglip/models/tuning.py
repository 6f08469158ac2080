"""What of an encoder is trained, and how that is written down: what images' and texts' encoders have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from pydantic import Field
from torch import nn

from ctglip.config import Settings
from ctglip.models.lora import ALPHA


class Tuning(Settings):
    """What all kinds have: a ``name``."""

    name: str

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Choose what is trained of an encoder that has its first weights, in place.

        Raises:
            ModelError: code ``lora`` or ``text_encoder``: it has no such part.
        """

    def hold(self, model: nn.Module) -> None:  # noqa: ARG002
        """Keep in evaluation mode what must not change, after a change of mode."""
        return


class FrozenTuning(Tuning):
    """Nothing is trained: an image encoder stays in evaluation mode, each text is embedded once."""

    name: Literal["frozen"] = "frozen"  # pyright: ignore[reportIncompatibleVariableOverride]

    def apply(self, model: nn.Module) -> None:
        """No parameter has a gradient."""
        model.requires_grad_(False)

    def hold(self, model: nn.Module) -> None:
        """All of it."""
        model.eval()


class LowRankTuning(Tuning):
    """Low-rank updates are trained (LoRA, arXiv 2106.09685).

    Attributes:
        rank: of the updates.
        alpha: an update of a linear layer counts ``alpha / rank`` times.
        dropout: of what such an update reads.
    """

    name: Literal["lora"] = "lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=ALPHA, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
