"""Projection heads."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class ProjectionHead(nn.Module):
    """Linear, GELU, linear (or one linear layer), then a vector of length one.

    Args:
        in_dim: width of the input.
        out_dim: width of the embedding.
        hidden: width between; 0 for one linear layer.
    """

    def __init__(self, in_dim: int, out_dim: int, hidden: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(in_dim)]
        if hidden:
            layers += [nn.Linear(in_dim, hidden), nn.GELU()]
        layers.append(nn.Linear(hidden or in_dim, out_dim))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """Unit vectors."""
        return F.normalize(self.layers(x), dim=-1)


def group_directions(vectors: Float[Tensor, "n e"], group: Int[Tensor, " n"], groups: int) -> Float[Tensor, "g e"]:
    """One unit vector for each group: the direction of the mean of its unit vectors (prompts of one class).

    Args:
        vectors: unit vectors.
        group: the group of each, 0 .. groups - 1.
        groups: how many there are; one without vectors becomes a zero vector.
    """
    sums = vectors.new_zeros(groups, vectors.shape[1]).index_add(0, group, vectors)
    return F.normalize(sums, dim=-1)
