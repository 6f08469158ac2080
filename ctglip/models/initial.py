"""The first weights of an encoder: from a run, a trained nnU-Net, timm, or a 2D network inflated to 3D."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders import Encoder, model_folder
from ctglip.models.nnunet import NNUNetEncoder, checkpoint_state
from ctglip.models.weights import State, fill, read_state
from ctglip.resources import require

_VIT_NAMES = (
    ("patch_embed.proj.", "embed."),
    (".attn.proj.", ".attn.out_proj."),
    (".mlp.fc1.", ".mlp.linear1."),
    (".mlp.fc2.", ".mlp.linear2."),
    ("pos_embed", "positions"),
)


def load_initial_weights(encoder: Encoder) -> float:
    """Fill an encoder with the weights that its settings name; nothing happens where they name none.

    2D kernels are inflated: repeated along the third axis and divided by its length, so that a volume that does not
    change along that axis gives the 2D network's answer. Input channels are averaged where their number differs.
    Prefixes of the names are taken away by rule (``weights.match``).

    Args:
        encoder: freshly built.

    Returns:
        The share of the encoder's parameters that were filled: all, but with ``partial``.

    Raises:
        ModelError: code ``weights``: nothing readable there, or a key of the encoder is missing or does not fit;
            ``nnunet``: a trained folder without its checkpoint.
    """
    source, partial = encoder.settings.weights, encoder.settings.partial
    if source is None:
        return 0.0
    if (folder := model_folder(Path(source))) is not None:
        state = read_state(folder / "model.safetensors")
        state = {name: value for name, value in state.items() if name.startswith("encoder.")}
        return fill(encoder, state, source, partial)
    if isinstance(encoder, NNUNetEncoder):
        return fill(encoder.encoder, checkpoint_state(encoder), source, partial, _fitted)
    name = encoder.settings.name  # pyright: ignore[reportAttributeAccessIssue]
    body: nn.Module = encoder.net if name in ("resnet", "timm", "swin") else encoder  # pyright: ignore[reportAssignmentType]
    model = getattr(encoder.settings, "model", "")
    state = _read(f"timm:{model}" if source == "timm" else source)
    state = _as_monai_vit(state) if name == "vit" else state
    return fill(body, state, source, partial, _fitted, flat=name == "timm")


def _fitted(name: str, new: Tensor, mine: Tensor) -> Tensor | None:
    """A weight in the shape of ours, or None where that cannot be."""
    if name == "positions":
        return _positions(new, mine)
    if new.dim() == 4 and mine.dim() == 5:
        new = new[..., None].expand(*new.shape, mine.shape[-1]) / mine.shape[-1]
        if new.shape[2:4] != mine.shape[2:4]:
            return None
    if new.dim() == mine.dim() > 3 and new.shape[1] != mine.shape[1] and new.shape[0] == mine.shape[0]:
        new = new.mean(1, keepdim=True).expand(-1, mine.shape[1], *new.shape[2:]) * new.shape[1] / mine.shape[1]
    return new if new.shape == mine.shape else None


def _positions(new: Tensor, mine: Tensor) -> Tensor | None:
    """Positions of a square of patches, without the class token, laid on our grid."""
    if new.shape == mine.shape:
        return new
    if new.dim() != 3 or new.shape[2] != mine.shape[1]:
        return None
    side = math.isqrt(new.shape[1])
    table = new[:, new.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side)).float()
    table = F.interpolate(table, size=mine.shape[2:4], mode="bicubic", align_corners=False)
    return table[..., None].expand(mine.shape) if mine.dim() == 5 else table


def _as_monai_vit(state: State) -> State:
    """timm's names to ours."""
    renamed = {}
    for name, value in state.items():
        for old, new in _VIT_NAMES:
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def _read(source: str) -> State:
    """A state dict from a safetensors or PyTorch file, or from timm."""
    if source.startswith("timm:"):
        return require("timm", extra="cxr").create_model(source.removeprefix("timm:"), pretrained=True).state_dict()
    return read_state(Path(source))
