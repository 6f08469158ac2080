"""Text models from Hugging Face folders: their configs, tokenisers and weights, read without running what comes with
them. Weights may be safetensors or PyTorch files, of an encoder or of a decoder, with or without heads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ctglip.errors import ModelError
from ctglip.files import one_line
from ctglip.models.weights.matching import listed
from ctglip.models.weights.reading import State, read_state

_LOG = logging.getLogger(__name__)
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_COUNTERS = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", "attn.bias")
"""Buffers that older versions saved and that are computed anew."""
_PADDED_FIRST = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")
"""Models whose first position is the one after the padding's."""


_SMALL = 10_000_000
"""Numbers of a model that may be built whatever its weights hold: its embeddings may be new."""


def load_text_model(source: str, name: str, state: Callable[[], State] | None = None) -> tuple[nn.Module, Any]:
    """A text model and its tokeniser, on the CPU.

    Heads for words and classes are left out and named in the log; a pooler, which nothing reads, and CXR-BERT's
    projection are there only where the file has them.

    Args:
        source: a folder, or a name on the hub.
        name: what it is called in messages.
        state: gives its weights in place of those of ``source``; of CXR-BERT without its projection.

    Raises:
        ModelError: code ``text_encoder``: nothing loadable there, a weight of the model is missing or of another shape,
            or the file has more layers than its config says; ``weights``: a file that cannot be read.
    """
    from transformers import BertModel

    from ctglip.models.cxr_bert import CXRBertModel

    try:
        with quiet():
            config, model_class = _architecture(source)
            tokenizer = _tokenizer(source, config)
            if state is not None and issubclass(model_class, CXRBertModel):
                model_class = BertModel
            model = _filled(model_class, config, text_state(source) if state is None else state(), name)
    except ModelError:
        raise
    except Exception as error:  # transformers and tokenizers raise anything
        raise ModelError(
            f"The text encoder {name!r} cannot be loaded: {one_line(error)}.",
            code="text_encoder",
            fix="Name a folder of a Hugging Face model (config.json, tokeniser, safetensors or .bin), or a hub's.",
        ) from error
    tokenizer.padding_side = "right"
    return model, tokenizer


def positions(model: nn.Module) -> int | None:
    """How many tokens a text model has positions for; None for any number."""
    config = model.config
    count = getattr(config, "max_position_embeddings", None)
    if count and config.model_type in _PADDED_FIRST:  # pyright: ignore[reportAttributeAccessIssue]
        count -= (config.pad_token_id or 0) + 1  # pyright: ignore
    return count


def attention_mask(model: nn.Module, mask: Bool[Tensor, "n l"]) -> Int[Tensor, "n l"]:
    """What a model is told of its tokens: 1, 0 for padding; 2 for Longformer's first, which sees and is seen by all."""
    found, config = mask.long(), model.config
    if getattr(config, "model_type", "") == "longformer":
        found[:, 0] = 2
    return found


def _file(source: str, name: str) -> Path | None:
    """A file of a folder or of the hub's repository; None where it has none of that name."""
    from transformers.utils.hub import cached_file

    if not Path(source).is_dir() and source.count("/") > 1:
        return None  # a path, no name on the hub
    found = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else Path(found)


def _architecture(source: str) -> tuple[Any, Any]:
    """The config, and the class that transformers has for it."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    from ctglip.models.cxr_bert import CXRBertConfig, CXRBertModel

    path = _file(source, "config.json")
    if path is None and not Path(source).is_dir():
        raise OSError(
            f"{source} is no folder, and no copy of a model of that name is on this machine; fetch it where there is a "
            f"network: hf download {source}"
        )
    if path is None:
        raise OSError(f"{source} has no config.json.")
    about = json.loads(path.read_text(encoding="utf-8"))
    if about.get("model_type") == CXRBertConfig.model_type or "CXRBertModel" in (about.get("architectures") or ()):
        about.pop("auto_map", None)
        return CXRBertConfig.from_dict(about), CXRBertModel
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    found = MODEL_MAPPING[type(config)]
    return config, found[0] if isinstance(found, (tuple, list)) else found


def _tokenizer(source: str, config: Any) -> Any:
    """Its tokeniser; CXR-BERT's is BERT's own class with the files' vocabulary."""
    from transformers import AutoTokenizer, BertTokenizer

    from ctglip.models.cxr_bert import CXRBertConfig

    if isinstance(config, CXRBertConfig):
        return BertTokenizer.from_pretrained(source)
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def text_state(source: str) -> State:
    """All weights of a folder or of the hub's copy, of one file or of several.

    Raises:
        OSError: there are none.
    """
    for name in _FILES:
        path = _file(source, name)
        if path is None:
            continue
        if path.suffix != ".json":
            return read_state(path)
        parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [(part, _file(source, part)) for part in parts]
        lacking = [part for part, file in files if file is None]
        if lacking:
            raise OSError(f"{source} lacks {listed(lacking)}, which its {name} names.")
        return {key: value for _, file in files if file is not None for key, value in read_state(file).items()}
    raise OSError(f"{source} has no weights ({_FILES[0]} or {_FILES[2]}).")


def _filled(model_class: Any, config: Any, state: State, name: str) -> nn.Module:
    """The model with the file's weights, all of them."""
    _check_size(model_class, config, state, name)
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )  # fmt: skip
    missing, unexpected = set(report["missing_keys"]), {*report["unexpected_keys"]}
    misfits = {entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]}
    for part in ("pooler", "cls_projection_head"):
        of_part = {key for key, _ in model.named_parameters() if key.startswith(f"{part}.")}
        if of_part and of_part <= missing:
            setattr(model, part, None)
            missing -= of_part
    parts = {key for key, _ in model.named_children()}
    prefix = f"{model.base_model_prefix}."
    inside = {key for key in unexpected if key.removeprefix(prefix).partition(".")[0] in parts}
    lists = (("missing", missing), ("of another shape", misfits), ("without a place", _weights(inside)))
    sentences = [f"{len(keys)} {what}: {listed(sorted(keys))}" for what, keys in lists if keys]
    if sentences:
        raise ModelError(
            f"The weights of the text encoder {name!r} do not fit its config: {'; '.join(sentences)}.",
            code="text_encoder",
            fix="Copy config.json and the weights of one and the same model.",
        )
    if heads := _weights(unexpected - inside):
        _LOG.info("%s: heads that are left out: %s.", name, listed(sorted(heads)))
    return model


def _check_size(model_class: Any, config: Any, state: State, name: str) -> None:
    """Refuse a config whose model is far larger than its weights, before room is made for it."""
    held, layers = sum(value.numel() for value in state.values()), getattr(config, "num_hidden_layers", None) or 0
    made = 0
    if layers <= len(state):
        with suppress(NotImplementedError, AttributeError), torch.device("meta"):
            made = sum(parameter.numel() for parameter in model_class(config).parameters())
    if layers > len(state) or made > 2 * held + _SMALL:
        raise ModelError(
            f"The config of the text encoder {name!r} is of a far larger model than its weights ({held} numbers).",
            code="text_encoder",
            fix="Copy config.json and the weights of one and the same model.",
        )


def _weights(keys: set[str]) -> set[str]:
    return {key for key in keys if not key.endswith(_COUNTERS)}


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and tables."""
    from transformers.utils import logging as transformers_logging

    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
