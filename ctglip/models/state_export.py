"""The image encoder's weights under the names of nnU-Net and timm: segmentation and detection can start from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import torch

from ctglip.errors import ModelError
from ctglip.files import atomic_path
from ctglip.models.encoders.base import Encoder
from ctglip.models.encoders.nnunet import NNUNetSettings, build_unet
from ctglip.models.encoders.timm2d import TimmSettings
from ctglip.models.weights.reading import State
from ctglip.resources import require

S = TypeVar("S")


def nnunet_state(encoder: Encoder) -> State:
    """The encoder's part of an nnU-Net's state dict (``encoder.*``), kernels in nnU-Net's axis order.

    nnU-Net reads images with z first; an encoder that did not come from an nnU-Net's plans is turned to that.

    Raises:
        ModelError: code ``exchange``: it is not nnU-Net's encoder.
    """
    settings = _checked(encoder, NNUNetSettings, "nnU-Net")
    axes = _axes(settings)
    back = [2 + axes.index(axis) for axis in range(settings.spatial_dims)]
    found: State = {}
    for name, value in encoder.get_submodule("encoder").state_dict().items():
        turned = value.permute(0, 1, *back) if value.dim() == 2 + settings.spatial_dims else value
        found[f"encoder.{name}"] = turned.detach().cpu().contiguous()
    return found


def save_nnunet(encoder: Encoder, path: Path) -> Path:
    """A checkpoint for ``nnUNetv2_train ... -pretrained_weights``: the trained encoder, and a decoder that is drawn.

    The plans must ask for the same architecture and as many input channels; the last layers may have any classes, since
    nnU-Net leaves them out.

    Raises:
        ModelError: code ``exchange``, see ``nnunet_state``.
    """
    settings = _checked(encoder, NNUNetSettings, "nnU-Net")
    state = nnunet_state(encoder)
    first = next(value for value in state.values() if value.dim() == 2 + settings.spatial_dims)
    assert settings.architecture is not None
    network = build_unet(settings.architecture, first.shape[1], tuple(range(settings.spatial_dims)), classes=2)
    missing = network.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    with atomic_path(path) as temporary:
        torch.save({"network_weights": network.state_dict()}, temporary)
    return path


def timm_state(encoder: Encoder) -> State:
    """The state dict of ``timm.create_model`` of the same name, without its classifier: load it with ``strict=False``.

    Raises:
        ModelError: code ``exchange``: it is not one of timm's models.
    """
    settings = _checked(encoder, TimmSettings, "timm")
    timm = require("timm", extra="cxr")
    plain = timm.create_model(settings.model, pretrained=False, num_classes=0)
    names = {_flat(name): name for name in plain.state_dict()}
    state = {name.removeprefix("model."): value for name, value in encoder.get_submodule("net").state_dict().items()}
    unknown = [name for name in state if _flat(name) not in names]
    if unknown:
        raise ModelError(f"timm's {settings.model} has no weight {unknown[0]!r}.", code="exchange")
    return {names[_flat(name)]: value.detach().cpu().contiguous() for name, value in state.items()}


def _axes(settings: NNUNetSettings) -> tuple[int, ...]:
    """For each of our axes the axis of nnU-Net that it is."""
    if settings.weights is not None and settings.axes is not None:
        return settings.axes
    return (2, 1, 0) if settings.spatial_dims == 3 else (0, 1)


def _flat(name: str) -> str:
    """A weight's name without the difference between ``stages.0`` and timm's flattened ``stages_0``."""
    return re.sub(r"[._]", "_", name)


def _checked(encoder: Encoder, kind: type[S], whose: str) -> S:
    if not isinstance(encoder.settings, kind):
        name = getattr(encoder.settings, "name", "?")
        raise ModelError(
            f"The encoder is {name!r}, and its weights have no place in a network of {whose}.",
            code="exchange",
            fix=f"Pretrain with an encoder of {whose} (model.encoder.name).",
        )
    return encoder.settings
