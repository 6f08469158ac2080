"""MONAI's self-attention with rotary positions; apart, because MONAI is imported late."""

from __future__ import annotations

from jaxtyping import Float
from monai.networks.blocks.selfattention import SABlock
from torch import Tensor
from torch.nn import functional as F

from ctglip.models.encoders.tokens import TokenRotation


class RotaryAttention(SABlock):
    """MONAI's self-attention whose queries and keys are turned by their place; it has the same weights."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b n c"], attn_mask: TokenRotation | None = None
    ) -> Float[Tensor, "b n c"]:
        """Self-attention.

        Args:
            x: tokens.
            attn_mask: how they are turned, where MONAI's block hands over a mask.
        """
        query, key, value = self.input_rearrange(self.qkv(x)).unbind(0)
        if attn_mask is not None:
            query, key = attn_mask(query), attn_mask(key)
        dropout = self.dropout_rate if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.drop_output(self.out_proj(self.out_rearrange(read)))
