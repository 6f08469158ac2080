"""A peer as a whole: its encoder, its text side and what is between them, from its released weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ctglip.errors import ConfigError, ModelError
from ctglip.evaluation.peers.card import PeerCard, PeerProjection
from ctglip.evaluation.peers.images import (
    organ_region,
    organ_window,
    peer_input,
    tokens_inside,
    whole_input,
)
from ctglip.evaluation.peers.text import Projection, StateOf, TextSide, below, file_beside, local_source
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.released import ReleasedEncoder
from ctglip.models.organ_attention import RELEASED_ORGANS, OrganAttention, organ_attention
from ctglip.models.weights.reading import State, find_weights, read_state
from ctglip.vocabulary.organs import OrganDictionary

WHOLE = "scan"
"""What a vector of a whole scan stands under, where organs have theirs under their names."""
PeerVectors = Mapping[str, Float[np.ndarray, " e"]]


@dataclass(frozen=True)
class Peer:
    """A peer that answers.

    Attributes:
        card: what is known of it.
        encoder: its image encoder, in evaluation mode.
        text: its text side.
        image_projection, text_projection: into the common space, where it has them.
        attention: reads organs, of peers that do.
        scale: factor of cosines before the softmax.
        size: voxels (x, y, z) that it sees.
    """

    card: PeerCard
    encoder: ReleasedEncoder
    text: TextSide
    image_projection: Projection | None
    text_projection: Projection | None
    attention: OrganAttention | None
    scale: float
    size: tuple[int, int, int]

    @property
    def organs(self) -> tuple[str, ...]:
        """The organs that it reads, by the dictionary's names; none of peers that read whole scans."""
        return RELEASED_ORGANS if self.card.organs is not None else ()

    def to(self, device: str) -> Peer:
        """The same, moved."""
        for part in (self.encoder, self.text, self.image_projection, self.text_projection, self.attention):
            if part is not None:
                part.to(device)
        return self

    def directions(self, sets: Sequence[Sequence[str]]) -> Float[np.ndarray, "s e"]:
        """A unit vector for each set of texts: the mean of their unit vectors, at unit length."""
        texts = list(dict.fromkeys(text for texts in sets for text in texts))
        with torch.inference_mode():
            found = self.text(texts)
            if self.text_projection is not None:
                found = self.text_projection(found)
            vectors = dict(zip(texts, F.normalize(found, dim=-1), strict=True))
            means = torch.stack([torch.stack([vectors[text] for text in texts]).mean(0) for texts in sets])
            return F.normalize(means, dim=-1).cpu().numpy()

    @torch.inference_mode()
    def vectors(self, hu: np.ndarray, labels: np.ndarray | None, organs: OrganDictionary) -> PeerVectors:
        """Unit vectors of a scan: of the whole (``WHOLE``), or of the organs that are there.

        Args:
            hu: int16 ``[x, y, z]`` from a store that was made for the peer.
            labels: organ labels on the same grid, or None.
            organs: what the labels mean.
        """
        if self.card.organs is None:
            return {WHOLE: self._pooled(peer_input(self.encoder, hu, self.size))}
        if labels is None:
            return {}
        masks = torch.from_numpy(np.stack([np.isin(labels, list(organs.labels_of(name))) for name in self.organs]))
        masks = self.encoder.turned_image(masks[None])[0]
        if not masks.any():
            return {}
        image, masks = organ_region(self.encoder, whole_input(self.encoder, hu), masks, self.card.organs, self.size)
        return {
            name: self._organ(image, masks[number], number) for number, name in enumerate(self.organs) if
            masks[number].any()
        }  # fmt: skip

    def _pooled(self, image: Float[Tensor, "1 1 *t"]) -> Float[np.ndarray, " e"]:
        levels, pooled = self.encoder.features(image.to(_device(self.encoder)))
        found = levels[-1].flatten(2).mean(-1) if pooled is None else pooled
        if self.image_projection is not None:
            found = self.image_projection(found)
        return F.normalize(found, dim=-1)[0].float().cpu().numpy()

    def _organ(self, image: Float[Tensor, "1 1 *t"], organ: Bool[Tensor, "*t"], number: int) -> Float[np.ndarray, " e"]:
        assert self.card.organs is not None
        assert self.attention is not None
        image, organ = organ_window(self.encoder, image, organ, self.card.organs)
        device = _device(self.encoder)
        levels, _ = self.encoder.features(image.to(device))
        inside = tokens_inside(organ, levels[-1].shape[2:])[None].to(device)
        row = torch.tensor([0], device=device)
        return self.attention(levels, inside, row + number, row)[0].float().cpu().numpy()


def load_peer_model(card: PeerCard, weights: str, text_source: str | None = None) -> Peer:
    """Build a peer and fill it with its released weights. Nothing is fetched, and nothing in a file is run.

    Args:
        card: what it is.
        weights: its file, a folder with it, or a name on the hub of which there is a copy.
        text_source: folder, or name on the hub, of the text model's config and tokeniser; None: the card's.

    Raises:
        ModelError: code ``weights`` or ``text_encoder``: something is missing, broken, or of another model.
        ConfigError: a size that the encoder's stride does not divide.
    """
    source = local_source(text_source or card.text.source)
    encoder = build_encoder(card.encoder.model_copy(update={"weights": weights}), 1)
    assert isinstance(encoder, ReleasedEncoder)
    size = card.size or encoder.ct_input.size
    try:
        if card.organs is None:
            encoder.check_sides(torch.empty(1, 1, *size, device="meta"))
    except ValueError as error:
        raise ConfigError(f"{card.title}: size: {error}", fix="Set it to multiples of the encoder's stride.") from error
    encoder.load_pretrained()
    encoder.eval().requires_grad_(False)
    state_of = _reader(encoder, weights)
    text = TextSide(card.text, source, state_of, card.title)
    attention = None
    if card.organs is not None:
        state = state_of(None)
        width = state["text_proj.weight"].shape[0] if "text_proj.weight" in state else 1
        levels = range(len(encoder.level_channels))
        attention = organ_attention(encoder, levels, len(RELEASED_ORGANS), width).eval().requires_grad_(False)
        attention.load_released(state, RELEASED_ORGANS, weights)
    peer = Peer(
        card=card,
        encoder=encoder,
        text=text,
        image_projection=_projection(card.image, encoder.pooled_dim, state_of, f"{card.title}'s image projection"),
        text_projection=_projection(card.text.projection, text.width, state_of, f"{card.title}'s text projection"),
        attention=attention,
        scale=_scale(card, state_of(None)),
        size=size,
    )
    _check_widths(peer)
    return peer


def _check_widths(peer: Peer) -> None:
    """Images and texts are in one space."""
    image = peer.encoder.pooled_dim if peer.image_projection is None else peer.image_projection.width
    if peer.attention is not None:
        image = peer.attention.weight.shape[1]
    text = peer.text.width if peer.text_projection is None else peer.text_projection.width
    if image != text:
        raise ModelError(
            f"{peer.card.title}: vectors of images are of {image} numbers, of texts of {text} numbers.",
            code="weights",
            fix="Name weights and a text model (--text) that belong together, and the sizes of these in the card.",
        )


def _device(encoder: ReleasedEncoder) -> torch.device:
    return next(encoder.parameters()).device


def _reader(encoder: ReleasedEncoder, weights: str) -> StateOf:
    """Reads the released file and those beside it, each once."""
    path = find_weights(weights, encoder.card.hub, encoder.released_files)

    @functools.cache
    def state_of(file: str | None) -> State:
        if file is not None:
            return encoder.scheme.unwrapped(read_state(file_beside(path, file)))
        return encoder.scheme.unwrapped(read_state(path))

    return state_of


def _projection(settings: PeerProjection | None, width: int, state_of: StateOf, where: str) -> Projection | None:
    if settings is None:
        return None
    key = f"{settings.key}." if settings.key else ""
    return Projection(below(key, state_of(settings.file)), width, where)


def _scale(card: PeerCard, state: State) -> float:
    """The factor of cosines.

    Raises:
        ModelError: code ``weights``: it is not in the weights, or no number.
    """
    about = card.scale
    if about.key is None:
        return about.value
    found = state.get(about.key)
    if found is None or found.numel() != 1 or not math.isfinite(value := float(found)):
        raise ModelError(
            f"{card.title}'s weights hold no number {about.key!r}.", code="weights", fix="Name its released file."
        )
    factor = {"plain": value, "log": math.exp(value), "inverse": 1 / value if value else math.inf}[about.form]
    if not math.isfinite(factor):
        raise ModelError(f"{card.title}'s {about.key} is {value:g}.", code="weights", fix="Name its released file.")
    return factor
