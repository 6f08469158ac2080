"""Base of released encoders that are transformers over patches of a scan, under timm's names of weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.encoders.tokens import PatchEmbedding, TokenBlock, as_maps, middle_and_last


class PatchTransformerSettings(ReleasedCtSettings):
    """A transformer over patches.

    Attributes:
        dim, depth, heads: of the transformer.
    """

    dim: int
    depth: int
    heads: int


class PatchTransformer(nn.Module):
    """A class token, registers where there are some, and patches through blocks, under timm's names.

    Args:
        width, depth, heads: of the transformer.
        patch: voxels of a patch.
        eps: of the layer norms.
        scale: start of the layer scale; None: none.
        bias: queries, keys and values have one.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: tuple[int, int, int],
        eps: float,
        scale: float | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = PatchEmbedding(width, patch)
        self.blocks = nn.ModuleList(TokenBlock(width, heads, scale, eps, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps)


class PatchTransformerEncoder(ReleasedEncoder):
    """Tokens of all patches, normalised, after half of the blocks and after all; pooled: class token and mean of the
    patches. A new one sets ``network`` and ``strides`` and says what enters the blocks (``before_blocks``)."""

    settings: PatchTransformerSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    normalised: ClassVar[bool] = True
    """Whether the last tokens pass the network's norm."""

    def __init__(self, settings: PatchTransformerSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        self.level_channels, self.token_dim = (settings.dim,) * 2, settings.dim

    @property
    def pooled_dim(self) -> int:
        """The class token and the mean."""
        return 2 * self.settings.dim

    @abstractmethod
    def before_blocks(self, patches: Float[Tensor, "b n d"], grid: tuple[int, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """All tokens, the class token first, and what each block sees beside them."""

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Two levels of one grid, after half of the blocks and after all."""
        half, last, first = self.encoded(image)
        return (half, last), torch.cat([first, last.flatten(2).mean(-1)], dim=1)

    def encoded(self, image: Float[Tensor, "b 1 *s"]) -> tuple[Tensor, Tensor, Float[Tensor, "b d"]]:
        """Maps after half of the blocks and after all, and the class token."""
        network = self.network
        patches = network.patch_embed(image)
        grid = tuple(patches.shape[2:])
        x, beside = self.before_blocks(patches.flatten(2).transpose(1, 2), grid)
        half, x = middle_and_last(network.blocks, x, self.stage, *beside)
        x = network.norm(x) if self.normalised else x
        return as_maps(half, grid), as_maps(x, grid), x[:, 0]
