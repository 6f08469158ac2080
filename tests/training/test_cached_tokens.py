"""Training on cached tokens: the same numbers as through the frozen encoder, and a model that reads new scans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from ctglip.errors import ConfigError, CTGLIPError
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.inference.feature_cache import organ_features_of
from ctglip.models.encoders.cached import CachedEncoder
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.tasks.dense import embed_dense
from ctglip.training.assembly import Assembly, assemble
from ctglip.training.callbacks import Callbacks, Stopped
from ctglip.training.checkpoint import CHECKPOINTS, checkpoints
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.validation import build_validation
from tests.training.conftest import ORGANS, SCANS, tiny_config
from tests.training.tiny import write_tiny_store

ENCODER = {"name": "cnn", "widths": [8, 16], "blocks": [0, 1], "groups": 4, "train": "frozen"}
READERS: dict[str, dict[str, Any]] = {
    "mask": {"name": "mask", "levels": [0, 1]},
    "attention": {"name": "mask", "pooling": "attention", "levels": [-1]},
    "tokens": {"name": "mask", "pooling": "tokens", "levels": [0, 1]},
    "query": {"name": "query", "layers": 1},
}


def config_of(bert: Path, regions: Mapping[str, Any], folder: Path | None = None, **loop: object) -> PretrainConfig:
    """On tokens of a folder, or on scans."""
    data = {**SCANS, "shift_hu": 0} if folder is None else {**SCANS, "name": "tokens", "folder": str(folder)}
    return tiny_config(bert, {"data": data, "model": {"encoder": ENCODER, "regions": dict(regions)}}, **loop)


def written(store: Store, bert: Path, regions: Mapping[str, Any], folder: Path, precision: Any = "fp32") -> Path:
    """A folder of tokens for a reader."""
    tree = config_of(bert, regions).model_dump(mode="json")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**tree, "kind": "pretrain"}))
    embed_dense(folder / "config.yaml", store.path, folder / "tokens", precision=precision)
    return folder / "tokens"


def first_loss(parts: Assembly) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of the first batch, with its gradient."""
    parts.objective.train()
    losses, _ = parts.objective(parts.batch(0))
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    return loss, {name: p.grad for name, p in parts.objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("regions", "precision", "tolerance"),
    [*((one, "fp32", 1e-5) for one in READERS.values()), (READERS["mask"], "fp16", 5e-3)],
    ids=[*READERS, "mask fp16"],
)
def test_a_step_is_that_of_the_live_encoder(
    tiny: tuple[Store, Path],
    word_bert: Path,
    tmp_path: Path,
    regions: dict[str, Any],
    precision: str,
    tolerance: float,
) -> None:
    store = tiny[0]
    folder = written(store, word_bert, regions, tmp_path / "made", precision)
    live = assemble(store, tmp_path / "live", config_of(word_bert, regions), "cpu")
    cached = assemble(store, tmp_path / "cached", config_of(word_bert, regions, folder), "cpu")
    assert isinstance(cached.release.model.encoder, CachedEncoder)
    assert not list(cached.release.model.encoder.parameters())
    (one, gradients), (other, others) = first_loss(live), first_loss(cached)
    torch.testing.assert_close(other, one, atol=tolerance, rtol=tolerance)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        distance = float((others[name] - gradient).norm() / gradient.norm().clamp(min=1e-6))
        assert distance < 10 * tolerance, name
    embeddings = []
    for parts in (live, cached):
        data = config_of(word_bert, regions, folder if parts is cached else None).data
        validation = build_validation(store, parts.release, parts.dictionaries, data)
        assert validation is not None
        embeddings.append(validation.encode())
    for part in ("features", "anatomy", "diagnosis"):
        np.testing.assert_allclose(
            getattr(embeddings[1], part), getattr(embeddings[0], part), atol=tolerance, rtol=tolerance
        )


def test_the_released_model_reads_scans_as_it_read_tokens(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    """Validation through the cache is what an evaluation through the released encoder finds."""
    store, truth = tiny
    folder = written(store, word_bert, READERS["mask"], tmp_path / "made")
    config = config_of(word_bert, READERS["mask"], folder)
    pretrain(store.path, tmp_path / "run", config)
    release = load_release(tmp_path / "run")
    assert not isinstance(release.model.encoder, CachedEncoder)
    assert release.scans is not None
    assert release.provenance["validation"] == "split val"
    assert release.familiarity is not None
    first = assemble(store, tmp_path / "again", config, "cpu")
    assert first.encoder is not None
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(release.model.encoder.state_dict()[name], value)
    found = {}
    for kind in ("live", "cached"):
        if kind == "cached":
            first.release.model.load_state_dict(
                {n: v for n, v in release.model.state_dict().items() if not n.startswith("encoder.")}
            )
            validation = build_validation(store, first.release, first.dictionaries, config.data)
            assert validation is not None
            found[kind] = validation.encode()
        else:
            val = [row[0] for row in store.table("splits").filter(store.table("splits")["split"] == "val").iter_rows()]
            found[kind] = organ_features_of(
                store, release, sorted(val), ORGANS, folder=tmp_path / "features"
            ).embeddings
    for part in ("features", "diagnosis"):
        np.testing.assert_allclose(getattr(found["cached"], part), getattr(found["live"], part), atol=1e-5, rtol=1e-5)
    asked = EvaluateConfig(draws=20, controls=False, device="cpu", min_positives=1)
    results = evaluate(tmp_path / "run", store.path, tmp_path / "out", labels=truth, config=asked)
    assert 0 <= results.macro_auroc.value <= 1


def test_checkpoints_hold_no_frozen_encoder(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    """A run that was stopped goes on, and its files stay small however large the encoder is."""
    store = tiny[0]
    folder = written(store, word_bert, READERS["query"], tmp_path / "made")
    config, begun = config_of(word_bert, READERS["query"], folder, pairs=4), tmp_path / "run" / "metrics.jsonl"
    with pytest.raises(Stopped):
        pretrain(store.path, tmp_path / "run", config, callbacks=Callbacks(stop=begun.is_file))
    (checkpoint,) = checkpoints(tmp_path / "run" / CHECKPOINTS)
    names = load_file(checkpoint / "state.safetensors")
    assert any("region_reader" in name for name in names)
    assert not [name for name in names if "model.encoder" in name]
    pretrain(store.path, tmp_path / "run", config, resume=True)
    assert load_release(tmp_path / "run").provenance["steps"] == 6
    assert "What this run learns from" in (tmp_path / "run" / "pairs.html").read_text(encoding="utf-8")


def judged(store: Store, truth: Path, folder: Path, config: PretrainConfig) -> float:
    """Macro AUROC on held-out studies, through the released encoder."""
    pretrain(store.path, folder / "run", config)
    asked = EvaluateConfig(draws=20, controls=False, device="cpu")
    return evaluate(folder / "run", store.path, folder / "out", labels=truth, config=asked).macro_auroc.value


@pytest.mark.slow
def test_heads_on_a_frozen_encoder_learn(word_bert: Path, tmp_path: Path) -> None:
    """Of three seeds each finds on held-out studies what reports say; exchanged reports teach chance, which may point
    either way for each of the three findings."""
    store, truth = write_tiny_store(tmp_path / "store", 150, seed=3)
    found: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(3):
        made = config_of(word_bert, READERS["mask"]).model_copy(update={"seed": seed})
        folder = tmp_path / f"made{seed}"
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump({**made.model_dump(mode="json"), "kind": "pretrain"}))
        embed_dense(folder / "config.yaml", store.path, folder / "tokens")
        for permute in (False, True):
            loop = {"steps": 150, "log_every": 150, "checkpoint_every": 150, "pairs": 0}
            config = config_of(word_bert, READERS["mask"], folder / "tokens", **loop)
            data = config.data.model_copy(update={"permute_texts": permute, "batch": 16})
            config = config.model_copy(update={"seed": seed, "data": data})
            found[permute].append(judged(store, truth, tmp_path / f"{seed}{permute}", config))
    assert min(found[False]) > 0.8
    assert np.mean(found[False]) > np.mean(found[True]) + 0.15


def test_faults_are_named(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    store = tiny[0]
    folder = written(store, word_bert, READERS["query"], tmp_path / "made")
    cases = {
        "names no cached tokens": {"data": {"folder": None}},
        "holds no cached tokens": {"data": {"folder": str(tmp_path)}},
        "made with another input": {"data": {"input": {"grid": [32, 16, 16]}}},
        "made by another encoder": {"seed": 1},
        "lack level 0": {"model": {"regions": READERS["mask"]}},
    }
    for message, change in cases.items():
        tree = config_of(word_bert, READERS["query"], folder).model_dump(mode="json")
        with pytest.raises(CTGLIPError, match=message):
            assemble(store, tmp_path / "run", tiny_config(word_bert, tree, change), "cpu")
    for message, change in {
        "cached tokens are of a frozen encoder": {"model": {"encoder": {"train": "full"}}},
        "model.regions is box": {"model": {"regions": {"name": "box"}}},
    }.items():
        with pytest.raises(ConfigError, match=message):
            tiny_config(word_bert, {"data": {**SCANS, "name": "tokens"}, "model": {"encoder": ENCODER}}, change)


def test_studies_without_tokens_are_named(word_bert: Path, tmp_path: Path) -> None:
    store, _ = write_tiny_store(tmp_path / "store", 12)
    folder = written(store, word_bert, READERS["query"], tmp_path / "made")
    train = store.table("splits").filter(store.table("splits")["split"] == "train")["study_id"].to_list()
    (folder / f"{sorted(train)[0]}.safetensors").unlink()
    with pytest.raises(CTGLIPError, match=r"has no tokens of s\d+"):
        assemble(store, tmp_path / "run", config_of(word_bert, READERS["query"], folder), "cpu")
