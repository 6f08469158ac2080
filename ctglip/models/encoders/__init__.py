"""Image encoders for radiographs and scans: a new one is a file with a class, and a line in ``ENCODERS``."""

from __future__ import annotations

from typing import Annotated

from ctglip.config import OneOf
from ctglip.errors import CTGLIPError, ModelError
from ctglip.models.encoders.base import Encoder, EncoderSettings
from ctglip.models.encoders.biovil import BioViLEncoder, BioViLTEncoder
from ctglip.models.encoders.cnn import CNN
from ctglip.models.encoders.colipri import ColipriEncoder
from ctglip.models.encoders.ct_clip import CTCLIPEncoder
from ctglip.models.encoders.ct_fm import CTFMEncoder
from ctglip.models.encoders.fvlm import FVLMEncoder
from ctglip.models.encoders.hlip import HLIPEncoder
from ctglip.models.encoders.m3d_clip import M3DClipEncoder
from ctglip.models.encoders.masked_autoencoders import ECAMPEncoder, MAEEncoder, MRMEncoder
from ctglip.models.encoders.medicalnet import MedicalNetEncoder
from ctglip.models.encoders.merlin import MerlinEncoder
from ctglip.models.encoders.mgca import MGCAEncoder, MGCAResNetEncoder
from ctglip.models.encoders.nnssl import NNSSLEncoder
from ctglip.models.encoders.nnunet import NNUNetEncoder
from ctglip.models.encoders.rad_dino import RadDinoEncoder
from ctglip.models.encoders.released import ReleasedEncoder
from ctglip.models.encoders.resnet import ResNetEncoder
from ctglip.models.encoders.spectre import SpectreEncoder
from ctglip.models.encoders.stunet import STUNetEncoder
from ctglip.models.encoders.swin import SwinEncoder
from ctglip.models.encoders.swin_unetr import SuPreMEncoder, VoCoEncoder
from ctglip.models.encoders.tangerine import TangerineEncoder
from ctglip.models.encoders.timm2d import TimmEncoder
from ctglip.models.encoders.torchvision2d import TorchvisionEncoder
from ctglip.models.encoders.totalsegmentator import TotalSegmentatorEncoder
from ctglip.models.encoders.vit import ViTEncoder
from ctglip.models.encoders.voxelfm import VoxelFMEncoder

RELEASED: dict[str, type[ReleasedEncoder]] = {
    "ct_clip": CTCLIPEncoder,
    "ct_fm": CTFMEncoder,
    "spectre": SpectreEncoder,
    "tangerine": TangerineEncoder,
    "voxelfm": VoxelFMEncoder,
    "m3d_clip": M3DClipEncoder,
    "fvlm": FVLMEncoder,
    "hlip": HLIPEncoder,
    "colipri": ColipriEncoder,
    "merlin": MerlinEncoder,
    "suprem": SuPreMEncoder,
    "voco": VoCoEncoder,
    "medicalnet": MedicalNetEncoder,
    "stunet": STUNetEncoder,
    "nnssl": NNSSLEncoder,
    "totalsegmentator": TotalSegmentatorEncoder,
}
"""Encoders that others released, by the ``name`` of their settings; each has a card in ``configs/encoders``."""

RELEASED_CXR: dict[str, type[ReleasedEncoder]] = {
    "rad_dino": RadDinoEncoder,
    "mae": MAEEncoder,
    "mrm": MRMEncoder,
    "ecamp": ECAMPEncoder,
    "mgca": MGCAEncoder,
    "mgca_resnet50": MGCAResNetEncoder,
    "biovil": BioViLEncoder,
    "biovil_t": BioViLTEncoder,
}
"""The same for chest radiographs."""

ENCODERS: dict[str, type[Encoder]] = {
    "cnn": CNN,
    "resnet": ResNetEncoder,
    "nnunet": NNUNetEncoder,
    "vit": ViTEncoder,
    "swin": SwinEncoder,
    "timm": TimmEncoder,
    "torchvision": TorchvisionEncoder,
    **RELEASED,
    **RELEASED_CXR,
}
"""Encoders by the ``name`` of their settings."""

AnyEncoderSettings = Annotated[EncoderSettings, OneOf(ENCODERS)]


def build_encoder(settings: EncoderSettings, in_channels: int) -> Encoder:
    """The encoder that the settings name, with random weights.

    Args:
        settings: those of a registered encoder.
        in_channels: channels of the images.

    Raises:
        ModelError: code ``model_settings``: they do not fit each other.
    """
    try:
        return ENCODERS[settings.name](settings, in_channels)  # pyright: ignore[reportCallIssue]
    except CTGLIPError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"model.encoder: no {settings.name} can be built from these settings: {error}", code="model_settings"
        ) from error
