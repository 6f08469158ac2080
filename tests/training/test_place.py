"""PLACE (re-implementation from the abstract) from stores of radiographs and of scans to a released model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ctglip.config import load_settings
from ctglip.errors import ConfigError
from ctglip.evaluation.run import evaluate
from ctglip.models.encoders import build_encoder
from ctglip.models.release import load_release
from ctglip.objectives.base import total
from ctglip.training.assembly import assemble, model_parts
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from ctglip.vocabulary.organs import load_organs
from tests.training.conftest import BOTH, SCANS, tiny_config
from tests.training.test_cxr import cxr_config

RESAMPLER = {"queries": 4, "layers": 1, "heads": 2, "dim": 16, "levels": [-2, -1]}
PLACE: dict[str, Any] = {"name": "place", "patches": {"dim": 16, "heads": 2, "detail": 4, "patches": 16}}
ALONE = {"model": {"resampler": RESAMPLER}, "objective": PLACE}
ORGANS = {**ALONE, "objective": {**PLACE, "name": "place_organs"}}
EVERY = {**ORGANS, "data": {"organs": []}}
TERMS = {"instance", "batch", "sentence", "correlation"}
WHOLE = {"data": SCANS}


def mixed(reader: str) -> dict[str, Any]:
    parts = {"organs": {"name": "organ_text"}, "reports": PLACE}
    objective = {"name": "mixture", "parts": parts, "weights": {"organs": 1.0, "reports": 0.5}}
    return {"model": {"resampler": RESAMPLER, "regions": {"name": reader}}, "objective": objective}


def learns(store, config: PretrainConfig, run: Path, terms: set[str]) -> None:
    parts = assemble(store, run, config, "cpu")
    losses, _ = parts.objective(parts.batch(0))
    assert losses.keys() == terms
    assert all(loss.item() > 0 for loss in losses.values())
    total(losses).backward()
    assert not [n for n, p in parts.objective.named_parameters() if p.requires_grad and p.grad is None]


def test_cxr_reach_every_term(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    learns(tiny_cxr[0], cxr_config(word_bert, ALONE), tmp_path, TERMS)


def test_scans_reach_every_term(tiny, word_bert: Path, tmp_path: Path) -> None:
    learns(tiny[0], tiny_config(word_bert, WHOLE, ALONE), tmp_path, TERMS)


def test_crops_reach_every_term(tiny, word_bert: Path, tmp_path: Path) -> None:
    learns(tiny[0], tiny_config(word_bert, EVERY), tmp_path, TERMS)


def test_sentences_of_a_crop_are_what_its_report_says_of_the_organ_alone(tiny, word_bert: Path, tmp_path: Path) -> None:
    parts = assemble(tiny[0], tmp_path, tiny_config(word_bert, EVERY), "cpu")
    source: Any = parts.sources["place_organs"]
    many = 0
    for step in range(4):
        samples = source.batch(step)
        batch: Any = parts.objective.collate(samples)
        for sample, row in zip(samples, batch.sentence_id, strict=True):
            said = source.captions[sample.row]
            told = parts.objective.texts.bank.texts(row[row >= 0])
            single = [one for one in said.captions if len(one.names) < 2]
            every = dict.fromkeys(text for one in single for text in one.report or one.dictionary[:1])
            assert told == [text for text in (source.texts[number] for number in every) if len(text.split()) >= 3][:12]
            assert (not told) == (said.kind == "silent")
            many += len(told) > 1
    assert many


def test_organs_of_whole_scans_are_refused(word_bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"reads organs of scans, and model\.regions is mask"):
        tiny_config(word_bert, WHOLE, ORGANS, {"model": {"regions": {"name": "mask"}}})


@pytest.mark.parametrize("reader", ["box", "query", "crop", "mask"])
def test_beside_organ_text(tiny_cxr, tiny, word_bert: Path, tmp_path: Path, reader: str) -> None:
    terms = {"organs/anatomy", "organs/diagnosis", *(f"reports/{term}" for term in TERMS)}
    if reader in ("box", "query"):
        learns(tiny_cxr[0], cxr_config(word_bert, mixed(reader)), tmp_path / "radiographs", terms)
    data = {"data": BOTH if reader == "crop" else SCANS}
    learns(tiny[0], tiny_config(word_bert, data, mixed(reader)), tmp_path / "scans", terms)


def test_a_model_observes_only_where_a_term_needs_it(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    without = {"objective": {**PLACE, "batch_weight": 0.0, "sentence_weight": 0.0}}
    config = cxr_config(word_bert, without)
    assert model_parts(config, 8, load_organs(), ())[0].resampler is None
    learns(tiny_cxr[0], config, tmp_path, {"instance", "correlation"})


def test_contrasts_of_organs_are_refused(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    config = cxr_config(word_bert, {"objective": {**PLACE, "negatives": "same_organ"}})
    with pytest.raises(ConfigError, match="place compares whole reports"):
        assemble(tiny_cxr[0], tmp_path, config, "cpu")


@pytest.mark.parametrize("name", ["place", "place_mixture"])
def test_the_recipes_of_cxr_fit_together(name: str) -> None:
    large, small = (load_settings(PretrainConfig, at) for at in (f"cxr/{name}", f"small/cxr_{name}"))
    for config in (large, small):
        settings, inputs = model_parts(config, 384, load_organs(), ())
        with torch.device("meta"):
            encoder = build_encoder(settings.encoder, inputs.in_channels)
        assert config.data.size % encoder.strides[-1][0] == 0
        assert settings.resampler is not None
        assert (settings.regions and settings.regions.name) == ("box" if "mixture" in name else None)


@pytest.mark.parametrize("name", ["pretrain/place_organs", "small/place_organs"])
def test_the_recipes_of_crops_fit_together(name: str) -> None:
    settings, inputs = model_parts(load_settings(PretrainConfig, name), 384, load_organs(), ())
    assert settings.regions is not None
    assert (settings.regions.name, inputs.anatomy) == ("crop", False)
    assert settings.resampler is not None


@pytest.mark.slow
def test_the_twin_of_crops_answers_for_organs(tiny, word_bert: Path, tmp_path: Path) -> None:
    steps = [
        "loop.steps=4",
        "loop.log_every=1",
        "loop.threads=1",
        "data.sampling.batch=8",
        "data.crops.grid=[16, 16, 16]",
        "model.encoder.norm=group",  # batch normalisation sees each micro-batch alone
    ]
    changes = [*steps, "data.organs=[liver, spleen]", f"text.name={word_bert}", "text.max_length=60"]
    first = []
    for more in ([], ["loop.micro_batch=3"]):
        config = load_settings(PretrainConfig, "small/place_organs", [*changes, *more])
        run = tmp_path / f"run{len(more)}"
        release = load_release(pretrain(tiny[0].path, run, config))
        assert release.aligned
        first.append(read_metrics(run)[0])
    assert first[1]["loss_instance"] == pytest.approx(first[0]["loss_instance"], rel=1e-4)
    assert first[1]["loss_batch"] == pytest.approx(first[0]["loss_batch"], rel=1e-4)
    found = evaluate(tmp_path / "run0", tiny[0].path, tmp_path / "answers")
    assert 0 <= found.macro_auroc.value <= 1
    assert found.crops > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["place", "place_mixture"])
def test_the_twins_train_in_micro_batches_too(tiny_cxr, word_bert: Path, tmp_path: Path, name: str) -> None:
    steps = ["loop.steps=2", "loop.log_every=1", "loop.threads=1", "data.batch=6", "data.size=64"]
    changes = [*steps, f"text.name={word_bert}", "text.max_length=60"]
    first = []
    for more in ([], ["loop.micro_batch=3"]):
        config = load_settings(PretrainConfig, f"small/cxr_{name}", [*changes, *more])
        run = tmp_path / f"run{len(more)}"
        release = load_release(pretrain(tiny_cxr[0].path, run, config))
        assert release.provenance["trained"]
        assert release.model.resampler is not None
        features = release.model.encode_image(torch.zeros(1, 1, 64, 64))
        assert release.model.resampler(features).tokens.shape == (1, 16, 128)
        first.append(read_metrics(run)[0]["loss"])
    assert math.isfinite(first[0])
    assert first[1] == pytest.approx(first[0], rel=1e-4)
