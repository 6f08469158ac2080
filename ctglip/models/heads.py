"""Projection heads."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

HeadNorm = Literal["layer", "batch", "none", "weight"]
_BOTTLENECK = 256
"""Width before the weight-normed layer (DINO, arXiv 2104.14294)."""


class ProjectionHead(nn.Module):
    """Linear, GELU, linear (or one linear layer), then a vector of length one.

    Args:
        in_dim: width of the input.
        out_dim: width of the embedding.
        hidden: width between; 0 for one linear layer.
        norm: ``layer``: the input is normalised. ``batch``: linear, batch norm, ReLU, linear, batch norm without
            weights (MGCA, IMITATE, ASG); of tokens the statistics are those of all tokens of all images. ``none``:
            linear layers without a bias at the end (CLIP). ``weight``: two hidden layers, 256 features of length one,
            and a linear layer whose rows have length one (DINO, SPECTRE).
    """

    def __init__(self, in_dim: int, out_dim: int, hidden: int = 0, norm: HeadNorm = "layer") -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        layers: list[nn.Module] = [nn.LayerNorm(in_dim)] if norm == "layer" else []
        if hidden:
            layers.append(nn.Linear(in_dim, hidden))
            layers += [RowBatchNorm(hidden), nn.ReLU()] if norm == "batch" else [nn.GELU()]
        if norm == "weight":
            layers += _weight_normed(hidden or in_dim, out_dim)
        else:
            layers.append(nn.Linear(hidden or in_dim, out_dim, bias=norm != "none"))
        if norm == "batch":
            layers.append(RowBatchNorm(out_dim, affine=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Unit vectors."""
        return F.normalize(self.unscaled(x), dim=-1)

    def unscaled(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """The vectors before they are made unit vectors."""
        rows = self.layers(x.reshape(-1, x.shape[-1]))  # rows alone: so the norm that ranks share wants them
        return rows.view(*x.shape[:-1], rows.shape[1])


class UnitRows(nn.Module):
    """Rows of length one."""

    def forward(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The rows, each divided by its length."""
        return F.normalize(rows, dim=-1)


def _weight_normed(in_dim: int, out_dim: int) -> list[nn.Module]:
    """A second hidden layer of the same width, the bottleneck, and a layer whose rows keep length one."""
    last = weight_norm(nn.Linear(_BOTTLENECK, out_dim, bias=False))
    length = last.parametrizations.weight.original0  # pyright: ignore[reportAttributeAccessIssue]
    nn.init.ones_(length)  # pyright: ignore[reportArgumentType]
    length.requires_grad_(False)  # pyright: ignore[reportCallIssue]
    return [nn.Linear(in_dim, in_dim), nn.GELU(), nn.Linear(in_dim, _BOTTLENECK), UnitRows(), last]


class RowBatchNorm(nn.BatchNorm1d):
    """Batch norm that uses the running statistics where there are fewer than two rows, which have none of their own."""

    def forward(self, input: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Rows of about mean 0 and variance 1."""
        if self.training and len(input) < 2:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class RegionProjection(nn.Module):
    """What was pooled over a region, and its size, as one feature.

    Args:
        width: of what was pooled.
        dim: of the feature.
        sizes: the region's scale and volume are an input.
    """

    def __init__(self, width: int, dim: int, sizes: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, dim)
        self.size = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, dim)) if sizes else None

    def forward(self, pooled: list[Tensor], size: Float[Tensor, "m 4"] | None) -> Float[Tensor, "m d"]:
        """``pooled``: one tensor for each level, joined along channels."""
        features = self.linear(self.norm(torch.cat(pooled, dim=1)))
        if self.size is None:
            return features
        assert size is not None
        return features + self.size(size.to(features.dtype))


def group_directions(vectors: Float[Tensor, "n e"], group: Int[Tensor, " n"], groups: int) -> Float[Tensor, "g e"]:
    """One unit vector for each group: the direction of the mean of its unit vectors (prompts of one class).

    Args:
        vectors: unit vectors.
        group: the group of each, 0 .. groups - 1.
        groups: how many there are; one without vectors becomes a zero vector.
    """
    sums = vectors.new_zeros(groups, vectors.shape[1]).index_add(0, group, vectors)
    return F.normalize(sums, dim=-1)
