"""What of the image encoder is trained: nothing, low-rank updates, or all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctglip.errors import ConfigError, ModelError
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.training.assembly import Assembly, assemble
from ctglip.training.launch import pretrain
from ctglip.training.optim import build_optimizer
from tests.training.conftest import SCANS, tiny_config

NORMED = {"name": "cnn", "widths": [8, 16], "blocks": [0, 1], "norm": "batch", "groups": 8}
MASKS = {"data": SCANS, "model": {"regions": {"name": "mask", "levels": [-1]}}}


def trained_steps(store: Store, run: Path, bert: Path, train: object) -> tuple[Assembly, dict[str, torch.Tensor]]:
    """Three steps of a run whose encoder is trained so, and the encoder's state before them."""
    config = tiny_config(bert, MASKS, {"model": {"encoder": {**NORMED, "train": train}}})
    parts = assemble(store, run, config, "cpu")
    before = {name: value.clone() for name, value in parts.release.model.encoder.state_dict().items()}
    optimizer = build_optimizer(parts.objective, config.optim)
    parts.objective.train()
    for step in range(3):
        optimizer.zero_grad()
        losses, _ = parts.objective(parts.batch(step))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    return parts, before


def changed(parts: Assembly, before: dict[str, torch.Tensor]) -> set[str]:
    now = parts.release.model.encoder.state_dict()
    return {name for name, value in before.items() if not torch.equal(now[name], value)}


def test_a_frozen_encoder_stays_as_it_is(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    parts, before = trained_steps(tiny[0], tmp_path, word_bert, "frozen")
    model = parts.release.model
    assert changed(parts, before) == set()
    assert model.training
    assert not any(module.training for module in model.encoder.modules())
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    optimizer = build_optimizer(parts.objective, tiny_config(word_bert, MASKS).optim)
    mine = {id(parameter) for parameter in model.encoder.parameters()}
    assert not any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"])


def test_a_full_encoder_changes_with_its_norms(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    parts, before = trained_steps(tiny[0], tmp_path, word_bert, "full")
    assert {name for name in before if "running" in name or name.endswith("weight")} <= changed(parts, before)


def test_low_rank_updates_alone_are_trained(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    parts, before = trained_steps(tiny[0], tmp_path, word_bert, {"name": "lora", "rank": 2})
    assert changed(parts, before)
    assert all(".up" in name or ".down" in name for name in changed(parts, before))


def test_a_released_model_holds_plain_layers(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    config = tiny_config(word_bert, MASKS, {"model": {"encoder": {**NORMED, "train": {"name": "lora", "rank": 2}}}})
    pretrain(tiny[0].path, tmp_path / "run", config)
    release = load_release(tmp_path / "run")
    assert release.model.settings.encoder.train.name == "full"
    assert not [name for name in release.model.state_dict() if ".up" in name or ".down" in name]
    parts = assemble(tiny[0], tmp_path / "again", config, "cpu")
    first = dict(parts.release.model.encoder.named_parameters())
    learned = dict(release.model.encoder.named_parameters())
    stem = next(name for name in learned if name.startswith("stem") and name.endswith("0.weight"))
    assert not torch.equal(learned[stem], first[stem.replace("0.weight", "0.base.weight")])


@pytest.mark.parametrize("setting", [{"encoder_frozen": 5}, {"patch_rate": 0.5}])
def test_what_a_frozen_encoder_does_not_read_is_refused(word_bert: Path, setting: dict[str, object]) -> None:
    change = {"model": {"encoder": {**NORMED, "train": "frozen"}}, "optim": setting}
    with pytest.raises(ConfigError, match=r"nothing reads it: model\.encoder\.train is frozen"):
        tiny_config(word_bert, change)


def test_a_layer_that_is_not_there_is_named(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="named nowhere"):
        trained_steps(tiny[0], tmp_path, word_bert, {"name": "lora", "layers": ["nowhere"]})
