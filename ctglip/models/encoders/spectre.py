"""SPECTRE (arXiv 2511.17209): a ViT with rotary positions over crops of a scan, and one over the crops of a scan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctglip.models.encoders.patch_transformer import PatchTransformerEncoder, PatchTransformerSettings
from ctglip.models.encoders.tokens import AxialRotation, PatchEmbedding, TokenBlock, middle_and_last, with_first
from ctglip.models.weights.reading import find_weights, read_state
from ctglip.models.weights.scheme import KeyScheme, fill_by_scheme

COMBINER_FILE = "spectre_combiner_feature_vit_large.pt"
_EPS = 1e-5


class SpectreSettings(PatchTransformerSettings):
    """SPECTRE's large model.

    Attributes:
        patch: voxels of a patch.
        crop: an image is cut into crops of so many voxels (less at its end), each of which is encoded by itself, as
            the model was trained; null: an image is encoded as a whole.
        combine: the pooled vector is that of the second transformer, over the crops; its file is looked for beside that
            of the first one.
        combiner_depth: blocks of the second transformer.
    """

    name: Literal["spectre"] = "spectre"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: tuple[int, int, int] = (16, 16, 8)
    dim: int = 1080
    depth: int = 24
    heads: int = 12
    crop: tuple[int, int, int] | None = (128, 128, 64)
    combine: bool = False
    combiner_depth: int = 4

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {**super().unread(), **({} if self.combine else {"combiner_depth": "combine is false"})}


class SpectreNetwork(nn.Module):
    """The transformer, from patches of an image or from vectors of crops.

    Args:
        settings: width and heads.
        depth: blocks.
        base: of the rotary positions.
        first: name of the part that makes tokens, and the part.
    """

    def __init__(self, settings: SpectreSettings, depth: int, base: float, first: tuple[str, nn.Module]) -> None:
        super().__init__()
        self.add_module(*first)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, settings.dim))
        self.rope = AxialRotation(settings.dim // settings.heads, base)
        self.blocks = nn.ModuleList(
            TokenBlock(settings.dim, settings.heads, 1.0, _EPS, split=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(settings.dim, _EPS)


class SpectreEncoder(PatchTransformerEncoder):
    """Tokens of all patches; pooled: class token and mean of the patches, over crops or from the combiner."""

    Settings = SpectreSettings
    scheme = KeyScheme(outer=("state_dict", "model"), strip=("module.", "backbone."), drop=(r"(?:fc_norm|head)\..*",))
    settings: SpectreSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: SpectreSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        if settings.crop is not None and any(c % p for c, p in zip(settings.crop, settings.patch, strict=True)):
            raise ValueError(f"crop {settings.crop} must be a multiple of patch {settings.patch}")
        embed = PatchEmbedding(settings.dim, settings.patch)
        self.network = SpectreNetwork(settings, settings.depth, 1000.0, ("patch_embed", embed))
        self.combiner: SpectreNetwork | None = None
        if settings.combine:
            project = nn.Linear(2 * settings.dim, settings.dim)
            self.combiner = SpectreNetwork(settings, settings.combiner_depth, 100.0, ("patch_proj", project))
        self.strides = (settings.patch,) * 2

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Two levels of one grid, after half of the blocks and after all."""
        crops, counts = self._crops(image)
        found = [self.encoded(crop) for crop in crops]
        levels = [_joined([one[level] for one in found], counts) for level in (0, 1)]
        vectors = torch.stack([torch.cat([one[2], one[1].flatten(2).mean(-1)], dim=1) for one in found], dim=1)
        if self.combiner is None:
            return tuple(levels), vectors.mean(1)
        network = self.combiner
        x = with_first(network.get_submodule("patch_proj")(vectors), network.cls_token)
        x = network.norm(middle_and_last(network.blocks, x, self.stage, network.rope(counts))[1])
        return tuple(levels), torch.cat([x[:, 0], x[:, 1:].mean(1)], dim=1)

    def before_blocks(self, patches: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Each block turns queries and keys by their positions."""
        return with_first(patches, self.network.cls_token), (self.network.rope(grid),)

    def _crops(self, image: Tensor) -> tuple[list[Tensor], tuple[int, ...]]:
        """Crops of an image, the last axis fastest, and how many there are along each axis."""
        if self.settings.crop is None:
            return [image], (1, 1, 1)
        crops = [image]
        for axis, side in enumerate(self.settings.crop, 2):
            crops = [part for crop in crops for part in crop.split(side, dim=axis)]
        return crops, tuple(-(-n // side) for n, side in zip(image.shape[2:], self.settings.crop, strict=True))

    def fill_from(self, source: str) -> float:
        """From the released file; the combiner from the file beside it."""
        share = super().fill_from(source)
        if self.combiner is not None:
            path = find_weights(source, self.card.hub, self.card.files).with_name(COMBINER_FILE)
            if not path.is_file() and not Path(source).exists():
                path = find_weights("/".join([*source.split("/")[:2], COMBINER_FILE]))
            fill_by_scheme(self.combiner, read_state(path), self.scheme, str(path), self.settings.partial)
        return share


def _joined(parts: list[Tensor], counts: tuple[int, ...]) -> Tensor:
    """Maps of crops side by side, as ``_crops`` cut them."""
    for axis, count in zip((4, 3, 2), reversed(counts), strict=True):
        parts = [torch.cat(parts[start : start + count], dim=axis) for start in range(0, len(parts), count)]
    return parts[0]
