"""What every image encoder is: settings, feature maps, weights to start from.

An encoder is built without reading any weights, so that a saved model is built from its settings alone;
``load_pretrained`` reads them where the settings name some.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ctglip.config import Settings
from ctglip.errors import ConfigError
from ctglip.models.encoders.tuning import AnyEncoderTuning, FullEncoder
from ctglip.models.weights.matching import fill, layer_depths
from ctglip.models.weights.reading import State, read_state
from ctglip.models.weights.zoo import timm_weights, torchvision_weights


@dataclass
class VisionFeatures:
    """What an encoder makes of a batch of images.

    Attributes:
        levels: feature maps ``[B, C_l, *S_l]``, fine to coarse.
        tokens: the last level as a sequence ``[B, N, C]``, N = product of ``grid``.
        grid: spatial shape of the last level.
        pooled: one vector for each image ``[B, P]`` (P = C unless the encoder pools in a way of its own).
    """

    levels: tuple[Tensor, ...]
    tokens: Float[Tensor, "b n c"]
    grid: tuple[int, ...]
    pooled: Float[Tensor, "b p"]

    @classmethod
    def of(cls, levels: tuple[Tensor, ...], pooled: Float[Tensor, "b p"] | None = None) -> VisionFeatures:
        """Features from the levels; pooled is the mean of the tokens if nothing else is given."""
        tokens = levels[-1].flatten(2).transpose(1, 2)
        return cls(levels, tokens, tuple(levels[-1].shape[2:]), tokens.mean(1) if pooled is None else pooled)


class EncoderSettings(Settings):
    """What all encoders have.

    Attributes:
        spatial_dims: 2 for radiographs, 3 for scans.
        checkpointing: forget activations inside of stages and compute them again in the backward pass.
        weights: where the first weights come from: a run or model folder with an encoder of the same kind, or what each
            encoder says of itself; none: random. A saved model does not name them.
        partial: go on where keys of the encoder are missing in them or do not fit, as long as nine tenths of its
            parameters are filled; the share is printed.
        train: what of it is trained: ``full``, ``frozen`` or ``lora`` (``models.encoders.tuning``).
    """

    name: str
    spatial_dims: Literal[2, 3] = 3
    checkpointing: bool = False
    weights: str | None = None
    partial: bool = False
    train: AnyEncoderTuning = FullEncoder()

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {} if self.weights else {"partial": "weights are random"}


EndOfStride = Literal["first", "last"]
CellAnchor = Literal["middle", "first"] | tuple[EndOfStride, ...]
"""Where the middle of what a cell sees lies in its stride."""


class Encoder(nn.Module, ABC):
    """Base of every image encoder: ``Encoder(settings, in_channels)``, ``forward(image) -> VisionFeatures``.

    Attributes:
        Settings: what it is built from, with a ``name`` of its own.
        settings: the same, complete: building from them again needs no other file.
        level_channels: channels of each level, fine to coarse.
        token_dim: width of the tokens.
        strides: voxels of the input for one step on each level's grid, along each axis.
        anchor: where the middle of what a cell i sees lies: in the ``middle`` of its stride (patches), or at the
            ``first`` voxel of it, which is where odd kernels with padding on both sides are centred; or for each axis
            the first or, where the network sees it backwards, the ``last``.
    """

    Settings: ClassVar[type[EncoderSettings]]
    anchor: CellAnchor = "middle"
    settings: EncoderSettings
    level_channels: tuple[int, ...]
    token_dim: int
    strides: tuple[tuple[int, ...], ...]

    def forward(self, image: Float[Tensor, "b c *s"]) -> VisionFeatures:
        """Features of a batch of images.

        Raises:
            ConfigError: sides that the encoder's stride does not divide.
        """
        self.check_sides(image)
        return VisionFeatures.of(self.maps(image))

    def check_sides(self, image: Float[Tensor, "b c *s"]) -> None:
        """The encoder's stride divides the image's sides; see ``forward``."""
        steps = self.strides[-1]
        if any(side % step for side, step in zip(image.shape[2:], steps, strict=True)):
            raise ConfigError(
                f"Image sides {tuple(image.shape[2:])} must be multiples of {steps}, the encoder's stride.",
                fix="Change the grid (data.input.grid, data.crops.grid; of radiographs data.size) or the encoder.",
            )

    def probe_sides(self) -> tuple[int, ...]:
        """Sides of the smallest image with more than one cell on the last level."""
        first, *rest = self.strides[-1]
        return (2 * first, *rest)

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled vector: that of the tokens, unless an encoder says otherwise."""
        return self.token_dim

    @abstractmethod
    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The levels, fine to coarse."""

    def stage(self, module: nn.Module, *inputs: Any) -> Tensor:
        """Run a part of the encoder, without keeping what is inside where the settings say so."""
        if self.settings.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return module(*inputs)

    def after_each(self, parts: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
        """What each of some parts gives, one after the other."""
        found = []
        for part in parts:
            x = self.stage(part, x)
            found.append(x)
        return tuple(found)

    def load_pretrained(self) -> float:
        """Fill the encoder with the weights that its settings name; nothing happens where they name none.

        2D kernels are inflated: repeated along the third axis and divided by its length, so that a volume that does not
        change along that axis gives the 2D network's answer. Input channels are averaged where their number differs.
        Prefixes of the names are taken away by rule (``weights.match``).

        Returns:
            The share of the encoder's parameters that were filled: all, but with ``partial``.

        Raises:
            ModelError: code ``weights``: nothing readable there, or a key of the encoder is missing or does not fit;
                ``nnunet``: a trained folder without its checkpoint.
        """
        source, partial = self.settings.weights, self.settings.partial
        if source is None:
            return 0.0
        if (folder := model_folder(Path(source))) is not None:
            state = read_state(folder / "model.safetensors")
            state = {name: value for name, value in state.items() if name.startswith("encoder.")}
            return fill(self, state, source, partial)
        return self.fill_from(source)

    def fill_from(self, source: str) -> float:
        """Fill the encoder from weights of another project's; see ``load_pretrained``."""
        return fill(self.body, read_weights(source), source, self.settings.partial, inflated)

    @property
    def body(self) -> nn.Module:
        """The part whose parameters have the names of that project's."""
        return self

    def layer_groups(self) -> dict[str, int]:
        """The layer of each parameter, by name: 0 before the first stage or block, then upwards."""
        return layer_depths([name for name, _ in self.named_parameters()])


def model_folder(folder: Path) -> Path | None:
    """The ``model/`` folder that is meant by a run or by itself; None where it is neither."""
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    return None


def read_weights(source: str) -> State:
    """A state dict from a safetensors or PyTorch file, from timm (``timm:NAME``, which downloads), or from torchvision
    (``torchvision:MODEL`` or ``torchvision:MODEL.WEIGHTS``, of which there is a copy)."""
    project, _, name = source.partition(":")
    if project == "timm":
        return timm_weights(name)
    if project == "torchvision":
        return torchvision_weights(*name.split(".", 1))
    return read_state(Path(source))


def inflated(name: str, new: Tensor, mine: Tensor) -> Tensor | None:
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
    """Positions of a square of patches, without the class token, resampled to our grid."""
    if new.shape == mine.shape:
        return new
    if new.dim() != 3 or new.shape[2] != mine.shape[1]:
        return None
    side = math.isqrt(new.shape[1])
    table = new[:, new.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side)).float()
    table = F.interpolate(table, size=mine.shape[2:4], mode="bicubic", align_corners=False)
    return table[..., None].expand(mine.shape) if mine.dim() == 5 else table
