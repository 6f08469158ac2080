"""HLIP's image encoder: a ViT-B whose blocks attend within slices, within scans, or within a whole study.

Zhao et al., "Towards scalable language-image pre-training for 3D medical imaging" (2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.scheme import KeyScheme
from ctglip.resources import require


class HLIPSettings(ReleasedCtSettings):
    """HLIP's ViT-B, for chest CT or MRI.

    Attributes:
        image_size: sides of the scan that its positions belong to, along slices, rows and columns; positions are
            interpolated to other sizes.
        patch: sides of a patch along the same axes.
        dim, depth, heads: width, blocks, attention heads.
        slice_blocks: blocks that attend within a slice of patches.
        scan_blocks: blocks that attend within a scan; all others attend within the study.
        scans: how many scans of a study the positions tell apart; 1: none. With more, channels are scans, and
            ``channel`` is not read.
        drop_path: share of the blocks that are left out at random in training, growing to this at the last.
        projected: tokens and the pooled vector are in the space that it shares with its own texts.
        embedding_dim: width of that space.
    """

    name: Literal["hlip"] = "hlip"  # pyright: ignore[reportIncompatibleVariableOverride]
    image_size: tuple[int, int, int] = (112, 336, 336)
    patch: tuple[int, int, int] = (8, 24, 24)
    dim: int = 768
    depth: int = 12
    heads: int = 12
    slice_blocks: tuple[int, ...] = (0, 1, 3, 4, 6, 7, 9, 10)
    scan_blocks: tuple[int, ...] = ()
    scans: int = 1
    drop_path: float = 0.2
    projected: bool = False
    embedding_dim: int = 512

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {} if self.projected else {"embedding_dim": "tokens are not projected"}
        return {**super().unread(), **found}


class HLIPEncoder(ReleasedEncoder):
    """timm's blocks over the patches of one scan or of several of a study."""

    Settings = HLIPSettings
    settings: HLIPSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    scheme = KeyScheme(
        outer=("state_dict",),
        drop=(r"text\..*", "logit_scale", "logit_bias"),
        root=("visual.",),
    )

    def __init__(self, settings: HLIPSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        self.network = nn.ModuleDict({"trunk": StudyTransformer(settings)})
        if settings.projected:
            head = nn.Linear(settings.dim, settings.embedding_dim, bias=False)
            self.network["head"] = nn.ModuleDict({"proj": head})
        self.token_dim = settings.embedding_dim if settings.projected else settings.dim
        self.level_channels = (settings.dim, self.token_dim)
        self.strides = (self.turned(settings.patch),) * 2

    def seen(self, image: Tensor) -> Tensor:
        """All scans of a study, or one channel."""
        return image if self.settings.scans > 1 else super().seen(image)

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Tokens after half of the blocks and after all, their mean over the scans of a study; the class token."""
        trunk, settings = self.network["trunk"], self.settings
        x = trunk.embedded(image)
        grid = tuple(x.shape[2:5])
        x = x.flatten(3, 4)
        cls = trunk.cls_token[:, None, None].expand(len(x), 1, 1, 1, -1)
        middle = x
        for index, block in enumerate(trunk.blocks):
            cls, x = self._attend(block, self._scope(index), cls, x)
            if index == settings.depth // 2 - 1:
                middle = x
        cls, x = (trunk.norm(tokens) for tokens in (_regrouped(cls, 1, 1), x))
        if settings.projected:
            cls, x = (self.network["head"]["proj"](tokens) for tokens in (cls, x))  # pyright: ignore[reportIndexIssue]
        levels = (tokens.mean(1).flatten(1, 2).transpose(1, 2).unflatten(2, grid) for tokens in (middle, x))
        return tuple(levels), cls.flatten(1)

    def _scope(self, index: int) -> str:
        settings = self.settings
        return "slice" if index in settings.slice_blocks else "scan" if index in settings.scan_blocks else "study"

    def _attend(
        self, block: nn.Module, scope: str, cls: Float[Tensor, "b n d 1 c"], x: Float[Tensor, "b n d l c"]
    ) -> tuple[Tensor, Tensor]:
        """One block within slices, scans or the study; each group has a class token, which groups of a finer scope
        inherit and which is averaged over them for a coarser one."""
        _, n, d, _, _ = x.shape
        groups = {"slice": (n, d), "scan": (n, 1), "study": (1, 1)}[scope]
        cls = _regrouped(cls, *groups)
        tokens = x.reshape(-1, x.shape[1] * x.shape[2] * x.shape[3] // (groups[0] * groups[1]), x.shape[4])
        both = self.stage(block, torch.cat([cls.reshape(-1, 1, cls.shape[-1]), tokens], dim=1))
        return both[:, :1].reshape(cls.shape), both[:, 1:].reshape(x.shape)


class StudyTransformer(nn.Module):
    """The parts of HLIP's ViT under the released names; positions are sines and cosines and not trained.

    Args:
        settings: sizes.
    """

    def __init__(self, settings: HLIPSettings) -> None:
        super().__init__()
        block = require("timm.models.vision_transformer", extra="weights").Block
        width, self.scans = settings.dim, settings.scans
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        grid = tuple(side // step for side, step in zip(settings.image_size, settings.patch, strict=True))
        self.spatial_posemb = nn.Parameter(_waves(grid, width), requires_grad=False)
        if settings.scans > 1:
            self.sequential_posemb = nn.Parameter(_waves((settings.scans,), width), requires_grad=False)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(1, width, settings.patch, settings.patch)})
        rates = [settings.drop_path * index / max(settings.depth - 1, 1) for index in range(settings.depth)]
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            block(width, settings.heads, qkv_bias=True, drop_path=rate, norm_layer=norm) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def embedded(self, image: Float[Tensor, "b n *s"]) -> Float[Tensor, "b n d h w c"]:
        """Patches of each scan, with their positions."""
        x = self.patch_embed["proj"](image.flatten(0, 1)[:, None])
        x = rearrange(x, "(b n) c d h w -> b n d h w c", b=len(image))
        return x + self._positions(tuple(x.shape[1:5]))

    def _positions(self, shape: tuple[int, ...]) -> Tensor:
        """``[1, n, d, h, w, c]``; of scans the first ones, in training too, where the released code draws them."""
        table = self.spatial_posemb.float()
        if tuple(table.shape[1:4]) != shape[1:]:
            table = F.interpolate(table.movedim(-1, 1), size=shape[1:], mode="trilinear").movedim(1, -1)
        table = table[:, None]
        if self.scans == 1:
            return table
        order = self.sequential_posemb.float()
        if order.shape[1] < shape[0]:
            order = F.interpolate(order.transpose(1, 2), size=shape[0], mode="linear").transpose(1, 2)
        return table + order[:, : shape[0], None, None, None]


def _regrouped(cls: Tensor, scans: int, slices: int) -> Tensor:
    """A class token for each group ``[b, n, d, 1, c]``: inherited by finer groups, averaged for coarser ones."""
    for axis, count in ((1, scans), (2, slices)):
        if cls.shape[axis] != count:
            shape = list(cls.shape)
            shape[axis] = count
            cls = cls.mean(axis, keepdim=True) if count == 1 else cls.expand(shape)
    return cls


def _waves(grid: tuple[int, ...], width: int) -> Tensor:
    """Sines and cosines of each axis ``[1, *grid, width]``, the last axis first (MAE's positions in more axes)."""
    share = width // len(grid)
    rates = 10000.0 ** -(torch.arange(share // 2) / (share / 2))
    found = []
    for axis in reversed(range(len(grid))):
        angles = torch.arange(grid[axis])[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        shape = [1, *(side if other == axis else 1 for other, side in enumerate(grid)), share]
        found.append(waves.view(shape).expand(1, *grid, share))
    return torch.cat(found, dim=-1)
