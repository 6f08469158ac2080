"""Transformers that were trained by filling in hidden patches: MAE on photographs, MRM and ECAMP on chest radiographs
and their reports.

He et al., "Masked autoencoders are scalable vision learners" (CVPR 2022); Zhou et al., "Advancing radiograph
representation learning with masked record modeling" (ICLR 2023); Wang et al., "ECAMP" (2025).
"""

from __future__ import annotations

from typing import Literal

from ctglip.models.encoders.released_cxr import ReleasedViT, ReleasedViTSettings
from ctglip.models.weights.scheme import KeyScheme

_SCHEME = KeyScheme(
    outer=("model", "state_dict"),
    drop=(r"decoder_.*", "mask_token", r"bert_.*", r"super_res\..*", r"(head|fc_norm)\..*"),
)
"""Masked autoencoders' names: timm's, with a decoder and, where reports are decoded too, their transformer."""


class MAESettings(ReleasedViTSettings):
    """MAE's ViT-B/16, trained on ImageNet. ``weights``: mae_pretrain_vit_base.pth."""

    name: Literal["mae"] = "mae"  # pyright: ignore[reportIncompatibleVariableOverride]


class MRMSettings(ReleasedViTSettings):
    """MRM's ViT-B/16. ``weights``: MRM.pth."""

    name: Literal["mrm"] = "mrm"  # pyright: ignore[reportIncompatibleVariableOverride]


class ECAMPSettings(ReleasedViTSettings):
    """ECAMP's ViT-B/16. ``weights``: its released file."""

    name: Literal["ecamp"] = "ecamp"  # pyright: ignore[reportIncompatibleVariableOverride]


class MAEEncoder(ReleasedViT):
    """MAE's encoder; its decoder is left out."""

    Settings = MAESettings
    scheme = _SCHEME


class MRMEncoder(ReleasedViT):
    """MRM's encoder; its decoder and the reports' transformer are left out."""

    Settings = MRMSettings
    scheme = _SCHEME


class ECAMPEncoder(ReleasedViT):
    """ECAMP's encoder; its decoders and the reports' transformer are left out."""

    Settings = ECAMPSettings
    scheme = _SCHEME
