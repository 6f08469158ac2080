"""Model folders of format version 2 are read: settings and weights are those of this version under other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctglip.errors import ModelError
from ctglip.models.legacy import current_model, current_name, without_former_inputs
from ctglip.models.region_readers import Regions
from ctglip.models.release import Release, load_release, save_release
from ctglip.models.text import TextEncoderSettings, load_text_encoder
from ctglip.resources import resource
from ctglip.vocabulary.organs import load_organs
from tests.models.building import dual_encoder

ORGANS = ("liver", "spleen")
LABELS = tuple(tuple(sorted(load_organs().roi_labels(name))) for name in ORGANS)
ENCODER = {"name": "cnn", "spatial_dims": 2, "widths": (8, 16), "blocks": (0, 1)}
TAGS = {"layers": 1, "heads": 2, "hidden": 16, "dropout": 0.0}
RESAMPLER = {"queries": 3, "layers": 1, "heads": 2, "dim": 16, "levels": (-1,), "dropout": 0.0}
SHAPE = {"in_channels": 2, "dim": 16, "embedding_dim": 8, "text_dim": 16, "head_norm": "layer"}
OLD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "crops": (
        {"grounding": "crop", "pooling": "mean_peak", "context": True, "histogram": 0, "pool_levels": (-1,)},
        {"regions": {"name": "crop", "pooling": "mean_peak", "context": True, "levels": (-1,)}},
    ),
    "masks": (
        {"grounding": "pool", "pooling": "attention", "organs": 2, "use_size": False},
        {"regions": {"name": "mask", "pooling": "attention"}, "organ_labels": LABELS, "sizes": False},
    ),
    "tokens of boxes": (
        {"grounding": "box", "project": "token", "pool_levels": (-1,), "anatomy": False, "whole_image": True},
        {"regions": {"name": "box", "pooling": "tokens", "levels": (-1,)}, "anatomy": False,
         "image": {"name": "pooled"}},
    ),
    "queries": (
        {"grounding": "query", "organs": 2, "query_layers": 1, "tags": {"names": ("edema",), **TAGS}},
        {"regions": {"name": "query", "layers": 1}, "tags": TAGS, "tag_names": ("edema",)},
    ),
    "whole images": (
        {"grounding": "none", "whole_image": True, "image_project": "token", "image_levels": (-2, -1),
         "image_pooling": "peak", "observations": RESAMPLER, "anatomy": False},
        {"image": {"name": "tokens", "levels": (-2, -1), "pooling": "peak"}, "resampler": RESAMPLER, "anatomy": False},
    ),
}  # fmt: skip
RENAMED = (
    ("region_reader.project.norm.", "organ_norm."), ("region_reader.project.linear.", "organ."),
    ("region_reader.project.size.", "size."), ("region_reader.", ""), ("image_head.head.layers.", "image_head.layers."),
    ("resampler.token_readers.", "observer.read."), ("resampler.", "observer."),
    (".self_attn.", ".among."), (".cross_attn.", ".across."), (".ffn.", ".feed."),
)  # fmt: skip


def old_name(name: str, kind: str) -> str:
    if kind.startswith("tokens"):
        name = name.replace("region_reader.head.", "diagnosis_head.")
    for new, old in RENAMED:
        if new != "image_head.head.layers." or kind != "whole images":
            name = name.replace(new, old)
    return name


def answers(release: Release, kind: str) -> torch.Tensor:
    torch.manual_seed(1)
    images = torch.randn(2, 2, 16, 16)
    model = release.model
    with torch.no_grad():
        if kind == "whole images":
            seen = model.resampler.visual(model.resampler(model.encode_image(images)).tokens).mean(1)
            return torch.cat([model.image_head(model.image_features(images)), seen])
        labels = torch.full((2, 16, 16), LABELS[0][0])
        labels[:, :8] = LABELS[1][0]
        regions = Regions(
            size=torch.randn(2, 4), organ_id=torch.tensor([1, 0]), study_index=torch.tensor([0, 1]),
            mask=torch.rand(2, 1, 16, 16), labels=labels, boxes=torch.tensor([[0.0, 9, 2, 16]] * 2),
        )  # fmt: skip
        found = model(images, regions)
        parts = [model.anatomy(found), model.diagnosis(found)]
        parts += [model.tags(model.encode_image(images).tokens).expand(-1, 8)] if model.tag_decoder else []
        return torch.cat(parts)


@pytest.mark.parametrize("kind", OLD)
def test_an_older_model_answers_as_before(kind: str, tiny_bert: Path, tmp_path: Path) -> None:
    old, new = OLD[kind]
    torch.manual_seed(0)
    encoder = load_text_encoder(TextEncoderSettings(name=str(tiny_bert), max_length=16))
    release = Release(
        model=dual_encoder(encoder=ENCODER, organs=2, **SHAPE, **new).eval(), organs=ORGANS, recipe={}, crops={},
        organ_dictionary=resource("organ_dictionary"), abnormality_dictionary=resource("abnormality_dictionary"),
        text_settings=encoder.settings, text_hash=encoder.hash, text_encoder=encoder,
    )  # fmt: skip
    folder = save_release(tmp_path / "model", release)
    config = json.loads((folder / "config.json").read_text())
    encoder_tree = config["model"]["encoder"]
    del config["inputs"]
    config |= {"format_version": 2, "model": {"encoder": encoder_tree, **SHAPE, **old}}
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    before = {old_name(name, kind): value for name, value in state.items()}
    assert before.keys() != state.keys()
    save_file(before, folder / "model.safetensors")
    again = load_release(folder)
    torch.testing.assert_close(answers(again, kind), answers(release, kind))
    assert again.model.inputs.model_copy(update={"organs": 2}) == release.model.inputs
    rewritten = load_release(save_release(tmp_path / "again", again))
    torch.testing.assert_close(answers(rewritten, kind), answers(release, kind))


def test_crops_pooled_by_attention_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="pools crops by attention"):
        current_model({"encoder": ENCODER, "grounding": "crop", "pooling": "attention"}, {}, 2, ())


NOW = {"crops": {"details": ["highest"], "grid": [8, 8, 8]}, "model": {"dim": 8, "regions": {"name": "crop"}}}


def test_settings_of_inputs_that_are_gone_are_left_out_where_they_were_off() -> None:
    before = {
        "crops": {**NOW["crops"], "thick_mm": 9.0, "dense_hu": -100.0, "round_mm": [9, 36]},
        "model": {"dim": 8, "regions": {"name": "crop", "histogram": 0}},
    }
    assert without_former_inputs(before) == NOW
    assert without_former_inputs(NOW) == NOW
    assert without_former_inputs({"crops": {}, "model": {"regions": None}})["model"] == {"regions": None}


@pytest.mark.parametrize(
    ("crops", "model", "named"),
    [
        ({"details": ["highest", "round"]}, {}, "round"),
        ({"details": ["opened", "closed"]}, {}, "opened, closed"),
        ({}, {"regions": {"name": "crop", "histogram": 32}}, "histogram"),
        ({}, {"grounding": "crop", "histogram": 32}, "histogram"),
    ],
)
def test_models_trained_with_inputs_that_are_gone_are_refused_by_name(
    crops: dict[str, Any], model: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=f"not made any more: {named}") as refused:
        without_former_inputs({"crops": crops, "model": model})
    assert refused.value.code == "old_model"


def test_other_names_stay() -> None:
    for name in ("encoder.stages.1.0.first.weight", "text_head.layers.1.bias", "encoder.encoder.stages.0.weight"):
        assert current_name(name) == name
