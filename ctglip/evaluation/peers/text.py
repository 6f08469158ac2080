"""The text side of a peer: its text model with the peer's own weights, its pooling, its projection."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.errors import ModelError
from ctglip.evaluation.peers.card import PeerText
from ctglip.models.encoders.colipri import AttentionPooler
from ctglip.models.text_weights import load_text_model, quiet, text_state
from ctglip.models.weights.matching import fill, listed
from ctglip.models.weights.reading import State

_WORDS = re.compile(r"\w+|[^\w\s]+")
_LOW_RANK = (".lora_A", ".lora_B")
StateOf = Callable[[str | None], State]
"""All weights of the released file, or of another file beside it, under the project's own names."""


class TextSide(nn.Module):
    """A peer's text side, in evaluation mode.

    Args:
        settings: how it reads.
        source: folder, or name on the hub, of the config and the tokeniser.
        state_of: reads the peer's files.
        title: of the peer, for messages.

    Raises:
        ModelError: code ``text_encoder`` or ``weights``: nothing loadable there, or something is missing or does not
            fit.
    """

    def __init__(self, settings: PeerText, source: str, state_of: StateOf, title: str) -> None:
        super().__init__()
        self.settings = settings
        name = f"{title}'s text model ({source})"
        self.model, self.tokenizer = load_text_model(source, name, lambda: self._weights(state_of, source))
        self.pooler = None
        if settings.pooling == "attention":
            self.pooler = AttentionPooler(self.width, settings.heads)
            fill(self.pooler, below(settings.pooler, state_of(None)), f"{title}'s attention over texts")
        self.eval().requires_grad_(False)
        odd = [key for key, value in self.model.named_parameters() if not torch.isfinite(value).all()]
        if odd:
            raise ModelError(f"{name}: the weights {listed(odd)} hold NaN or infinite numbers.", code="weights")

    @property
    def width(self) -> int:
        """Width of what ``forward`` gives."""
        return int(self.model.config.hidden_size)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    def _weights(self, state_of: StateOf, source: str) -> State:
        """Those of the text model, low-rank updates added; what its file lacks from the source."""
        settings = self.settings
        state = below(settings.key, state_of(settings.file))
        low_rank = {name for name in state if name.endswith(_LOW_RANK)}
        if not low_rank:
            return state
        updated = {name.removesuffix(_LOW_RANK[0]) for name in low_rank if name.endswith(_LOW_RANK[0])}
        merged = {name: value for name, value in state.items() if name not in low_rank}
        if any(f"{name}.weight" not in merged for name in updated):
            merged = text_state(source) | merged
        lacking = [name for name in updated if f"{name}.weight" not in merged or f"{name}.lora_B" not in low_rank]
        if lacking:
            raise ModelError(f"Low-rank updates of {listed(sorted(lacking))} have no weight.", code="text_encoder")
        for name in updated:
            down, up = (state[name + part].float() for part in _LOW_RANK)
            merged[f"{name}.weight"] = merged[f"{name}.weight"].float() + settings.lora_scale * (up @ down)
        return merged

    @torch.inference_mode()
    def forward(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """One vector for each text, as the text model pools it. Texts are read one by one, so that none is padded."""
        with quiet():
            return torch.stack([self._pooled(text) for text in texts])

    def _pooled(self, text: str) -> Float[Tensor, " d"]:
        settings, device = self.settings, next(self.model.parameters()).device
        if settings.words:
            text = " ".join(_WORDS.findall(text.lower()))
        found: Any = self.tokenizer(text, truncation=True, max_length=settings.max_length, return_tensors="pt")
        ids = found["input_ids"].to(device)
        hidden = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        if self.pooler is not None:
            return self.pooler(hidden)[0]
        return hidden[0, -1 if settings.pooling == "last" else 0]


class Projection(nn.Module):
    """A projection as its weights have it: one linear layer, or several and a weight-normed one.

    Args:
        state: its weights alone.
        width: of what it projects.
        where: what it is called in messages.

    Raises:
        ModelError: code ``weights``: no such projection, or one of other vectors.
    """

    def __init__(self, state: State, width: int, where: str) -> None:
        super().__init__()
        layers = sorted({int(name.split(".")[1]) for name in state if re.match(r"layers\.\d+\.", name)})
        parts = [(f"layers.{number}.weight", f"layers.{number}.bias") for number in layers] or [("weight", "bias")]
        lacking = [name for name, _ in parts if name not in state]
        if layers:
            lacking += [name for name in ("last_layer.weight_g", "last_layer.weight_v") if name not in state]
        if lacking:
            raise ModelError(f"{where} is missing: there is no {listed(lacking)}.", code="weights", fix=_WHOLE)
        self.layers = nn.ParameterList()
        self.biases: list[Tensor | None] = []
        for weight, bias in parts:
            self._add(state[weight].float().flatten(1), state.get(bias))
        if layers:
            direction = state["last_layer.weight_v"].float()
            self._add(state["last_layer.weight_g"].float() * F.normalize(direction, dim=1), None)
        sides = [width, *(layer.shape[0] for layer in self.layers)]
        if any(layer.dim() != 2 or layer.shape[1] != side for layer, side in zip(self.layers, sides, strict=False)):
            shapes = ", ".join(str(tuple(layer.shape)) for layer in self.layers)
            raise ModelError(f"{where} is of shape {shapes}, for vectors of {width}.", code="weights", fix=_WHOLE)
        if not all(torch.isfinite(layer).all() for layer in self.layers):
            raise ModelError(f"{where} holds NaN or infinite numbers.", code="weights")

    def _add(self, weight: Tensor, bias: Tensor | None) -> None:
        self.layers.append(nn.Parameter(weight, requires_grad=False))
        self.biases.append(None if bias is None else bias.float())

    @property
    def width(self) -> int:
        """Width of what it gives."""
        return self.layers[-1].shape[0]

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Projected vectors."""
        hidden = len(self.layers) - 2  # the last two have nothing between them
        for number, (weight, bias) in enumerate(zip(self.layers, self.biases, strict=True)):
            x = F.linear(x, weight, None if bias is None else bias.to(x.device))
            x = F.gelu(x) if number < hidden else x
        return x


_WHOLE = "Name the released file of the whole model, image and text side."


def below(key: str, state: State) -> State:
    """The weights whose names begin with a key, without it."""
    return {name.removeprefix(key): value for name, value in state.items() if name.startswith(key)}


def local_source(source: str) -> str:
    """The folder of a text model's config and tokeniser: itself, or the hub's copy on this machine. Nothing is fetched.

    Raises:
        ModelError: code ``text_encoder``: there is none.
    """
    if Path(source).is_dir():
        return source
    try:
        copy = try_to_load_from_cache(source, "config.json")
    except ValueError:  # no name that a hub could have
        copy = None
    if isinstance(copy, str):
        return str(Path(copy).parent)
    raise ModelError(
        f"{source} is no folder, and no copy of a model of that name is on this machine.",
        code="text_encoder",
        fix=f"Fetch it where there is a network: hf download {source}; or name a folder with its config and tokeniser "
        "(--text FOLDER).",
    )


def file_beside(path: Path, name: str) -> Path:
    """Another file of a release.

    Raises:
        ModelError: code ``weights``: it is not there.
    """
    found = path.with_name(name)
    if not found.is_file():
        raise ModelError(f"There is no {name} beside {path}.", code="weights", fix="Copy it there.")
    return found
