"""Self-distillation from a store to a released teacher, which travels in checkpoints and starts an alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ctglip.config import load_settings
from ctglip.models.release import load_release
from ctglip.training.callbacks import Callbacks, Stopped
from ctglip.training.checkpoint import checkpoints
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from tests.training.conftest import SCANS, tiny_config
from tests.training.test_mim import IMAGES

DINO: dict[str, Any] = {
    "name": "dino",
    "views": {"global_size": 8, "local_size": 4, "local_views": 2},
    "head": {"hidden": 16, "bottleneck": 8, "count": 16},
    "frozen_prototypes": 0.0,
    "momentum": 0.9,
}


def dino_config(encoder: Path, **loop: object) -> PretrainConfig:
    return tiny_config(encoder, {"data": IMAGES, "objective": DINO}, **loop)


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_goes_on_exactly_and_the_teacher_is_released(tiny, word_bert, tmp_path):
    config = dino_config(word_bert, steps=6)
    whole = pretrain(tiny[0].path, tmp_path / "whole", config)
    seen: list[int] = []
    callbacks = Callbacks(progress=lambda done, of: seen.append(done), stop=lambda: len(seen) == 3)
    with pytest.raises(Stopped):
        pretrain(tiny[0].path, tmp_path / "parted", config, callbacks=callbacks)
    pretrain(tiny[0].path, tmp_path / "parted", config, resume=True)
    states = [
        load_file(checkpoints(tmp_path / name / "checkpoints")[-1] / "state.safetensors")
        for name in ("whole", "parted")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert states[0]["objective/center"].abs().max() > 0
    released = load_release(whole).model.encoder.state_dict()
    differ = 0.0
    for name, value in released.items():
        assert torch.equal(value, states[0][f"objective/teacher.0.{name}"]), name
        differ = max(differ, float((value - states[0][f"objective/encoder.{name}"]).abs().max()))
    assert differ > 0
    second = tiny_config(
        word_bert,
        {
            "data": SCANS,
            "model": {"encoder": {"weights": str(tmp_path / "whole"), "train": "frozen"}, "regions": {"name": "mask"}},
        },
        steps=2,
    )
    aligned = load_release(pretrain(tiny[0].path, tmp_path / "aligned", second))
    assert all(torch.equal(value, released[name]) for name, value in aligned.model.encoder.state_dict().items())
    started = aligned.provenance["started_from"]
    assert [one["part"] for one in started] == ["image encoder", "text encoder"]
    assert str(tmp_path / "whole") in started[0]["name"]


@pytest.mark.parametrize("folder", ["pretrain", "small"])
def test_the_second_stage_has_the_encoder_of_the_first(folder: str):
    before, after = (load_settings(PretrainConfig, f"{folder}/{name}") for name in ("dino_ct", "align_ct"))
    assert before.model.encoder == after.model.encoder
    assert before.data.channels == after.data.channels
