"""BioViL and BioViL-T: ResNet-50s that were aligned with CXR-BERT's sentences.

Boecking et al., "Making the most of text semantics to improve biomedical vision-language processing" (ECCV 2022);
Bannur et al., "Learning to exploit temporal structure for biomedical vision-language processing" (CVPR 2023).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.models.encoders.released_cxr import (
    RESNET_STRIDES,
    RESNET_WIDTHS,
    ReleasedCxrEncoder,
    ReleasedResNetSettings,
    ResNetStages,
)
from ctglip.models.weights.scheme import KeyScheme

_HALF = 256
"""Channels of what BioViL-T makes of a radiograph alone, and of its change since the one before."""
_JOINT = 128
"""Width of the space shared with CXR-BERT."""


class ProjectedResNetSettings(ReleasedResNetSettings):
    """What both have.

    Attributes:
        projected: the last level and the pooled vector are in the space shared with CXR-BERT (128 channels).
    """

    projected: bool = False


class BioViLSettings(ProjectedResNetSettings):
    """BioViL's ResNet-50. ``weights``: biovil_image_resnet50_proj_size_128.pt."""

    name: Literal["biovil"] = "biovil"  # pyright: ignore[reportIncompatibleVariableOverride]


class BioViLTSettings(ProjectedResNetSettings):
    """BioViL-T's ResNet-50. ``weights``: biovil_t_image_model_proj_size_128.pt."""

    name: Literal["biovil_t"] = "biovil_t"  # pyright: ignore[reportIncompatibleVariableOverride]


class BioViLEncoder(ReleasedCxrEncoder):
    """The four stages of BioViL's ResNet-50, the last one projected where the settings say so."""

    Settings = BioViLSettings
    settings: ProjectedResNetSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    scheme = KeyScheme(
        outer=("state_dict",), drop=(r"encoder\.encoder\.fc\..*", r"encoder\.vit_pooler\..*", r"classifier\..*")
    )
    anchor = "first"
    last_channels = RESNET_WIDTHS[-1]

    def __init__(self, settings: ProjectedResNetSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        parts: dict[str, nn.Module] = {"encoder": self._encoder(ResNetStages(settings.blocks))}
        if settings.projected:
            layers = (nn.Conv2d(self.last_channels, _JOINT, 1, bias=False), nn.BatchNorm2d(_JOINT), nn.ReLU(),
                      nn.Conv2d(_JOINT, _JOINT, 1))  # fmt: skip
            parts["projector"] = nn.ModuleDict({"model": nn.Sequential(*layers)})
        self.network = nn.ModuleDict(parts)
        self.token_dim = _JOINT if settings.projected else self.last_channels
        self.level_channels, self.strides = (*RESNET_WIDTHS[:-1], self.token_dim), RESNET_STRIDES

    def _encoder(self, stages: ResNetStages) -> nn.Module:
        return nn.ModuleDict({"encoder": stages})

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """What the four stages give; the pooled vector is the mean of the last."""
        stages = self.network.get_submodule("encoder.encoder")
        assert isinstance(stages, ResNetStages)
        *fine, last = stages.levels(image, self.after_each)
        last = self._last(last)
        if self.settings.projected:
            last = self.network.get_submodule("projector.model")(last)
        return (*fine, last), None

    def _last(self, level: Tensor) -> Tensor:
        return level


class BioViLTEncoder(BioViLEncoder):
    """BioViL-T's ResNet-50 for one radiograph: what it would say of the change since the one before is the vector that
    stands for a missing one. The transformer that compares two radiographs is left out."""

    Settings = BioViLTSettings
    last_channels = 2 * _HALF

    def _encoder(self, stages: ResNetStages) -> nn.Module:
        return AloneOfTwo(stages)

    def _last(self, level: Tensor) -> Tensor:
        found = self.network["encoder"](level)
        assert isinstance(found, Tensor)
        return found


class AloneOfTwo(nn.Module):
    """What BioViL-T makes of a radiograph without the one before.

    Args:
        stages: its ResNet.
    """

    def __init__(self, stages: ResNetStages) -> None:
        super().__init__()
        self.encoder = stages
        self.backbone_to_vit = nn.Conv2d(RESNET_WIDTHS[-1], _HALF, 1, bias=False)
        self.missing_previous_emb = nn.Parameter(torch.zeros(1, _HALF, 1, 1))

    def forward(self, level: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The last stage in fewer channels, and the vector that stands for the missing radiograph."""
        alone = self.backbone_to_vit(level)
        return torch.cat([alone, self.missing_previous_emb.expand_as(alone)], dim=1)
