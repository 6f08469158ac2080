"""CT-CLIP's image encoder (CT-ViT): attention within slices of patches, then along the slices, then a codebook.

Hamamci et al., "Developing generalist foundation models from a multimodal dataset for 3D computed tomography" (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.scheme import KeyScheme

_SCALE = 8
"""The attention's fixed factor on cosines."""


class CTCLIPSettings(ReleasedCtSettings):
    """CT-CLIP's CT-ViT.

    Attributes:
        image_size: side of a slice; the latent belongs to this size alone.
        patch: side of a patch within a slice.
        slices: slices of a patch.
        dim, heads, head_dim: width, attention heads and their width.
        spatial_depth, temporal_depth: layers within slices and along them.
        codebook: number of codes.
        latent: the pooled vector is the released latent of the whole scan; else the mean code, for any size.
    """

    name: Literal["ct_clip"] = "ct_clip"  # pyright: ignore[reportIncompatibleVariableOverride]
    image_size: int = 480
    patch: int = 20
    slices: int = 10
    dim: int = 512
    heads: int = 8
    head_dim: int = 32
    spatial_depth: int = 4
    temporal_depth: int = 4
    codebook: int = 8192
    latent: bool = True


class CTCLIPEncoder(ReleasedEncoder):
    """Patches of 20 x 20 x 10 voxels, two transformers, the nearest codes.

    The codebook stays as it is in training; the gradient passes by the choice of a code (straight through).
    """

    Settings = CTCLIPSettings
    settings: CTCLIPSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    scheme = KeyScheme(
        drop=(
            r"text_transformer\..*", r"to_text_latent(_extra)?\..*", r"to_visual_latent_extra\..*", "temperature",
            r"visual_transformer\.(to_pixels|to_patch_emb_first_frame|to_pixels_first_frame)\..*",
            r".*\.context_norm\.(gamma|beta)", r".*\.null_kv", r".*\._codebook\.(initted|cluster_size)",
        ),
    )  # fmt: skip

    def __init__(self, settings: CTCLIPSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        width = settings.dim
        self.network = nn.ModuleDict({"visual_transformer": CTViT(settings)})
        if settings.latent:
            side = settings.image_size // settings.patch
            self.network["to_visual_latent"] = nn.Linear(side**2 * width, width, bias=False)
        self.level_channels, self.token_dim = (width, width), width
        self.strides = (self.turned((settings.slices, settings.patch, settings.patch)),) * 2

    def probe_sides(self) -> tuple[int, ...]:
        """Sides of a small image; of the latent's own slices where there is one."""
        side = self.settings.image_size if self.settings.latent else 2 * self.settings.patch
        return (side, side, self.settings.slices)

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Tokens after the layers within slices, and their codes after all; the latent of the whole scan.

        Raises:
            ValueError: the latent is of another size of slices.
        """
        size = self.settings.image_size
        if self.settings.latent and tuple(image.shape[3:]) != (size, size):
            raise ValueError(
                f"CT-CLIP's latent is of slices of {size} x {size} voxels, not {tuple(image.shape[3:])}: resample the "
                "scans, or set model.encoder.latent=false."
            )
        within, codes = self.network["visual_transformer"](image, self.stage)
        latent = self.network["to_visual_latent"](codes.mean(1).flatten(1)) if self.settings.latent else None
        return (within.movedim(-1, 1), codes.movedim(-1, 1)), latent


class CTViT(nn.Module):
    """The parts of CT-ViT's encoder under the released names.

    Args:
        settings: sizes.
    """

    def __init__(self, settings: CTCLIPSettings) -> None:
        super().__init__()
        width, shape = settings.dim, (settings.dim, settings.heads, settings.head_dim)
        self.to_patch_emb = VoxelEmbedding(1, (settings.slices, settings.patch, settings.patch), width)
        self.spatial_rel_pos_bias = PositionBias(width, settings.heads)
        self.enc_spatial_transformer = CTTransformer(settings.spatial_depth, *shape)
        self.enc_temporal_transformer = CTTransformer(settings.temporal_depth, *shape)
        self.vq = nn.ModuleDict({"_codebook": CosineCodebook(settings.codebook, width)})

    def forward(
        self, image: Float[Tensor, "b 1 z x y"], run: Callable[..., Tensor]
    ) -> tuple[Float[Tensor, "b t h w d"], Float[Tensor, "b t h w d"]]:
        """Tokens after the layers within slices, and codes after all; ``run`` runs a layer (``Encoder.stage``)."""
        x = self.to_patch_emb(image)
        shape = tuple(x.shape[:4])
        bias = self.spatial_rel_pos_bias(shape[2], shape[3])
        within = self.enc_spatial_transformer(rearrange(x, "b t h w d -> (b t) (h w) d"), shape, bias, run)
        within = within.view(*shape, -1)
        along = self.enc_temporal_transformer(rearrange(within, "b t h w d -> (b h w) t d"), shape, None, run)
        along = rearrange(along, "(b h w) t d -> b t h w d", b=shape[0], h=shape[2])
        return within, self.vq["_codebook"](along)


class VoxelEmbedding(nn.Sequential):
    """Voxels of a patch, normalised, to a token, normalised; numbered from 1 as released.

    Args:
        channels: of the scan.
        patch: slices, rows, columns.
        width: of a token.
    """

    def __init__(self, channels: int, patch: tuple[int, int, int], width: int) -> None:
        voxels = channels * patch[0] * patch[1] * patch[2]
        super().__init__(nn.Identity(), nn.LayerNorm(voxels), nn.Linear(voxels, width), nn.LayerNorm(width))
        self.patch = patch

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b t h w d"]:
        """Tokens on the grid of patches."""
        t, h, w = self.patch
        flat = rearrange(input, "b c (t pt) (h ph) (w pw) -> b t h w (c pt ph pw)", pt=t, ph=h, pw=w)
        return super().forward(flat)


class PositionBias(nn.Module):
    """What an attention's logits gain from the distance of two patches of a slice: a network of log distances.

    Args:
        width: of the hidden layers.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(0.1))
        second = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.1))
        self.net = nn.ModuleList([first, second, nn.Linear(width, heads)])

    def forward(self, rows: int, columns: int) -> Float[Tensor, "heads n n"]:
        """The bias of each pair of patches, row by row."""
        weight = next(self.net.parameters())
        positions = torch.cartesian_prod(*(torch.arange(side, device=weight.device) for side in (rows, columns)))
        distance = (positions[:, None] - positions[None, :]).to(weight.dtype)
        found = distance.sign() * distance.abs().log1p()
        for layer in self.net:
            found = layer(found)
        return found.permute(2, 0, 1)


class GammaNorm(nn.Module):
    """Layer norm whose shift is fixed at what is saved with it.

    Args:
        width: of the tokens.
    """

    beta: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """The tokens, normalised."""
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class CosineAttention(nn.Module):
    """Self-attention by cosines with a learned factor for each component of queries and keys.

    Args:
        width: of the tokens.
        heads, head_dim: number and width of the heads.
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GammaNorm(width)
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.q_scale, self.k_scale = nn.Parameter(torch.ones(head_dim)), nn.Parameter(torch.ones(head_dim))
        self.to_out = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "heads n n"] | None) -> Float[Tensor, "b n d"]:
        """What each token takes from the others. Keys and values are of the tokens before the norm, as released."""
        parts = (self.to_q(self.norm(x)), *self.to_kv(x).chunk(2, dim=-1))
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in parts)
        q, k = F.normalize(q, dim=-1) * self.q_scale, F.normalize(k, dim=-1) * self.k_scale
        mask = None if bias is None else bias.to(q.dtype)
        found = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask, scale=_SCALE)
        return self.to_out(rearrange(found, "b h n d -> b n (h d)"))


class CTLayer(nn.Module):
    """A depthwise convolution over the grid, attention, and a gated feed-forward, numbered 0, 1 and 3 as released.

    Args:
        width, heads, head_dim: sizes.
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = int(4 * (2 / 3) * width)
        grouped = nn.Module()
        grouped.dsconv = nn.Conv3d(width, width, 3, groups=width)
        self.add_module("0", grouped)
        self.add_module("1", CosineAttention(width, heads, head_dim))
        ffn = (nn.LayerNorm(width), nn.Linear(width, 2 * inner, bias=False), GatedGELU(), nn.Identity(),
               nn.Linear(inner, width, bias=False))  # fmt: skip
        self.add_module("3", nn.Sequential(*ffn))

    def forward(self, x: Float[Tensor, "m n d"], shape: Sequence[int], bias: Tensor | None) -> Float[Tensor, "m n d"]:
        """The layer's output. ``shape``: studies, slices, rows and columns of the grid; along slices the tokens are
        laid on it in the order they come in, as released."""
        grouped, attention, ffn = self.children()
        grid = x.reshape(*shape, -1).movedim(-1, 1)
        moved = grouped.dsconv(F.pad(grid, (1, 1, 1, 1, 2, 0)))  # a slice sees those below it  # pyright: ignore[reportCallIssue]
        x = x + moved.movedim(1, -1).reshape(x.shape)
        x = x + attention(x, bias)
        return x + ffn(x)


class GatedGELU(nn.Module):
    """Half of the channels, times the GELU of the other half."""

    def forward(self, x: Tensor) -> Tensor:
        """Half as many channels."""
        value, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * value


class CTTransformer(nn.Module):
    """Layers, and a norm after the last.

    Args:
        depth: number of layers.
        width, heads, head_dim: sizes.
    """

    def __init__(self, depth: int, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CTLayer(width, heads, head_dim) for _ in range(depth))
        self.norm_out = GammaNorm(width)

    def forward(self, x: Tensor, shape: Sequence[int], bias: Tensor | None, run: Callable[..., Tensor]) -> Tensor:
        """Tokens after all layers; ``run``: runs a layer (``Encoder.stage``)."""
        for layer in self.layers:
            x = run(layer, x, shape, bias)
        return self.norm_out(x)


class CosineCodebook(nn.Module):
    """The code nearest to each token by cosine.

    Args:
        codes: number of codes.
        width: of a code.
    """

    embed: Tensor

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("embed", F.normalize(torch.randn(1, codes, width), dim=-1))

    def forward(self, x: Float[Tensor, "*s d"]) -> Float[Tensor, "*s d"]:
        """Codes in place of tokens; their gradient is the tokens' own."""
        with torch.autocast(x.device.type, enabled=False), torch.no_grad():
            known = F.normalize(self.embed[0].float(), dim=-1)
            nearest = (F.normalize(x.float(), dim=-1) @ known.T).argmax(-1)
            codes = self.embed[0][nearest].to(x.dtype)
        return codes + (x - x.detach())
