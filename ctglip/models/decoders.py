"""Queries that read a image's tokens."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn


class QueryDecoder(nn.Module):
    """Queries attend to one another and to tokens, layer by layer (pre-norm, as in KAD and ASG).

    Args:
        dim: width of queries and tokens.
        layers, heads, hidden: of the transformer; ``hidden`` is the width inside of its feed-forward parts.
        dropout: everywhere in it.
    """

    def __init__(self, dim: int, layers: int = 2, heads: int = 4, hidden: int = 1024, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(QueryDecoderLayer(dim, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Float[Tensor, "b q d"],
        tokens: Float[Tensor, "b n d"],
        ignored: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b q n"]]:
        """What each query found, and where it looked in the last layer (mean over heads).

        Args:
            queries: one set for each image.
            tokens: the image's.
            ignored: tokens that are not there.
        """
        x, where = queries, tokens.new_zeros(len(tokens), queries.shape[1], tokens.shape[1])
        for layer in self.layers:
            x, where = layer(x, tokens, ignored)
        return self.norm(x), where


class QueryDecoderLayer(nn.Module):
    """Queries look at each other, then at the tokens; norms come first."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.ffn = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, tokens: Tensor, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries after the layer, and where each looked."""
        y = self.norms[0](x)
        x = x + self.self_attn(y, y, y, need_weights=False)[0]
        found, where = self.cross_attn(self.norms[1](x), tokens, tokens, key_padding_mask=ignored)
        x = x + found
        return x + self.ffn(self.norms[2](x)), where
