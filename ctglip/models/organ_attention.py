"""fVLM's organ attention: an organ's query reads the organ's tokens of several levels, and the organ has its own
projection into the space shared with texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.encoder_cards import encoder_card
from ctglip.errors import ModelError
from ctglip.models.encoders.base import Encoder
from ctglip.models.pooling import organ_slots
from ctglip.models.weights.reading import State, find_weights, read_state

RELEASED_ORGANS = ("lungs", "heart", "esophagus", "aorta")
"""The organs of the released queries and projections, in their order, by the dictionary's names."""


class OrganAttention(nn.Module):
    """One query and one linear projection for each organ, and one attention that all share.

    Args:
        width: of the tokens, the same for all levels.
        organs: number of organs.
        embedding_dim: of the features.
        heads: attention heads.
        dropout: of the attention's weights, as released.
    """

    def __init__(self, width: int, organs: int, embedding_dim: int, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(organs, width))
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        layers = [nn.Linear(width, embedding_dim) for _ in range(organs)]
        self.weight = nn.Parameter(torch.stack([layer.weight.data for layer in layers]) if layers else torch.zeros(0))
        self.bias = nn.Parameter(torch.stack([layer.bias.data for layer in layers]) if layers else torch.zeros(0))

    def forward(
        self,
        levels: Sequence[Float[Tensor, "b c *s"]],
        inside: Bool[Tensor, "m n"],
        organ_id: Int[Tensor, " m"],
        study_index: Int[Tensor, " m"],
    ) -> Float[Tensor, "m e"]:
        """Unit vectors.

        Args:
            levels: maps on one grid of N tokens.
            inside: the tokens that the organ has a voxel in; an organ without any reads all.
            organ_id: the organ of each row.
            study_index: the map of each row.
        """
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        slot, most = organ_slots(study_index, len(tokens))
        query = tokens.new_zeros(len(tokens), most, tokens.shape[2])
        query[study_index, slot] = self.query_tokens[organ_id].to(tokens.dtype)
        unread = torch.zeros(len(tokens), most, tokens.shape[1], dtype=torch.bool, device=tokens.device)
        here = inside | ~inside.any(1, keepdim=True)
        unread[study_index, slot] = ~here.repeat(1, len(levels))
        mask = unread.repeat_interleave(self.attention.num_heads, dim=0)
        found, _ = self.attention(query, tokens, tokens, attn_mask=mask, need_weights=False)
        return F.normalize(self._projected(found[study_index, slot], organ_id), dim=-1)

    def _projected(self, x: Float[Tensor, "m c"], organ_id: Int[Tensor, " m"]) -> Float[Tensor, "m e"]:
        """Each row by its organ's layer: one product for each organ that is there, on as many rows as the most have."""
        present, which = organ_id.unique(return_inverse=True)
        slot, most = organ_slots(which, len(present))
        rows = x.new_zeros(len(present), most, x.shape[1])
        rows[which, slot] = x
        found = torch.baddbmm(self.bias[present][:, None].to(x.dtype), rows, self.weight[present].mT.to(x.dtype))
        return found[which, slot]

    @torch.no_grad()
    def load_released(self, state: State, names: Sequence[str], source: str) -> tuple[str, ...]:
        """Fill the attention, and queries and projections of the organs that were released.

        Args:
            state: all tensors of the released file.
            names: the dictionary's names of the organs, in the order of their ids.
            source: the file, for messages.

        Returns:
            The organs that were filled; others keep what they have.

        Raises:
            ModelError: code ``weights``: something is missing or of another shape, or none of the organs is known here.
        """
        state = {name.removeprefix("model.").removeprefix("module."): value for name, value in state.items()}
        shared = [f"attention.{name}" for name in self.attention.state_dict()]
        layers = [f"vision_projs.{row}.{part}" for row in range(len(RELEASED_ORGANS)) for part in ("weight", "bias")]
        wanted = {
            **{name: tuple(self.get_parameter(name).shape) for name in shared},
            **{name: tuple((self.weight if name.endswith("weight") else self.bias).shape[1:]) for name in layers},
            "query_tokens": (len(RELEASED_ORGANS), self.query_tokens.shape[1]),
        }
        wrong = [name for name, shape in wanted.items() if name not in state or tuple(state[name].shape) != shape]
        if wrong:
            raise ModelError(
                f"{source} holds no organ attention of this size; missing or of another shape: {', '.join(wrong[:6])}.",
                code="weights",
                fix="Name fVLM's released file, and set model.embedding_dim to the width of its projections (256).",
            )
        filled = tuple(name for name in RELEASED_ORGANS if name in names)
        if not filled:
            known = ", ".join(RELEASED_ORGANS)
            raise ModelError(f"{source} has queries of {known}, none of which the model reads.", code="weights")
        for name in shared:
            self.get_parameter(name).copy_(state[name])
        for name in filled:
            row, mine = RELEASED_ORGANS.index(name), list(names).index(name)
            self.query_tokens[mine] = state["query_tokens"][row]
            self.weight[mine] = state[f"vision_projs.{row}.weight"]
            self.bias[mine] = state[f"vision_projs.{row}.bias"]
        return filled


def organ_attention(encoder: Encoder, levels: Sequence[int], organs: int, embedding_dim: int) -> OrganAttention:
    """The organ attention over some levels of an encoder.

    Raises:
        ModelError: code ``model_settings``: the levels are not of one grid and width.
    """
    kinds = {(encoder.level_channels[level], encoder.strides[level]) for level in levels}
    if len(kinds) > 1:
        raise ModelError(
            f"model.regions: organ_attention reads levels of one width and stride, not {sorted(kinds)}.",
            code="model_settings",
            fix="Set model.regions.levels=[-1], or take an encoder of patches (vit, fvlm, hlip).",
        )
    return OrganAttention(next(iter(kinds))[0], organs, embedding_dim)


def load_organ_attention(attention: OrganAttention, source: str, names: Sequence[str]) -> tuple[str, ...]:
    """Fill an organ attention from fVLM's released file; see ``OrganAttention.load_released``."""
    card = encoder_card("fvlm")
    return attention.load_released(read_state(find_weights(source, card.hub, card.files)), names, source)
