"""A run: its files, its seed, and that it can be interrupted anywhere without a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ctglip.errors import ConfigError, CTGLIPError, ModelError, OutputError
from ctglip.files import exclusive, read_json
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.training.callbacks import Callbacks
from ctglip.training.checkpoint import checkpoints
from ctglip.training.launch import pretrain
from ctglip.training.optim import learning_rate
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from tests.training.conftest import tiny_config
from tests.training.tiny import write_tiny_store

_CLOCKS = ("seconds", "data_wait_s", "rows_per_s", "render_s", "encode_s", "loss_s", "backward_s", "update_s")


def curve(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in _CLOCKS} for line in read_metrics(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


class Stop(Exception):
    pass


def stop_after(steps: int) -> Callbacks:
    def report(done: int, _: int) -> None:
        if done == steps:
            raise Stop

    return Callbacks(progress=report)


@pytest.fixture(scope="module")
def run(tiny: tuple[Store, Path], word_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(tiny[0].path, folder, tiny_config(word_bert))
    return folder


def test_a_run_holds_what_it_should(run: Path, tiny: tuple[Store, Path]) -> None:
    names = {path.name for path in run.iterdir()}
    written = {"config.resolved.yaml", "environment.json", "metrics.jsonl", "checkpoints", "model"}
    assert names == written | {"tensorboard", "pairs.html", ".lock"}
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4, 5, 6, 6]
    assert {"loss_anatomy", "loss_diagnosis", "lr", "seconds"} <= read_metrics(run)[0].keys()
    assert "val_macro_auroc" in read_metrics(run)[-1]
    release = load_release(run)
    assert release.recipe == tiny[0].info.recipe
    assert release.provenance["trained"]["liver"] == ["hepatic_steatosis"]
    # 1 / 0.07 at the start, hardly moved in six steps; whether such a model can be calibrated is chance
    assert release.calibration["learned_scale"] == pytest.approx(1 / 0.07, rel=0.2)


def test_records_hold_no_paths_but_the_users(run: Path, tiny: tuple[Store, Path], word_bert: Path) -> None:
    for file in (run / "environment.json", run / "config.resolved.yaml", run / "metrics.jsonl"):
        text = file.read_text().replace(str(word_bert), "")
        assert "/" not in json.dumps(text.replace("\n", " "))
    assert str(tiny[0].path) not in (run / "model" / "config.json").read_text()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    config = tiny_config(word_bert)
    pretrain(tiny[0].path, tmp_path / "again", config)
    assert curve(tmp_path / "again") == curve(run)
    pretrain(tiny[0].path, tmp_path / "other", config.model_copy(update={"seed": 1}))
    assert curve(tmp_path / "other")[0] != curve(run)[0]


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_an_interrupted_run_goes_on_to_the_last_bit(
    run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, steps: int
) -> None:
    config = tiny_config(word_bert)
    with pytest.raises(Stop):
        pretrain(tiny[0].path, tmp_path / "cut", config, callbacks=stop_after(steps))
    assert not (tmp_path / "cut" / "model").exists()
    pretrain(tiny[0].path, tmp_path / "cut", config, resume=True)
    assert curve(tmp_path / "cut") == curve(run)
    whole, cut = weights(run), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    config = tiny_config(word_bert)
    with pytest.raises(Stop):
        pretrain(tiny[0].path, tmp_path / "cut", config, callbacks=stop_after(5))
    last = next(checkpoints(tmp_path / "cut" / "checkpoints")[-1].glob("*.safetensors"))
    damaged = bytearray(last.read_bytes())
    damaged[-5] ^= 1
    last.write_bytes(damaged)
    pretrain(tiny[0].path, tmp_path / "cut", config, resume=True)
    assert curve(tmp_path / "cut") == curve(run)


def test_a_finished_run_can_be_lengthened(run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    """Its first steps stay as they were, the new ones follow the longer schedule, and the model is the new one's."""
    longer = tmp_path / "run"
    shutil.copytree(run, longer)
    told: list[str] = []
    config = tiny_config(word_bert, steps=9)
    pretrain(tiny[0].path, longer, config, resume=True, callbacks=Callbacks(message=told.append))
    assert len(told) == 1
    assert "lengthened from 6 to 9 steps: from step 7 on" in told[0]
    lines = read_metrics(longer)
    assert curve(longer)[: len(curve(run))] == curve(run)
    assert lines[-1]["step"] == 9
    rates = {line["step"]: line["lr"] for line in lines if "lr" in line}
    assert rates[9] == pytest.approx(learning_rate(8, 9, config.optim))
    assert load_release(longer).provenance["steps"] == 9
    assert read_json(longer / "environment.json")["lengthened"] == [[6, 9]]
    pretrain(tiny[0].path, longer, config, resume=True)
    with pytest.raises(ConfigError, match="not fewer"):
        pretrain(tiny[0].path, longer, tiny_config(word_bert), resume=True)
    shutil.rmtree(longer / "checkpoints")
    with pytest.raises(ConfigError, match="its checkpoints are gone"):
        pretrain(tiny[0].path, longer, tiny_config(word_bert, steps=12), resume=True)
    assert load_release(longer).provenance["steps"] == 9


def test_resuming_says_where_it_begins_and_stops_where_nothing_is_whole(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    config, told = tiny_config(word_bert, steps=2), []
    pretrain(tiny[0].path, tmp_path / "new", config, resume=True, callbacks=Callbacks(message=told.append))
    assert "There is no run yet" in told[0]
    with pytest.raises(Stop):
        pretrain(tiny[0].path, tmp_path / "cut", tiny_config(word_bert, steps=4), callbacks=stop_after(3))
    for file in (tmp_path / "cut" / "checkpoints").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    before = (tmp_path / "cut" / "metrics.jsonl").read_bytes()
    with pytest.raises(ModelError, match="None of the checkpoints"):
        pretrain(tiny[0].path, tmp_path / "cut", tiny_config(word_bert, steps=4), resume=True)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == before
    (tmp_path / "cut" / "environment.json").unlink()
    with pytest.raises(ConfigError, match="holds checkpoints, but no environment"):
        pretrain(tiny[0].path, tmp_path / "cut", config, resume=True)
    shutil.rmtree(tmp_path / "new" / "checkpoints")
    shutil.rmtree(tmp_path / "new" / "model")
    pretrain(tiny[0].path, tmp_path / "new", config, resume=True, callbacks=Callbacks(message=told.append))
    assert "There is no checkpoint yet" in told[-1]


def test_two_processes_do_not_train_one_run(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "run"), pytest.raises(OutputError, match="Another process is writing"):
        pretrain(tiny[0].path, tmp_path / "run", tiny_config(word_bert, steps=2))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}
    pretrain(tiny[0].path, tmp_path / "run", tiny_config(word_bert, steps=2))


def test_a_finished_run_is_left_alone(run: Path, tiny: tuple[Store, Path], word_bert: Path) -> None:
    before = (run / "metrics.jsonl").stat().st_mtime_ns
    assert pretrain(tiny[0].path, run, tiny_config(word_bert), resume=True) == run / "model"
    assert (run / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings_or_studies(
    run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain(tiny[0].path, run, tiny_config(word_bert))
    with pytest.raises(ConfigError, match=r"loop\.steps: 6 before, 5 now.*more steps, not fewer"):
        pretrain(tiny[0].path, run, tiny_config(word_bert, steps=5), resume=True)
    with pytest.raises(ConfigError, match=r"seed: 0 before, 1 now"):
        pretrain(tiny[0].path, run, tiny_config(word_bert, steps=7).model_copy(update={"seed": 1}), resume=True)
    other, _ = write_tiny_store(tmp_path / "other", 12)
    with pytest.raises(ConfigError, match="other studies"):
        pretrain(other.path, run, tiny_config(word_bert), resume=True)


def test_a_loss_that_is_no_number_stops_the_run(
    tiny: tuple[Store, Path], config: PretrainConfig, tmp_path: Path
) -> None:
    wild = config.model_copy(update={"optim": config.optim.model_copy(update={"lr": 1e30, "warmup": 0, "clip": 0.0})})
    with pytest.raises(ModelError, match="not a number at step"):
        pretrain(tiny[0].path, tmp_path / "run", wild)


def test_unknown_launchers_and_missing_stores_are_named(config: PretrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="launch is 'slurm'"):
        pretrain(tmp_path, tmp_path / "run", config, launch="slurm")
    with pytest.raises(CTGLIPError, match="not a store"):
        pretrain(tmp_path, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_run_can_start_from_another_ones_weights(
    run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    config = tiny_config(word_bert).model_copy(update={"initial": str(run)})
    pretrain(tiny[0].path, tmp_path / "next", config)
    assert curve(tmp_path / "next")[0]["loss"] < curve(run)[0]["loss"]
    other = config.model_copy(update={"model": config.model.model_copy(update={"dim": 48})})
    with pytest.raises(ModelError, match="another shape"):
        pretrain(tiny[0].path, tmp_path / "odd", other)
