"""CXR-BERT (general and specialized): BERT with a projection of its first token, without the code that comes with it.

Boecking et al., "Making the most of text semantics to improve biomedical vision-language processing" (ECCV 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertPreTrainedModel


class CXRBertConfig(BertConfig):
    """BERT's config, and the width of the projection."""

    model_type = "cxr-bert"
    projection_size: int = 128


@dataclass
class CXRBertFeatures:
    """What CXR-BERT makes of texts.

    Attributes:
        last_hidden_state: tokens ``[N, L, C]``.
        projected: the first token in the space that is shared with BioViL's images ``[N, P]``, of any length; None for
            weights without the projection.
    """

    last_hidden_state: Float[Tensor, "n l c"]
    projected: Float[Tensor, "n p"] | None


class CXRBertProjection(nn.Module):
    """Linear, GELU, layer norm, linear.

    Args:
        config: widths.
    """

    def __init__(self, config: CXRBertConfig) -> None:
        super().__init__()
        self.dense_to_hidden = nn.Linear(config.hidden_size, config.projection_size)
        self.LayerNorm = nn.LayerNorm(config.projection_size, eps=1e-12)
        self.dense_to_output = nn.Linear(config.projection_size, config.projection_size)

    def forward(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n p"]:
        """Projected vectors."""
        return self.dense_to_output(self.LayerNorm(F.gelu(self.dense_to_hidden(x))))


class CXRBertModel(BertPreTrainedModel):
    """BERT's encoder and the projection; the head that fills in words is left out.

    Args:
        config: sizes.
    """

    config_class = CXRBertConfig
    base_model_prefix = "cxr_bert"

    def __init__(self, config: CXRBertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls_projection_head: CXRBertProjection | None = CXRBertProjection(config)
        self.post_init()

    def forward(
        self, input_ids: Int[Tensor, "n l"], attention_mask: Int[Tensor, "n l"] | None = None, **rest: Any
    ) -> CXRBertFeatures:
        """Tokens, and the first one projected."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask, **rest).last_hidden_state
        head = self.cls_projection_head
        return CXRBertFeatures(hidden, None if head is None else head(hidden[:, 0]))
