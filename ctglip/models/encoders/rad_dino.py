"""RAD-DINO: a ViT-B/14 trained on chest radiographs without labels or texts.

Perez-Garcia et al., "Exploring scalable medical image encoders beyond text supervision" (2025).
"""

from __future__ import annotations

from typing import Literal

import torch

from ctglip.models.encoders.released_cxr import ReleasedViT, ReleasedViTSettings
from ctglip.models.weights.reading import State, find_weights, read_state
from ctglip.models.weights.scheme import KeyScheme, fill_by_scheme

_QUERY_KEY_VALUE = (
    ("attention.attention.query.", "attention.attention.key.", "attention.attention.value."),
    ("attention.q_proj.", "attention.k_proj.", "attention.v_proj."),
)
"""Names of three layers of an attention in transformers before and since version 5."""


class RadDinoSettings(ReleasedViTSettings):
    """RAD-DINO's ViT-B/14."""

    name: Literal["rad_dino"] = "rad_dino"  # pyright: ignore[reportIncompatibleVariableOverride]
    image_size: int = 518
    patch: int = 14
    pool: Literal["cls", "mean"] = "cls"


class RadDinoEncoder(ReleasedViT):
    """DINOv2's transformer; a file may have DINOv2's own names, or those of transformers before and since version 5."""

    Settings = RadDinoSettings
    layer_scale = True
    scheme = KeyScheme(
        outer=("model", "state_dict", "teacher"),
        strip=("module.", "dinov2.", "backbone."),
        drop=(r"(embeddings\.)?mask_token", r"(head|dino_head|classifier|pooler)\..*"),
        rename=(
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^embeddings\.cls_token$", "cls_token"),
            (r"^encoder\.layer\.", "blocks."),
            (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
            (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
            (r"^layernorm\.", "norm."),
        ),
    )

    def fill_from(self, source: str) -> float:
        """From the released file."""
        state = joined_qkv(read_state(find_weights(source, self.card.hub, self.released_files)))
        return fill_by_scheme(self.network, state, self.scheme, source, self.settings.partial)


def joined_qkv(state: State) -> State:
    """Queries, keys and values of an attention as the one layer that timm has (``...attn.qkv``)."""
    found = dict(state)
    for query, *others in _QUERY_KEY_VALUE:
        for name in state:
            names = [name, *(name.replace(query, other) for other in others)]
            if query in name and all(one in state for one in names):
                found[name.replace(query, "attn.qkv.")] = torch.cat([found.pop(one) for one in names])
    return found
