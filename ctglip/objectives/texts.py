"""The texts of a batch: frozen embeddings from the bank, or this step's distinct texts through a trained encoder."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ctglip.features.text_bank import TextBank


class Texts(nn.Module):
    """Fetches what a batch says and turns it into raw embeddings.

    Args:
        bank: texts by index; its encoder is trained along where its settings say so.
    """

    def __init__(self, bank: TextBank) -> None:
        super().__init__()
        self.bank = bank
        self.encoder = bank.encoder if bank.encoder.trainable else None

    def collate(self, *ids: Int[Tensor, "*n"]) -> tuple[Int[Tensor, " p"], Shaped[Tensor, "p ..."]]:
        """Every index that is not -1 once, ascending, and the pool: embeddings ``[P, T]`` or tokens ``[P, K, L]``.

        At least one text is always there, so that empty batches go the same way.
        """
        text_ids = torch.cat([values.flatten() for values in ids]).unique()
        text_ids = text_ids[text_ids >= 0] if len(text_ids) and text_ids[-1] >= 0 else torch.zeros(1, dtype=torch.long)
        if self.encoder is None:
            return text_ids, self.bank.vectors(text_ids)
        return text_ids, self.encoder.tokenize(self.bank.texts(text_ids))

    def forward(self, pool: Shaped[Tensor, "p ..."]) -> Float[Tensor, "p t"]:
        """Raw embeddings of a pool."""
        return pool if self.encoder is None else self.encoder(pool)


def positions(ids: Int[Tensor, "*n"], pool_ids: Int[Tensor, " p"]) -> Int[Tensor, "*n"]:
    """Where each text-bank index stands in ``pool_ids`` (any order, repeats allowed); -1 stays -1."""
    order = pool_ids.argsort()
    found = order[torch.searchsorted(pool_ids[order], ids.clamp(min=0)).clamp(max=len(order) - 1)]
    return torch.where(ids < 0, ids, found)
