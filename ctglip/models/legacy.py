"""Model folders of before, as this version has them: other settings, other names of weights, inputs that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ctglip.errors import ModelError
from ctglip.vocabulary.organs import load_organs

_MODULES = (
    ("queries.", "region_reader.queries."),
    ("decoder.", "region_reader.decoder."),
    ("attention.", "region_reader.attention."),
    ("peaks.", "region_reader.peaks."),
    ("organ_norm.", "region_reader.project.norm."),
    ("organ.", "region_reader.project.linear."),
    ("size.", "region_reader.project.size."),
    ("image_head.layers.", "image_head.head.layers."),
    ("observer.read.", "resampler.token_readers."),
    ("observer.", "resampler."),
)
_PARTS = ((".among.", ".self_attn."), (".across.", ".cross_attn."), (".feed.", ".ffn."))
_DEFAULTS = {
    "grounding": "crop", "pooling": "mean", "context": False, "pool_levels": (-2, -1),
    "box_pooling": "area", "project": "pooled", "organs": 0, "query_layers": 2, "use_size": True, "anatomy": True,
    "whole_image": False, "image_project": "pooled", "image_levels": (-1,), "image_pooling": "mean",
    "observations": None, "tags": None, "head_norm": "layer", "in_channels": 4, "dim": 256, "embedding_dim": 128,
    "text_dim": 384,
}  # fmt: skip
"""Of settings that an older model does not name."""
_FORMER_DETAILS = ("opened", "closed", "round")
_FORMER_CROPS = ("thick_mm", "dense_hu", "round_mm")
_READERS = {"pool": "mask", "box": "box"}


def current_model(
    old: dict[str, Any], state: dict[str, Tensor], organs: int, organ_labels: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Settings of ``DualEncoder``, its ``ModelInputs``, and its weights, from a model of format version 2.

    Args:
        old: the settings as ``config.json`` has them.
        state: the weights.
        organs: number of organs.
        organ_labels: label numbers of each organ.

    Raises:
        ModelError: code ``old_model``: crops that are pooled by attention, which no recipe had.
    """
    old = {**_DEFAULTS, **old}
    settings: dict[str, Any] = {name: old[name] for name in ("encoder", "dim", "embedding_dim", "head_norm")}
    settings["regions"], settings["image"] = _regions(old), None
    if old["whole_image"]:
        tokens = {"name": "tokens", "levels": old["image_levels"], "pooling": old["image_pooling"]}
        settings["image"] = tokens if old["image_project"] == "token" else {"name": "pooled"}
    settings["resampler"], tags = old["observations"], old["tags"]
    settings["tags"] = tags and {name: value for name, value in tags.items() if name != "names"}
    inputs = {
        "in_channels": old["in_channels"],
        "text_dim": old["text_dim"],
        "sizes": old["use_size"],
        "anatomy": old["anatomy"],
        "organs": old["organs"] or organs,
        "organ_labels": organ_labels if old["grounding"] == "pool" else (),
        "tags": tags["names"] if tags else (),
    }
    tokens = old["grounding"] != "none" and old["project"] == "token"
    return settings, inputs, {current_name(name, tokens): value for name, value in state.items()}


def without_former_inputs(config: dict[str, Any]) -> dict[str, Any]:
    """A model's ``config.json`` without the settings of inputs that no model has any more.

    Raises:
        ModelError: code ``old_model``: the model was trained with one of them.
    """
    crops, model = config.get("crops") or {}, config["model"]
    regions = model.get("regions") or {}
    used = [name for name in crops.get("details", ()) if name in _FORMER_DETAILS]
    used += ["histogram"] if model.get("histogram") or regions.get("histogram") else []
    if used:
        raise ModelError(
            f"This model was trained with inputs that are not made any more: {', '.join(used)}.",
            code="old_model",
            fix="Train it again with the recipe as it is now, or use the ctglip that wrote it.",
        )
    kept = {name: value for name, value in crops.items() if name not in _FORMER_CROPS}
    named = {"regions": {name: value for name, value in regions.items() if name != "histogram"}} if regions else {}
    model = {name: value for name, value in model.items() if name != "histogram"}
    return config | {"crops": kept, "model": model | named}


def current_cxr(old: dict[str, Any] | None) -> dict[str, Any] | None:
    """How radiographs become inputs, without the settings of batches that older models name beside them."""
    batches = ("batch", "copies", "tags", "threads", "keep_gb")
    return old and {name: value for name, value in old.items() if name not in batches}


def _regions(old: dict[str, Any]) -> dict[str, Any] | None:
    grounding, pooling = old["grounding"], old["pooling"]
    if grounding == "none":
        return None
    if grounding == "query":
        return {"name": "query", "layers": old["query_layers"]}
    if grounding == "crop":
        if pooling == "attention":
            raise ModelError(
                "This model pools crops by attention, which is not read any more.",
                code="old_model",
                fix="Train it again with model.regions.pooling mean or mean_peak.",
            )
        names = ("pooling", "context")
        return {"name": "crop", "levels": old["pool_levels"], **{name: old[name] for name in names}}
    reader = {"name": _READERS[grounding], "levels": old["pool_levels"]}
    reader["pooling"] = "tokens" if old["project"] == "token" else pooling
    return reader | ({"box_pooling": old["box_pooling"]} if grounding == "box" else {})


def current_name(name: str, tokens: bool = False) -> str:
    """The name of a weight, from that of format version 2.

    Args:
        tokens: organs were read token by token, through the head of findings.
    """
    modules = (*_MODULES, ("diagnosis_head.", "region_reader.head.")) if tokens else _MODULES
    for old, new in modules:
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    if name.startswith(("region_reader.", "resampler.", "tag_decoder.")):
        for old, new in _PARTS:
            name = name.replace(old, new)
    return name


def organ_label_numbers(folder: Path, tree: dict[str, Any], organs: Sequence[str]) -> list[list[int]]:
    """The label numbers of each organ, where a model of format version 2 reads label maps."""
    if tree.get("grounding") != "pool":
        return []
    dictionary = load_organs(folder / "organ_dictionary" / "organs.yaml")
    return [sorted(dictionary.roi_labels(name)) for name in organs]
