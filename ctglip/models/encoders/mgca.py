"""MGCA: an image encoder that was aligned with reports of chest radiographs at three granularities.

Wang et al., "Multi-granularity cross-modal alignment for generalized medical visual representation learning" (NeurIPS
2022).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ctglip.models.encoders.released_cxr import (
    RESNET_STRIDES,
    RESNET_WIDTHS,
    ReleasedCxrEncoder,
    ReleasedResNetSettings,
    ReleasedViT,
    ReleasedViTSettings,
    ResNetStages,
)
from ctglip.models.weights.scheme import KeyScheme

_SCHEME = KeyScheme(
    outer=("state_dict",),
    drop=(
        r"img_encoder_q\.(global_embed|local_embed)\..*", r"text_encoder_q\..*", r"prototype_layer\..*",
        r"(patch|word)_local_atten_layer\..*", r"img_encoder_q\.model\.(fc|head)\..*",
    ),
    root=("img_encoder_q.model.",),
)  # fmt: skip


class MGCASettings(ReleasedViTSettings):
    """MGCA's ViT-B/16."""

    name: Literal["mgca"] = "mgca"  # pyright: ignore[reportIncompatibleVariableOverride]
    pool: Literal["cls", "mean"] = "cls"


class MGCAEncoder(ReleasedViT):
    """MGCA's transformer; its heads and its text encoder are left out."""

    Settings = MGCASettings
    scheme = _SCHEME


class MGCAResNetSettings(ReleasedResNetSettings):
    """MGCA's ResNet-50, which its authors show windows of 224 pixels enlarged to 299."""

    name: Literal["mgca_resnet50"] = "mgca_resnet50"  # pyright: ignore[reportIncompatibleVariableOverride]


class MGCAResNetEncoder(ReleasedCxrEncoder):
    """MGCA's ResNet-50; its heads and its text encoder are left out."""

    Settings = MGCAResNetSettings
    scheme = _SCHEME
    anchor = "first"
    network: ResNetStages

    def __init__(self, settings: MGCAResNetSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        self.network = ResNetStages(settings.blocks)
        self.level_channels, self.strides = RESNET_WIDTHS, RESNET_STRIDES
        self.token_dim = RESNET_WIDTHS[-1]

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """What the four stages give."""
        return self.network.levels(image, self.after_each), None
