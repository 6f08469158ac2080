"""A BERT that fills in hidden words of a report with its image in view (ECAMP)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from ctglip.config import Settings


class ReportBertSettings(Settings):
    """A BERT that is trained from nothing; ECAMP's numbers.

    Attributes:
        width, layers, heads, hidden: of the transformer; ``hidden`` is the width inside of its feed-forward parts.
        dropout: everywhere in it.
        reads: words see the image; otherwise none is shown to them (a control).
    """

    width: int = 768
    layers: int = Field(default=6, ge=1)
    heads: int = 6
    hidden: int = 1536
    dropout: float = Field(default=0.1, ge=0, lt=1)
    reads: bool = True


class ContextFusion(nn.Module):
    """Words read a image at two scales: each looks for patches of its own, and all are told of the whole.

    Self-attention, cross-attention to patches plus the global token, feed-forward; each with residual and
    normalisation after it, as in BERT.

    Args:
        dim: width of the words.
        image_dim: width of the patches.
        heads, hidden, dropout: of the layer.
    """

    def __init__(self, dim: int, image_dim: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.patch_proj = nn.Linear(image_dim, dim)
        self.global_proj = nn.Linear(image_dim, dim)
        self.dense = nn.Linear(dim, dim)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-12) for _ in range(3))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, words: Float[Tensor, "b t d"], missing: Bool[Tensor, "b t"], patches: Float[Tensor, "b n e"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t n"]]:
        """The words with what they found, and where each looked (mean over heads).

        Args:
            words: embedded.
            missing: padding.
            patches: tokens of the patches that were seen; their mean is the global token.
        """
        found, _ = self.self_attn(words, words, words, key_padding_mask=missing, need_weights=False)
        x = self.norms[0](words + self.drop(found))
        image_tokens = self.patch_proj(patches)
        found, where = self.cross_attn(x, image_tokens, image_tokens)
        found = self.dense(found + self.global_proj(patches.mean(1, keepdim=True)))
        x = self.norms[1](x + self.drop(found))
        return self.norms[2](x + self.drop(self.ffn(x))), where


class ReportBert(nn.Module):
    """Embeddings, the fusion layer, BERT's layers, a head over the vocabulary (tied to the embeddings).

    Args:
        settings: its shape.
        vocabulary, length: of the pieces.
        pad: the piece that is none.
        image_dim: width of the patches.
    """

    def __init__(self, settings: ReportBertSettings, vocabulary: int, length: int, pad: int, image_dim: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertForMaskedLM

        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            intermediate_size=settings.hidden,
            hidden_dropout_prob=settings.dropout,
            attention_probs_dropout_prob=settings.dropout,
            max_position_embeddings=length,
            type_vocab_size=1,
            pad_token_id=pad,
        )
        made: Any = BertForMaskedLM(config)
        self.pad, self.reads = pad, settings.reads
        self.embeddings, self.layers, self.head = made.bert.embeddings, made.bert.encoder, made.cls
        self.fusion = ContextFusion(settings.width, image_dim, settings.heads, settings.hidden, settings.dropout)

    def forward(
        self, ids: Int[Tensor, "b t"], patches: Float[Tensor, "b n e"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t n"]]:
        """States of all pieces, and where each looked in the image.

        Args:
            ids: pieces, hidden ones replaced.
            patches: tokens of the patches that were seen.
        """
        missing = ids == self.pad
        patches = patches if self.reads else torch.zeros_like(patches)
        x, where = self.fusion(self.embeddings(input_ids=ids), missing, patches)
        bias = torch.zeros_like(missing, dtype=x.dtype).masked_fill(missing, torch.finfo(x.dtype).min)
        return self.layers(x, attention_mask=bias[:, None, None]).last_hidden_state, where

    def words(self, states: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """Scores of the vocabulary."""
        return self.head(states)
