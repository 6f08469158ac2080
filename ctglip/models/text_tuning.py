"""What of a text encoder is trained: nothing, some of its layers, its norms, low-rank updates, or all of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from ctglip.config import OneOf
from ctglip.errors import ModelError
from ctglip.models.lora import QUERY_AND_VALUE, add_lora
from ctglip.models.tuning import FrozenTuning, LowRankTuning, Tuning

_UNREAD = "pooler."
"""BERT's pooler, which nothing reads."""


class FullText(Tuning):
    """All of it is trained."""

    name: Literal["full"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]

    def apply(self, model: nn.Module) -> None:
        """All but what nothing reads."""
        for name, value in model.named_parameters():
            value.requires_grad_(not name.startswith(_UNREAD))


class LastLayersText(Tuning):
    """The last layers are trained.

    Attributes:
        layers: how many.
    """

    name: Literal["last"] = "last"  # pyright: ignore[reportIncompatibleVariableOverride]
    layers: int = Field(default=4, ge=1)

    def apply(self, model: nn.Module) -> None:
        """The last layers alone."""
        model.requires_grad_(False)
        for layer in _layers(model, self.layers)[-self.layers :]:
            layer.requires_grad_(True)


class FirstLayersText(Tuning):
    """The encoder is cut after its first layers (ASG's six), and all that is left is trained.

    Attributes:
        layers: how many are kept.
    """

    name: Literal["first"] = "first"  # pyright: ignore[reportIncompatibleVariableOverride]
    layers: int = Field(default=6, ge=1)

    def apply(self, model: nn.Module) -> None:
        """Take the later layers off."""
        config: Any = model.config
        del _layers(model, self.layers)[self.layers :]
        config.num_hidden_layers = self.layers
        for name in ("layer_types", "attention_window"):  # lists with an entry for each layer
            if isinstance(entries := getattr(config, name, None), list):
                setattr(config, name, entries[: self.layers])
        FullText().apply(model)


class NormsText(Tuning):
    """Layer norms alone are trained (HLIP's locked text encoder)."""

    name: Literal["norms"] = "norms"  # pyright: ignore[reportIncompatibleVariableOverride]

    def apply(self, model: nn.Module) -> None:
        """Layer norms alone."""
        model.requires_grad_(False)
        norms = [module for module in model.modules() if type(module).__name__.endswith("Norm")]
        if not norms:
            raise ModelError("The text encoder has no layer norm.", code="text_encoder", fix="Set text.train to full.")
        for norm in norms:
            norm.requires_grad_(True)


class LowRankText(LowRankTuning):
    """Low-rank updates of linear layers.

    Attributes:
        layers: names of the linear layers; by default the projections to queries and values, whatever they are called.
    """

    layers: tuple[str, ...] = QUERY_AND_VALUE

    def apply(self, model: nn.Module) -> None:
        """The updates are all that has a gradient."""
        add_lora(model, self.rank, self.layers, self.alpha, self.dropout)


TEXT_TUNINGS: dict[str, type[Tuning]] = {
    "frozen": FrozenTuning,
    "last": LastLayersText,
    "first": FirstLayersText,
    "norms": NormsText,
    "lora": LowRankText,
    "full": FullText,
}
"""What is trained of a text encoder, by the ``name`` of the settings."""

AnyTextTuning = Annotated[Tuning, OneOf(TEXT_TUNINGS)]


def _layers(model: nn.Module, number: int) -> nn.ModuleList:
    """The transformer's layers, in their order."""
    config: Any = model.config
    count = int(getattr(config, "num_hidden_layers", 0))
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            if number > count:
                raise ModelError(
                    f"text.train.layers is {number}, and the text encoder has {count} layers.",
                    code="text_encoder",
                    fix=f"Set text.train.layers to {count} or less.",
                )
            return module
    raise ModelError(
        "The layers of this text encoder are not known.", code="text_encoder", fix="Set text.train to full or frozen."
    )
