"""The first weights of an encoder: from a run, a trained nnU-Net, timm, or a 2D network inflated to 3D."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.errors import ModelError
from ctglip.models.encoders import Encoder, model_folder
from ctglip.models.nnunet import NNUNetEncoder, load_weights
from ctglip.resources import require

State = dict[str, Tensor]
_VIT_NAMES = (
    ("patch_embed.proj.", "embed."),
    (".attn.proj.", ".attn.out_proj."),
    (".mlp.fc1.", ".mlp.linear1."),
    (".mlp.fc2.", ".mlp.linear2."),
)


def load_initial_weights(encoder: Encoder) -> float:
    """Fill an encoder with the weights that its settings name; nothing happens where they name none.

    2D kernels are inflated: repeated along the third axis and divided by its length, so that a volume that does not
    change along that axis gives the 2D network's answer. Input channels are averaged where their number differs.

    Args:
        encoder: freshly built.

    Returns:
        The share of the encoder's parameters that were filled.

    Raises:
        ModelError: code ``weights``: nothing readable there, or nothing that fits.
    """
    source = encoder.settings.weights
    if source is None:
        return 0.0
    if (folder := model_folder(Path(source))) is not None:
        return inflate(encoder, _encoder_of(folder), source)
    if isinstance(encoder, NNUNetEncoder):
        load_weights(encoder)
        return 1.0
    name = encoder.settings.name  # pyright: ignore[reportAttributeAccessIssue]
    body: nn.Module = encoder.net if name in ("resnet", "timm", "swin") else encoder  # pyright: ignore[reportAssignmentType]
    model = getattr(encoder.settings, "model", "")
    state = _read(f"timm:{model}" if source == "timm" else source)
    state = _as_monai_vit(state, tuple(body.positions.shape)) if name == "vit" else state  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType, reportCallIssue]
    return inflate(body, state, source)


def inflate(body: nn.Module, state: State, source: str) -> float:
    """Copy what fits by name, 2D kernels inflated; see ``load_initial_weights``."""
    filled = total = 0
    with torch.no_grad():
        for name, mine in body.named_parameters():
            total += mine.numel()
            new = _fitted(state[name], mine) if name in state else None
            if new is not None:
                mine.copy_(new)
                filled += mine.numel()
        for name, mine in body.named_buffers():
            if name in state and state[name].shape == mine.shape:
                mine.copy_(state[name])
    if not filled:
        raise ModelError(f"None of the weights of {source} fits the encoder.", code="weights")
    return filled / total


def _fitted(new: Tensor, mine: Tensor) -> Tensor | None:
    """A weight in the shape of ours, or None where that cannot be."""
    if new.dim() == 4 and mine.dim() == 5:
        new = new[..., None].expand(*new.shape, mine.shape[-1]) / mine.shape[-1]
        if new.shape[2:4] != mine.shape[2:4]:
            return None
    if new.dim() == mine.dim() > 3 and new.shape[1] != mine.shape[1] and new.shape[0] == mine.shape[0]:
        new = new.mean(1, keepdim=True).expand(-1, mine.shape[1], *new.shape[2:]) * new.shape[1] / mine.shape[1]
    return new if new.shape == mine.shape else None


def _encoder_of(folder: Path) -> State:
    """The image encoder's weights of a model folder."""
    try:
        state = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The weights in {folder} cannot be read: {error}.", code="weights") from error
    return {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}


def _as_monai_vit(state: State, positions: tuple[int, ...]) -> State:
    """timm's names to ours; positions without the class token, laid on our grid."""
    renamed = {}
    for name, value in state.items():
        for old, new in _VIT_NAMES:
            name = name.replace(old, new)
        renamed[name] = value
    if "pos_embed" in renamed:
        table = renamed.pop("pos_embed")
        side = math.isqrt(table.shape[1])
        table = table[:, table.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))
        table = F.interpolate(table, size=positions[2:4], mode="bicubic", align_corners=False)
        renamed["positions"] = table[..., None].expand(positions) if len(positions) == 5 else table
    return renamed


def _read(source: str) -> State:
    """A state dict from a safetensors or PyTorch file, or from timm."""
    if source.startswith("timm:"):
        return require("timm", extra="cxr").create_model(source.removeprefix("timm:"), pretrained=True).state_dict()
    file = Path(source)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"The weights {source} cannot be read: {error}.", code="weights") from error
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state.get(key), dict) else state
    return state
