"""ECAMP from stores of radiographs and of scans to a released encoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctglip.config import load_settings
from ctglip.data.cxr import CxrDataSettings
from ctglip.errors import ModelError
from ctglip.evaluation.run import evaluate
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.vit import ViTEncoder
from ctglip.models.release import load_release
from ctglip.objectives.base import total
from ctglip.objectives.ecamp import Ecamp
from ctglip.tasks.embed import embed
from ctglip.training.assembly import assemble, model_parts
from ctglip.training.callbacks import Callbacks, Stopped
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from ctglip.vocabulary.organs import load_organs
from tests.training.conftest import BOTH, CROPS, SCANS, tiny_config
from tests.training.test_cxr import cxr_config
from tests.training.tiny import radiographs_of

VIT = {"name": "vit", "patch": 4, "image_size": 16, "dim": 32, "depth": 1, "heads": 4}
PARTS = {
    "image": {"width": 32, "depth": 1, "heads": 4},
    "bert": {"width": 32, "layers": 1, "heads": 4, "hidden": 32, "dropout": 0.1},
    "pieces": {"vocabulary": 400, "length": 48},
}
CXR = {"data": {"size": 48}, "model": {"encoder": {**VIT, "spatial_dims": 2}},
        "objective": {"name": "ecamp", **PARTS}}  # fmt: skip
MIXED = {
    "name": "mixture",
    "parts": {"organs": {"name": "organ_text"}, "masked": {"name": "ecamp", **PARTS}},
    "weights": {"organs": 1.0, "masked": 0.5},
}


def scan_config(encoder: Path, objective: dict[str, Any], **loop: object) -> PretrainConfig:
    data = {"ecamp": SCANS, "ecamp_organs": CROPS, "mixture": BOTH}[objective["name"]]
    return tiny_config(encoder, {"data": data, "model": {"encoder": VIT}, "objective": objective}, **loop)


def test_cxr_reach_every_term_and_the_release_sees_what_the_encoder_saw(tiny_cxr, word_bert, tmp_path):
    parts = assemble(tiny_cxr[0], tmp_path / "run", cxr_config(word_bert, CXR), "cpu")
    assert parts.release.cxr is not None
    assert parts.release.cxr["size"] == 24
    assert not parts.release.aligned
    batch = parts.batch(3)
    losses, report = parts.objective(batch)
    assert losses.keys() == {"image", "sharp", "words"}
    assert report["words_hidden"] > 3
    total(losses).backward()
    assert isinstance(parts.objective, Ecamp)
    assert parts.objective.encoder is parts.release.model.encoder
    assert (tmp_path / "run" / "wordpiece" / "tokenizer.json").is_file()
    assert list((tmp_path / "run" / "entities").glob("*.json"))
    again = assemble(tiny_cxr[0], tmp_path / "other", cxr_config(word_bert, CXR), "cpu").batch(3)
    assert torch.equal(batch.input_ids, again.input_ids)
    assert torch.equal(batch.visible_patches, again.visible_patches)


@pytest.mark.parametrize(("objective", "crops", "scans"), [
    ({"name": "ecamp", **PARTS}, 16, 8),
    ({"name": "ecamp_organs", **PARTS}, 8, None),
    (MIXED, 16, 8),
])  # fmt: skip
def test_scans_and_organs_reach_every_term(tiny, word_bert, tmp_path, objective, crops, scans):
    parts = assemble(tiny[0], tmp_path / "run", scan_config(word_bert, objective), "cpu")
    release = parts.release
    assert release.crops["grid"] == [crops] * 3 or objective["name"] == "ecamp"
    assert (release.scans["grid"] if release.scans else None) == ([scans] * 3 if scans else None)
    losses, _ = parts.objective(parts.batch(0))
    assert {name.split("/")[-1] for name in losses} >= {"image", "sharp", "words"}
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    total(losses).backward()
    assert release.aligned == ("parts" in objective)


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_goes_on_as_if_it_had_not_stopped_and_its_encoder_is_released(tiny_cxr, word_bert, tmp_path):
    config = cxr_config(word_bert, CXR, steps=6)
    whole = pretrain(tiny_cxr[0].path, tmp_path / "whole", config)
    seen: list[int] = []
    callbacks = Callbacks(progress=lambda done, of: seen.append(done), stop=lambda: len(seen) == 3)
    with pytest.raises(Stopped):
        pretrain(tiny_cxr[0].path, tmp_path / "parted", config, callbacks=callbacks)
    parted = pretrain(tiny_cxr[0].path, tmp_path / "parted", config, resume=True)
    first, second = load_release(whole), load_release(parted)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert not first.aligned
    assert first.provenance["validation"] == "none: images and texts are not aligned"
    lines = read_metrics(tmp_path / "whole")
    assert {"loss_image", "loss_sharp", "loss_words", "word_accuracy"} <= lines[-1].keys()
    held = radiographs_of(tiny_cxr[0], "test", CxrDataSettings.model_validate(first.cxr), training=False)
    images = torch.from_numpy(np.stack([held.sampled([row], 0)[0].image for row in range(len(held))]))
    assert images.shape[2:] == (24, 24)
    assert isinstance(first.model.encoder, ViTEncoder)
    assert torch.isfinite(first.model.image_features(images)).all()
    table = embed(tmp_path / "whole", tiny_cxr[0].path, tmp_path / "table")
    assert (table.space, table.dim) == ("features", 32)
    with pytest.raises(ModelError, match="asked in words"):
        evaluate(tmp_path / "whole", tiny_cxr[0].path, tmp_path / "answers")


@pytest.mark.parametrize(("name", "radiographs"), [
    ("cxr/ecamp", True), ("small/cxr_ecamp", True), ("pretrain/ecamp_ct", False), ("small/ecamp_ct", False),
    ("pretrain/ecamp_organs", False), ("small/ecamp_organs", False),
    ("pretrain/ecamp_mixture", False), ("small/ecamp_mixture", False),
])  # fmt: skip
def test_recipes_fit_together(name: str, radiographs: bool):
    config = load_settings(PretrainConfig, name)
    settings, inputs = model_parts(config, 384, load_organs(), ())
    with torch.device("meta"):
        encoder = build_encoder(settings.encoder, inputs.in_channels)
    step = 2 * encoder.strides[-1][0]
    images = config.whole_images()
    grid = config.data.crops.grid if images is None else (images.size,) if radiographs else images.input.grid
    assert all(side % step == 0 for side in grid)
    assert settings.encoder.image_size % encoder.strides[-1][0] == 0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_the_twin_of_cxr_trains(tiny_cxr, word_bert, tmp_path):
    steps = ["loop.steps=2", "loop.log_every=1", "loop.threads=1", "data.batch=6", f"text.name={word_bert}"]
    config = load_settings(PretrainConfig, "small/cxr_ecamp", [*steps, "text.max_length=60"])
    release = load_release(pretrain(tiny_cxr[0].path, tmp_path / "run", config))
    assert all(torch.isfinite(value).all() for value in release.model.state_dict().values())
    assert math.isfinite(read_metrics(tmp_path / "run")[0]["loss"])
