"""ASG from stores of radiographs and of scans to a released model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ctglip.config import load_settings
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.scans import ScanSettings
from ctglip.evaluation.bootstrap import Question, weighted_auroc
from ctglip.models.encoders import build_encoder
from ctglip.models.release import load_release
from ctglip.objectives.base import total
from ctglip.reports.tags import tag_entries
from ctglip.store.tables import Store
from ctglip.training.assembly import assemble, model_parts
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from ctglip.vocabulary.organs import load_organs
from tests.training.conftest import SCANS, tiny_config
from tests.training.test_cxr import cxr_config
from tests.training.tiny import radiographs_of, write_tiny_radiographs, write_word_bert

TAGS = {"layers": 1, "heads": 2, "hidden": 32, "dropout": 0.0}
ASG = {"model": {"tags": TAGS}, "objective": {"name": "asg"}}
TOKEN = {"regions": {"name": "box", "pooling": "tokens", "levels": [-1]}, "head_norm": "batch"}
ALL = {"image_report", "region_sentence", "recognition", "soft_labels"}


@pytest.mark.parametrize("model", [TOKEN, {"regions": {"name": "query"}}, {"regions": None}])
def test_cxr_reach_every_term(tiny_cxr, word_bert: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    parts = assemble(tiny_cxr[0], tmp_path / "run", cxr_config(word_bert, ASG, {"model": model}), "cpu")
    assert parts.release.model.inputs.tags == tuple(tag_entries("tags"))
    losses, _ = parts.objective(parts.batch(0))
    assert losses.keys() == (ALL if model["regions"] is not None else ALL - {"region_sentence"})
    assert all(loss.item() > 0 for loss in losses.values())
    total(losses).backward()
    assert not [n for n, p in parts.objective.named_parameters() if p.requires_grad and p.grad is None]


def test_texts_are_trained_along_and_tags_stay(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    lora = {"model": TOKEN, "text": {"train": {"name": "lora", "rank": 2}}}
    parts = assemble(tiny_cxr[0], tmp_path / "run", cxr_config(word_bert, ASG, lora), "cpu")
    batch = parts.batch(0)
    assert not batch.pool.is_floating_point()
    tags = parts.release.model.tag_decoder.embeddings.clone()
    optimizer = torch.optim.AdamW([p for p in parts.objective.parameters() if p.requires_grad], lr=1e-2)
    assert parts.release.text_encoder is not None
    before = parts.release.text_encoder.hash
    for _ in range(2):
        optimizer.zero_grad()
        total(parts.objective(batch)[0]).backward()
        optimizer.step()
    assert parts.release.text_encoder.hash != before
    assert torch.equal(parts.release.model.tag_decoder.embeddings, tags)


@pytest.mark.parametrize("reader", ["mask", "box", "query"])
def test_scans_reach_every_term(tiny, word_bert: Path, tmp_path: Path, reader: str) -> None:
    config = tiny_config(word_bert, {"data": SCANS}, ASG, {"model": {"regions": {"name": reader}}})
    parts = assemble(tiny[0], tmp_path / "run", config, "cpu")
    losses, _ = parts.objective(parts.batch(0))
    assert losses.keys() == ALL
    assert losses["region_sentence"].item() > 0
    assert ScanSettings.model_validate(parts.release.scans).grid == (16, 16, 16)


def test_regions_have_no_size(tiny, word_bert: Path, tmp_path: Path) -> None:
    config = tiny_config(word_bert, {"data": SCANS}, ASG, {"model": {"regions": {"name": "box"}}})
    parts = assemble(tiny[0], tmp_path / "run", config, "cpu")
    assert not parts.release.model.inputs.sizes


@pytest.mark.slow
@pytest.mark.ci
def test_a_released_model_recognises_tags_and_regions(tmp_path: Path) -> None:
    """The text encoder knows every tag's words: names that are unknown to it are one and the same to the decoder."""
    store, truth = write_tiny_radiographs(tmp_path / "store", 120)
    encoder = write_word_bert(tmp_path / "bert", also=tag_entries("tags"))
    changes = {
        "model": TOKEN,
        "data": {"margin": 1.05, "batch": 16},
        "objective": {"recognition": 50.0},
    }
    config = cxr_config(encoder, ASG, changes, steps=250, log_every=10, checkpoint_every=250)
    release = load_release(pretrain(store.path, tmp_path / "run", config))
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]
    held = radiographs_of(store, "test", CxrDataSettings.model_validate(release.cxr), training=False)
    images = torch.from_numpy(np.stack([held.sampled([row], 0)[0].image for row in range(len(held))]))
    with torch.no_grad():
        logits = release.model.tags(release.model.encoder(images).tokens)
    labels = dict(pl.read_csv(truth).select("study_id", "heart:cardiomegaly").iter_rows())
    wide = np.array([labels[name] for name in held.study_ids])
    column = held.tag_names.index("cardiomegaly")
    asked = Question(wide, logits[:, column].numpy().astype(np.float64), np.arange(len(wide)))
    assert weighted_auroc(asked, np.ones((1, len(wide))))[0] > 0.9
    assert np.mean((asked.scores > 0) == wide) > 0.8, "by chance 0.5, and so with tags of other radiographs"
    with torch.no_grad():
        tokens = release.model.encoder(images).tokens
        again = release.model.tags(tokens, release.embed(held.tag_names))
        assert release.model.tags(tokens, release.embed(["edema", "a heart that is wide"])).shape == (len(held), 2)
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "twin"), [("cxr/asg", "small/cxr_asg")])
def test_the_recipe_of_cxr_fits_together(name: str, twin: str) -> None:
    large, small = (load_settings(PretrainConfig, at) for at in (name, twin))
    for config in (large, small):
        settings, inputs = model_parts(config, 384, load_organs(), ())
        with torch.device("meta"):
            encoder = build_encoder(settings.encoder, inputs.in_channels)
        assert config.data.size % encoder.strides[-1][0] == 0
        assert settings.regions is not None
        assert (settings.regions.name, settings.regions.pooling) == ("box", "tokens")
    assert large.objective == small.objective


@pytest.mark.slow
def test_the_twin_trains(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    store: Store = tiny_cxr[0]
    steps = ["loop.steps=2", "loop.log_every=1", "loop.threads=1", "data.batch=6", f"text.name={word_bert}"]
    config = load_settings(PretrainConfig, "small/cxr_asg", [*steps, "text.max_length=60"])
    release = load_release(pretrain(store.path, tmp_path / "run", config))
    assert release.provenance["trained"]
    assert all(torch.isfinite(value).all() for value in release.model.state_dict().values())
    assert math.isfinite(read_metrics(tmp_path / "run")[0]["loss"])
