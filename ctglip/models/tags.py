"""Tags of whole images: the name of each tag is a query that looks for it among the image's tokens (KAD, ASG)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.config import Settings
from ctglip.models.decoders import QueryDecoder


class TagSettings(Settings):
    """A decoder of tags. The defaults are ASG's (arXiv 2403.09294).

    Attributes:
        layers, heads, hidden, dropout: of the decoder.
    """

    layers: int = 4
    heads: int = 4
    hidden: int = 1024
    dropout: float = 0.1


class TagDecoder(nn.Module):
    """One logit for each image and tag.

    Args:
        settings: depth and widths.
        names: of the tags.
        token_dim: width of the image's tokens.
        text_dim: width of the text embeddings; where it is another one, a linear layer takes them over.

    Attributes:
        embeddings: ``[t, text_dim]``, raw embeddings of the tags' names by the frozen text encoder, computed once; they
            are saved with the weights.
    """

    embeddings: Tensor

    def __init__(self, settings: TagSettings, names: tuple[str, ...], token_dim: int, text_dim: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(len(names), text_dim))
        self.query = nn.Identity() if text_dim == token_dim else nn.Linear(text_dim, token_dim)
        self.decoder = QueryDecoder(token_dim, settings.layers, settings.heads, settings.hidden, settings.dropout)
        self.score = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(token_dim, 1))

    def forward(
        self, tokens: Float[Tensor, "b n c"], embeddings: Float[Tensor, "t d"] | None = None
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t n"]]:
        """Logits, and where each tag was looked for in the last layer.

        Args:
            tokens: of the image encoder, as they are.
            embeddings: raw text embeddings of tags, known or new. Tags attend to one another, so they are asked with
                those of training: a known tag answers as if all were asked.
        """
        known = len(self.embeddings)
        queried, position = self.embeddings, torch.arange(known, device=tokens.device)
        if embeddings is not None:
            distance = torch.cdist(embeddings.float(), self.embeddings.float())
            near = distance < 1e-3 * embeddings.norm(dim=1, keepdim=True)
            new = ~near.any(1)
            queried = torch.cat([queried, embeddings[new].to(queried)])
            position = torch.where(new, known - 1 + new.cumsum(0), near.int().argmax(1) if known else 0)
        queries = self.query(queried.to(tokens.dtype))
        found, attention = self.decoder(queries.expand(len(tokens), -1, -1), tokens)
        return self.score(found)[..., 0][:, position], attention[:, position]
