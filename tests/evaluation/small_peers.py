"""Peers at sizes that tests can afford: cards of their own, released files of made-up weights, folders of text models,
and stores that were made for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from transformers import BertConfig, BertModel, LongformerConfig, LongformerModel, Qwen3Config, Qwen3Model

from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.encoder_cards import encoder_card
from ctglip.models.cxr_bert import CXRBertConfig
from ctglip.models.encoders import ENCODERS, build_encoder
from ctglip.models.encoders.released import ReleasedEncoder
from ctglip.reports.parser import ReportParser
from ctglip.store.format import StoreInfo
from ctglip.store.splits import assign_splits
from ctglip.store.study import StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import LabelMap, Scan
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.models.released import SIZES, float_shapes, made_up, made_up_state, under
from tests.models.test_text_weights import tokenizer, write

ORGANS = load_organs()
TEXT = {"vocab_size": 12, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
PEERS = ("merlin", "ct_clip", "colipri", "spectre", "hlip", "fvlm")


@dataclass(frozen=True)
class Small:
    """What a small peer is made of.

    Attributes:
        encoder: sizes of its encoder.
        size: voxels (x, y, z) that it sees.
        changes: further changes of its card.
        text: the kind of its text model; root: of the encoder's weights; heads: shapes of what is beside them.
        outer: the dictionary that its file lies in.
    """

    encoder: dict[str, Any]
    size: tuple[int, int, int]
    changes: dict[str, Any]
    text: str
    root: str
    heads: dict[str, tuple[int, ...]]
    outer: str | None = None


SMALL = {
    "merlin": Small(
        SIZES["merlin"], (64, 32, 32), {}, "longformer", "encode_image.i3_resnet.",
        {"encode_image.i3_resnet.contrastive_head.weight": (16, 128, 1, 1, 1),
         "encode_image.i3_resnet.contrastive_head.bias": (16,),
         "encode_image.i3_resnet.classifier.weight": (7, 128, 1, 1, 1), "encode_image.i3_resnet.classifier.bias": (7,),
         "encode_text.linear_layer.weight": (16, 24), "encode_text.linear_layer.bias": (16,), "logit_scale": ()},
    ),
    "ct_clip": Small(
        SIZES["ct_clip"], (40, 40, 15), {}, "cxr_bert", "",
        {"to_text_latent.weight": (24, 24), "to_text_latent_extra.weight": (24, 24),
         "to_visual_latent_extra.weight": (24, 384), "temperature": ()},
    ),
    "hlip": Small(
        SIZES["hlip"] | {"embedding_dim": 16, "projected": True}, (48, 48, 16), {}, "cxr_bert", "visual.",
        {"text.proj.weight": (16, 24), "logit_scale": ()}, "state_dict",
    ),
    "fvlm": Small(
        SIZES["fvlm"] | {"image_size": (32, 256, 352)}, (96, 64, 32),
        {"organs": {"window": [64, 48, 32], "margin": [4, 4, 2]}}, "cxr_bert", "visual_encoder.",
        {"text_proj.weight": (8, 24), "text_proj.bias": (8,), "temp": (), "query_tokens": (4, 16),
         "attention.in_proj_weight": (48, 16), "attention.in_proj_bias": (48,), "attention.out_proj.weight": (16, 16),
         "attention.out_proj.bias": (16,), "text_encoder.cls.predictions.bias": (12,),
         **{f"vision_projs.{row}.weight": (8, 16) for row in range(4)},
         **{f"vision_projs.{row}.bias": (8,) for row in range(4)}}, "model",
    ),
    "colipri": Small(
        SIZES["colipri"] | {"embedding": 24}, (12, 8, 8), {"text": {"heads": 2}}, "cxr_bert", "image_encoder.",
        {"text_encoder.pooler.attn.in_proj_weight": (72, 24), "text_encoder.pooler.attn.in_proj_bias": (72,),
         "text_encoder.pooler.attn.out_proj.weight": (24, 24), "text_encoder.pooler.attn.out_proj.bias": (24,),
         "softmax_temperature": ()},
    ),
    "spectre": Small(SIZES["spectre"] | {"combine": True}, (16, 8, 8), {}, "qwen3", "", {}),
}  # fmt: skip
_HEAD = {"layers.0": (32, None), "layers.2": (32, 32), "layers.4": (12, 32)}
"""SPECTRE's projections at a small size; None: the width of what is projected."""


def card_of(name: str, folder: Path) -> Path:
    """A card of one's own: the shipped one with small sizes."""
    small = SMALL[name]
    encoder = {key: list(value) if isinstance(value, tuple) else value for key, value in small.encoder.items()}
    tree = {"extends": f"peers/{name}", "size": list(small.size), "encoder": encoder, **small.changes}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def text_folder(name: str, folder: Path) -> Path:
    """Config and tokeniser of a peer's text model, without weights (of SPECTRE's with them)."""
    kind = SMALL[name].text
    folder.mkdir(parents=True, exist_ok=True)
    config = text_config(kind)
    about = config.to_dict() | {"model_type": config.model_type}
    (folder / "config.json").write_text(json.dumps(about))
    if kind == "cxr_bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "present", "not", "lung", "is", "the", "no", "nodule"]
        (folder / "vocab.txt").write_text("\n".join(words))
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 512}))
        return folder
    tokenizer(kind).save_pretrained(folder)
    if kind == "qwen3":
        torch.save(made_up_state(float_shapes(Qwen3Model(config).state_dict())), folder / "pytorch_model.bin")
    return folder


def text_config(kind: str) -> Any:
    """The config of a small text model."""
    if kind == "longformer":
        return LongformerConfig(**TEXT, max_position_embeddings=66, pad_token_id=0, attention_window=[4, 4])
    if kind == "qwen3":
        return Qwen3Config(**TEXT, num_key_value_heads=1, head_dim=8, max_position_embeddings=64)
    return CXRBertConfig(**TEXT, max_position_embeddings=64, projection_size=8)


def text_weights(name: str) -> dict[str, Tensor]:
    """Made-up weights of a peer's text model, under its own names."""
    kind = SMALL[name].text
    config = text_config(kind)
    if kind == "longformer":
        return made_up_state(float_shapes(LongformerModel(config).state_dict()))
    assert isinstance(config, BertConfig)
    return made_up_state(float_shapes(BertModel(config).state_dict()))


_KEYS = {"merlin": "encode_text.text_encoder.", "ct_clip": "text_transformer.", "hlip": "text.transformer.",
         "fvlm": "text_encoder.", "colipri": "text_encoder.backbone."}  # fmt: skip


def released_state(name: str) -> dict[str, Tensor]:
    """Made-up weights of a whole peer in the released scheme of names."""
    small = SMALL[name]
    state = under(small.root, made_up_state(float_shapes(encoder_of(name).network.state_dict())))
    if name == "spectre":
        return state
    state |= under(_KEYS[name], text_weights(name))
    heads = {key: made_up(key, shape) for key, shape in small.heads.items() if shape}
    numbers = {key: torch.tensor(0.5) for key, shape in small.heads.items() if not shape}
    return state | heads | numbers


def encoder_of(name: str) -> ReleasedEncoder:
    """A peer's encoder at the small size."""
    settings = ENCODERS[name].Settings.model_validate({"name": name, **SMALL[name].encoder})
    encoder = build_encoder(settings, 1)
    assert isinstance(encoder, ReleasedEncoder)
    return encoder


def released_file(name: str, folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    """A file (of SPECTRE: the file and those beside it) as it was released."""
    folder.mkdir(parents=True, exist_ok=True)
    state = released_state(name) if state is None else state
    outer = SMALL[name].outer
    path = folder / encoder_card(name).files[0]
    write(path, state if outer is None else {outer: state, "epoch": 3})
    if name != "spectre":
        return path
    combiner = encoder_of(name).combiner
    assert combiner is not None
    combiner_state = made_up_state(float_shapes(combiner.state_dict()))
    torch.save(combiner_state, folder / "spectre_combiner_feature_vit_large.pt")
    for file, width in (("spectre_image_projection.pt", 48), ("spectre_text_projection.pt", 24)):
        torch.save(siglip_head(width), folder / file)
    torch.save(low_rank(), folder / "spectre_qwen3_embedding_0.6B_lora.pt")
    return path


def siglip_head(width: int) -> dict[str, Tensor]:
    """SPECTRE's projection of vectors of some width, under its own names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (out, before) in _HEAD.items():
        shapes |= {f"{layer}.weight": (out, before or width), f"{layer}.bias": (out,)}
    return made_up_state(shapes | {"last_layer.weight_g": (16, 1), "last_layer.weight_v": (16, 12)})


def low_rank() -> dict[str, Tensor]:
    """Updates of SPECTRE's text model alone, as loralib names them."""
    config = text_config("qwen3")
    sizes = {"q_proj": (16, 24), "k_proj": (8, 24), "v_proj": (8, 24), "o_proj": (24, 16)}
    shapes = {}
    for layer in range(config.num_hidden_layers):
        for part, (out, width) in sizes.items():
            key = f"layers.{layer}.self_attn.{part}"
            shapes |= {f"{key}.lora_A": (2, width), f"{key}.lora_B": (out, 2)}
    return made_up_state(shapes)


def peer_store(
    path: Path, name: str, scans: Sequence[tuple[str, str, np.ndarray, np.ndarray | None]], split: str = "test"
) -> Store:
    """A store as ``preprocess --for NAME`` makes it.

    Args:
        scans: study, patient, HU ``[x, y, z]`` at the peer's spacing, and organ labels.
        split: of all patients.
    """
    recipe = CtRecipe.model_validate(encoder_card(name).preprocess()["ct"])
    dictionaries = {"organs": ORGANS.hash, "abnormalities": load_abnormalities().hash}
    info = StoreInfo(recipe=recipe.stored(), recipe_hash=recipe.hash, dictionaries=dictionaries,
                     labels=ORGANS.label_names())  # fmt: skip
    store = create_store(path, info)
    affine, parser = np.diag([*recipe.spacing_mm, 1.0]), ReportParser()
    for study, patient, hu, labels in scans:
        masks = None if labels is None else LabelMap(labels, affine)
        standardized = standardize(Scan(hu, affine), masks, recipe, ORGANS)
        findings = parser.parse("FINDINGS: The liver is unremarkable.")
        write_study(path, StudyRecord(study, patient, standardized, study, recipe.hash, findings=findings,
                                      row={"split": split}))  # fmt: skip
    compact(store)
    assign_splits(store)
    return Store.open(path)
