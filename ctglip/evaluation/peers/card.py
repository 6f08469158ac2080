"""Cards of peers: what is around a released encoder so that its own texts can be asked of scans.

A card is a file of ``configs/peers/``, or a file of one's own that extends one. The encoder's own card
(``configs/encoders/``) says where weights are and what it wants to see.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ctglip.config import OneOf, RootSettings, Settings, load_settings, shipped_configs
from ctglip.errors import ConfigError
from ctglip.models.encoders import RELEASED
from ctglip.models.encoders.base import EncoderSettings

_FOLDER = "peers/"


class PeerProjection(Settings):
    """A projection into the space that a peer's images and texts share: a linear layer (or a convolution of one voxel),
    or linear layers with GELU between them and a weight-normed one after (SPECTRE's heads).

    Attributes:
        key: what its weights' names begin with; empty where a file holds nothing else.
        file: name of a file of its own beside the weights; none: in the weights.
    """

    key: str = ""
    file: str | None = None


class PeerText(Settings):
    """The text side of a peer.

    Attributes:
        source: folder, or name on the hub, of the config and the tokeniser.
        key: what the names of the text model's weights begin with.
        file: name of a file of its own beside the weights; none: in the weights. What it lacks is taken from
            ``source``.
        words: texts are put in small letters, and words and punctuation taken apart by blanks (Merlin's).
        pooling: the ``first`` token, the ``last``, or ``attention`` whose query is the tokens' mean (COLIPRI's).
        pooler: what the names of the attention's weights begin with.
        heads: of the attention.
        max_length: tokens; what follows is cut off.
        lora_scale: factor of low-rank updates in the file (``lora_A``, ``lora_B``).
        projection: of the pooled vector; none: it is in the common space.
    """

    source: str
    key: str = ""
    file: str | None = None
    words: bool = False
    pooling: Literal["first", "last", "attention"] = "first"
    pooler: str = ""
    heads: int = 12
    max_length: int = Field(default=512, ge=2)
    lora_scale: float = 1.0
    projection: PeerProjection | None = None


class PeerScale(Settings):
    """The factor of cosines before the softmax.

    Attributes:
        key: name of the learned number in the weights; none: ``value`` is the factor.
        form: the number is the factor (``plain``), its logarithm (``log``) or the temperature (``inverse``).
        value: the factor where no key is named.
    """

    key: str | None = None
    form: Literal["plain", "log", "inverse"] = "plain"
    value: float = 1.0


class PeerWords(Settings):
    """Prompts of one finding."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


class PeerPrompts(Settings):
    """In what words a peer is asked.

    Attributes:
        words: of a finding of the protocol, by its name there: before everything else.
        positive, negative: patterns for all other findings: ``{Name}`` is the protocol's name, ``{name}`` the same with
            a small first letter. Empty: the protocol's own prompts, else the dictionary's ensembles.
    """

    words: dict[str, PeerWords] = Field(default_factory=dict)
    positive: str = ""
    negative: str = ""


class PeerOrgans(Settings):
    """A peer that reads organs by their masks, each in a window of its own (fVLM).

    Attributes:
        window: voxels (x, y, z) of a window at least.
        margin: voxels (x, y, z) around all organs that a scan is cut to before.
        multiple: voxels (x, y, z) that a window's sides are filled up to multiples of.
    """

    window: tuple[int, int, int] = (352, 288, 112)
    margin: tuple[int, int, int] = (20, 20, 5)
    multiple: tuple[int, int, int] = (32, 16, 16)


class PeerCard(RootSettings):
    """A peer.

    Attributes:
        title: what it is called.
        encoder: the released encoder, in the size of the weights.
        size: voxels (x, y, z) of a scan that it sees; none: those of the encoder's card.
        image: projection of the encoder's pooled vector; none: it is in the common space.
        organs: organs are read, not whole scans.
        text: its text side.
        scale: of cosines.
        protocol: the public protocol that it is evaluated by, where no other is named.
        prompts: in what words it is asked.
        source: where this was read.
        unconfirmed: what could not be read there.
    """

    kind: Literal["peer"] = "peer"
    title: str
    encoder: Annotated[EncoderSettings, OneOf(RELEASED)]
    size: tuple[int, int, int] | None = None
    image: PeerProjection | None = None
    organs: PeerOrgans | None = None
    text: PeerText
    scale: PeerScale = PeerScale()
    protocol: str
    prompts: PeerPrompts = PeerPrompts()
    source: str
    unconfirmed: tuple[str, ...] = ()

    @field_validator("encoder")
    @classmethod
    def _without_weights(cls, value: EncoderSettings) -> EncoderSettings:
        if value.weights is not None:
            raise ValueError("weights are named where a peer is evaluated (--weights)")
        return value


def peer_names() -> list[str]:
    """The peers that there are cards of."""
    return sorted(name.removeprefix(_FOLDER) for name in shipped_configs() if name.startswith(_FOLDER))


def load_peer(name: str) -> PeerCard:
    """The card of a peer.

    Args:
        name: of a shipped card, or a YAML file.

    Raises:
        ConfigError: code ``peer``: there is none; or a file with faults.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return load_settings(PeerCard, Path(name))
    if name not in peer_names():
        near = difflib.get_close_matches(name.lower().replace("-", "_"), peer_names(), n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(peer_names())
        raise ConfigError(
            f"There is no peer {name!r}.{guess}", code="peer", fix=f"Known: {known}; or name a card (.yaml)."
        )
    return load_settings(PeerCard, f"{_FOLDER}{name}")
