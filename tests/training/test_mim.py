"""Masked image modelling from stores of scans and of radiographs, and an alignment that starts from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from ctglip.config import load_settings
from ctglip.errors import StoreError
from ctglip.models.encoders import build_encoder
from ctglip.models.release import load_release
from ctglip.objectives.base import total
from ctglip.store.tables import Store
from ctglip.training.assembly import assemble, model_parts
from ctglip.training.callbacks import Callbacks, Stopped
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.sources import steps_of_epoch
from ctglip.training.tracking import read_metrics
from ctglip.vocabulary.organs import load_organs
from tests.store.tables_of import change_table
from tests.training.conftest import SCANS, tiny_config
from tests.training.test_cxr import cxr_config
from tests.training.tiny import write_tiny_radiographs, write_tiny_store

VIT = {"name": "vit", "patch": 4, "image_size": 16, "dim": 32, "depth": 2, "heads": 4}
DECODER = {"width": 32, "depth": 1, "heads": 4}
IMAGES = {**SCANS, "organs": []}
MIM: dict[str, Any] = {"name": "mim", "part": [12, 12, 12], "image": DECODER}
CXR = {"data": {"size": 48}, "model": {"encoder": {**VIT, "spatial_dims": 2}},
       "objective": {"name": "mim", "image": DECODER}}  # fmt: skip


def scans_config(encoder: Path, objective: dict[str, Any], **loop: object) -> PretrainConfig:
    return tiny_config(encoder, {"data": IMAGES, "model": {"encoder": VIT}, "objective": objective}, **loop)


def test_scans_and_radiographs_reach_the_loss_by_step_alone(tiny, tiny_cxr, word_bert, tmp_path):
    for store, config in ((tiny[0], scans_config(word_bert, MIM)), (tiny_cxr[0], cxr_config(word_bert, CXR))):
        parts = assemble(store, tmp_path / "run", config, "cpu")
        batch = parts.batch(3)
        losses, report = parts.objective(batch)
        assert losses.keys() == {"image"}
        assert math.isfinite(report["image_rank"])
        total(losses).backward()
        assert not parts.release.aligned
        again = assemble(store, tmp_path / "other", config, "cpu").batch(3)
        assert torch.equal(batch.visible_patches, again.visible_patches)
        assert torch.equal(batch.image, again.image)


def without_reports(store: Store) -> Store:
    """The same with no word of half of its reports."""
    odd = [f"{name[0]}{number:03d}" for name in store.table("reports")["study_id"][:1] for number in range(1, 40, 2)]
    change_table(store, "reports", lambda reports: reports.filter(~pl.col("study_id").is_in(odd)))
    return Store.open(store.path)


def test_images_without_a_report_and_without_masks_are_seen_too(word_bert, tmp_path):
    scans, _ = write_tiny_store(tmp_path / "scans", 20, masks=False)
    radiographs, _ = write_tiny_radiographs(tmp_path / "radiographs", 20)
    for made, config in ((scans, scans_config(word_bert, MIM)), (radiographs, cxr_config(word_bert, CXR))):
        store = without_reports(made)
        parts = assemble(store, tmp_path / "run", config, "cpu")
        source = next(iter(parts.sources.values()))
        splits = store.table("splits")
        assert len(source) == len(splits.filter(splits["split"] == "train"))
        batch: int = config.data.batch  # pyright: ignore[reportAttributeAccessIssue]
        assert steps_of_epoch(store, config) == len(source) // batch
        assert not any(one.organs for one in parts.taught)


def test_only_lateral_radiographs_end_with_one_line(word_bert, tmp_path):
    store, _ = write_tiny_radiographs(tmp_path / "store", 8)
    change_table(store, "studies", lambda studies: studies.with_columns(view=pl.lit("lateral")))
    with pytest.raises(StoreError, match="no frontal radiograph"):
        assemble(Store.open(store.path), tmp_path / "run", cxr_config(word_bert, CXR), "cpu")


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_goes_on_exactly_and_an_alignment_starts_from_it(tiny, word_bert, tmp_path):
    config = scans_config(word_bert, MIM, steps=6)
    whole = pretrain(tiny[0].path, tmp_path / "whole", config)
    seen: list[int] = []
    callbacks = Callbacks(progress=lambda done, of: seen.append(done), stop=lambda: len(seen) == 3)
    with pytest.raises(Stopped):
        pretrain(tiny[0].path, tmp_path / "parted", config, callbacks=callbacks)
    parted = pretrain(tiny[0].path, tmp_path / "parted", config, resume=True)
    first, second = load_release(whole), load_release(parted)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert "loss_image" in read_metrics(tmp_path / "whole")[-1]
    assert "scan" in (tmp_path / "whole" / "pairs.html").read_text().lower()
    aligned = pretrain(tiny[0].path, tmp_path / "aligned", second_stage(word_bert, tmp_path / "whole"))
    encoder = load_release(aligned).model.encoder.state_dict()
    for name, value in first.model.encoder.state_dict().items():
        assert torch.equal(value, encoder[name]), f"{name} was frozen"
    longer = pretrain(tiny[0].path, tmp_path / "longer", second_stage(word_bert, tmp_path / "whole", steps=3))
    moved = load_release(longer).model.encoder.state_dict()
    changes = {n: (moved[n] - v).abs().max().item() for n, v in first.model.encoder.state_dict().items()}
    assert 0 < changes["blocks.0.mlp.linear1.weight"] < 0.75 * changes["blocks.1.mlp.linear1.weight"]


def second_stage(encoder: Path, run: Path, steps: int = 2) -> PretrainConfig:
    """Organs in the same scans: two steps with a frozen encoder, then its first layers at half the rate of the last."""
    return tiny_config(
        encoder,
        {
            "data": SCANS,
            "model": {"encoder": {**VIT, "weights": str(run)}, "regions": {"name": "mask"}},
            "optim": {"encoder_frozen": 2, "layer_decay": 0.5, "warmup": 0},
        },
        steps=steps,
    )


@pytest.mark.parametrize("name", ["cxr/mim", "small/cxr_mim", "cxr/align", "small/cxr_align"])
def test_recipes_of_radiographs_fit_together(name: str):
    config = load_settings(PretrainConfig, name)
    settings, inputs = model_parts(config, 384, load_organs(), ())
    with torch.device("meta"):
        encoder = build_encoder(settings.encoder, inputs.in_channels)
    assert config.whole_images().size % encoder.strides[-1][0] == 0


@pytest.mark.parametrize(("first", "second"), [
    ("pretrain/mim_ct", "pretrain/align_ct"), ("small/mim_ct", "small/align_ct"),
    ("cxr/mim", "cxr/align"), ("small/cxr_mim", "small/cxr_align"),
])  # fmt: skip
def test_the_second_stage_has_the_encoder_of_the_first(first: str, second: str):
    before, after = (load_settings(PretrainConfig, name) for name in (first, second))
    assert before.model.encoder == after.model.encoder
    assert before.data.channels == after.data.channels
    assert after.optim.layer_decay < 1
    assert after.optim.encoder_frozen
