"""IMITATE from a config to a model that is asked: on radiographs and on scans."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ctglip.config import load_settings, merge
from ctglip.data.cxr import CxrDataSettings
from ctglip.errors import ConfigError
from ctglip.evaluation.bootstrap import Question, weighted_auroc
from ctglip.models.encoders import build_encoder
from ctglip.models.release import Release, load_release
from ctglip.objectives.base import total
from ctglip.objectives.imitate import Imitate, ImitateSettings
from ctglip.objectives.registry import parts_of
from ctglip.store.tables import Store
from ctglip.training.assembly import assemble, model_parts
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from ctglip.vocabulary.organs import load_organs
from tests.training.conftest import SCANS, tiny_config
from tests.training.test_cxr import cxr_config
from tests.training.tiny import CXR_SAYS, radiographs_of, write_tiny_radiographs

SMALL = {"name": "imitate", "aggregation": {"keep": [0.5, 0.5], "grid": [4, 4], "heads": 2, "tokens": 16}}
FILMS: dict[str, Any] = {"objective": SMALL, "data": {"copies": 2}}
VOLUMES = {"objective": merge(SMALL, {"aggregation": {"grid": [4, 4, 2]}})}


def scan_config(encoder: Path, **loop: object) -> PretrainConfig:
    views = {"data": {**SCANS, "copies": 2, "shift_voxels": 2}}
    return tiny_config(encoder, views, VOLUMES, **loop)


@pytest.mark.parametrize("kind", ["radiographs", "scans"])
def test_all_of_it_learns_from_the_first_batch(tiny, tiny_cxr, word_bert: Path, tmp_path: Path, kind: str) -> None:
    radiographs = kind == "radiographs"
    config = cxr_config(word_bert, FILMS) if radiographs else scan_config(word_bert)
    parts = assemble((tiny_cxr if radiographs else tiny)[0], tmp_path / "run", config, "cpu")
    model = parts.release.model
    assert (model.reading, model.image_head is None, model.anatomy_head) == ("none", False, None)
    batch = parts.batch(0)
    losses, report = parts.objective(batch)
    total(losses).backward()
    assert set(losses) == {"impression", "findings", "high_views", "multi_views"}
    assert math.isfinite(total(losses).item())
    without = [n for n, p in parts.objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert (losses["impression"] > 0) == radiographs, "the reports of these scans have no impression"
    assert parts.learned_scale() == pytest.approx(1 / 0.07)
    assert torch.equal(parts.batch(3).channels, parts.batch(3).channels)
    assert not torch.equal(parts.batch(3).channels, batch.channels)
    parts.rank, parts.world = 1, 2
    assert torch.equal(parts.batch(0).channels, batch.channels), "ranks read the same channels"
    assert math.isfinite(report["multi_rank"])


def test_levels_that_the_encoder_has_not_are_named(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    change = {"objective": {"aggregation": {"keep": [0.5, 0.5, 0.5]}}}
    with pytest.raises(ConfigError, match="has 2 levels"):
        assemble(tiny_cxr[0], tmp_path / "run", cxr_config(word_bert, FILMS, change), "cpu")


def zero_shot(release: Release, store: Store, truth: Path) -> dict[str, float]:
    """AUROC of impressions with a finding against those without it, of the radiographs of the split test."""
    settings = CxrDataSettings.model_validate(dict(release.cxr or {}) | {"copies": 1})
    radiographs = radiographs_of(store, "test", settings, training=False)
    images = torch.from_numpy(np.stack([radiographs.sampled([row], 0)[0].image for row in range(len(radiographs))]))
    labels = pl.read_csv(truth, schema_overrides={"study_id": pl.String})
    briefs = [[brief for _, brief in lines] for lines in CXR_SAYS.values()]
    said = list(product(*briefs))
    found = {}
    with torch.no_grad():
        seen = release.model.image_head(release.model.image_features(images))
        texts = release.model.text(release.embed([" ".join(parts) for parts in said]))
        for number, pair in enumerate(CXR_SAYS):
            sign = torch.tensor([1.0 if parts[number] == briefs[number][0] else -1.0 for parts in said])
            scores = (seen @ (sign @ texts)).double().numpy()
            known = dict(labels.select("study_id", pair).iter_rows())
            wanted = np.array([known[name] for name in radiographs.study_ids])
            found[pair] = weighted_auroc(Question(wanted, scores, np.arange(len(wanted))), np.ones((1, len(wanted))))[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("head_norm", ["layer", "batch"])
def test_impressions_are_learned_from_radiographs(word_bert: Path, tmp_path: Path, head_norm: str) -> None:
    """Mean over three trainings: one that learns nothing tells two groups of radiographs apart the right way round half
    of the time. Without the clinical prior, for which a random BERT's sentences are all alike."""
    store, truth = write_tiny_radiographs(tmp_path / "store", 240, seed=4)
    levels = {"encoder": {"widths": [16, 32, 48], "blocks": [0, 1, 1]}, "dim": 64, "embedding_dim": 32}
    own = {
        "data": {"batch": 24},
        "model": {**levels, "head_norm": head_norm},
        "objective": {"strength": 0.0, "aggregation": {"keep": [0.5, 0.5, 0.5], "tokens": 48}},
    }
    quiet = {"log_every": 30, "checkpoint_every": 200, "pairs": 0, "trackers": []}
    found, fell = [], []
    for seed in range(3):
        run = tmp_path / f"run{seed}"
        config = cxr_config(word_bert, FILMS, own, {"seed": seed}, steps=200, **quiet)
        release = load_release(pretrain(store.path, run, config))
        found += zero_shot(release, store, truth).values()
        lines = [line for line in read_metrics(run) if "loss" in line]
        fell.append([lines[0][name] - lines[-1][name] for name in ("loss", "loss_multi_views")])
    assert np.mean(found) > 0.85, found
    assert (np.mean(fell, axis=0) > 0).all()


@pytest.mark.slow
def test_micro_batches_change_nothing(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    weights = []
    for size in (None, 3):
        config = cxr_config(word_bert, FILMS, steps=2, micro_batch=size, pairs=0, trackers=[])
        release = load_release(pretrain(tiny_cxr[0].path, tmp_path / f"run{size}", config))
        weights.append(torch.cat([value.flatten() for value in release.model.state_dict().values()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=1e-3)


def test_the_recipe_of_cxr_and_its_twin_fit_together() -> None:
    large, small = (load_settings(PretrainConfig, name) for name in ("cxr/imitate", "small/cxr_imitate"))
    for config in (large, small):
        settings, inputs = model_parts(config, 384, load_organs(), ())
        with torch.device("meta"):
            encoder = build_encoder(settings.encoder, inputs.in_channels)
        assert config.data.size % encoder.strides[-1][0] == 0
        assert config.data.copies == 2
        (part,) = parts_of(config.objective).values()
        assert isinstance(part, ImitateSettings)
        assert len(part.aggregation.keep) == len(encoder.level_channels)
        kept = [int(a * b) for a, b in zip(part.aggregation.keep, encoder.level_channels, strict=True)]
        assert min(kept) > 0
        assert sum(kept) <= part.aggregation.tokens
    assert sum(kept) < 32
    parts = [next(iter(parts_of(config.objective).values())) for config in (large, small)]
    same = [part.model_dump(exclude={"aggregation"}) for part in parts]
    assert same[0] == same[1]


@pytest.mark.slow
@pytest.mark.ci
def test_the_twin_of_cxr_trains(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    steps = ["loop.steps=2", "loop.log_every=1", "loop.threads=1", "data.batch=6", f"text.name={word_bert}"]
    config = load_settings(PretrainConfig, "small/cxr_imitate", [*steps, "text.max_length=60"])
    release = load_release(pretrain(tiny_cxr[0].path, tmp_path / "run", config))
    assert release.provenance["trained"]["heart"] == ["cardiomegaly"]
    assert all(torch.isfinite(value).all() for value in release.model.state_dict().values())
    assert math.isfinite(read_metrics(tmp_path / "run")[0]["loss"])
    page = (tmp_path / "run" / "pairs.html").read_text()
    assert "Findings:" in page
    assert "cardiac silhouette" in page, "boxes of regions"
    assert "Negatives of each organ" not in page


def test_a_part_of_a_mixture(tiny_cxr, word_bert: Path, tmp_path: Path) -> None:
    both = {
        "model": {"regions": {"name": "box"}},
        "data": {"copies": 2},
        "objective": {
            "name": "mixture",
            "parts": {"organs": {"name": "organ_text"}, "reports": SMALL},
            "weights": {"organs": 1.0, "reports": 0.5},
        },
    }
    parts = assemble(tiny_cxr[0], tmp_path / "run", cxr_config(word_bert, both), "cpu")
    losses, _ = parts.objective(parts.batch(0))
    assert {"organs/diagnosis", "reports/impression", "reports/multi_views"} <= set(losses)
    assert isinstance(parts.objective.parts["reports"], Imitate)  # pyright: ignore
