"""What a config can ask of the engine: micro-batches, an average, the best weights, trackers, an end in good order."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ctglip.config import validate
from ctglip.errors import ModelError
from ctglip.files import read_json
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.training import launch
from ctglip.training.callbacks import Callbacks, Stopped
from ctglip.training.checkpoint import checkpoints
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from tests.training.conftest import tiny_config


def changed(encoder: Path, **sections: dict[str, Any]) -> PretrainConfig:
    """The tiny config with other settings in some sections."""
    tree = tiny_config(encoder).model_dump(mode="json")
    for name, values in sections.items():
        tree[name] = {**tree[name], **values}
    return validate(PretrainConfig, tree, "test")


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run) if "loss" in line]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def run(tiny: tuple[Store, Path], word_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "run"
    pretrain(tiny[0].path, folder, changed(word_bert))
    return folder


@pytest.mark.parametrize("size", [1, 5, 100])
def test_micro_batches_give_the_same_run(
    run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, size: int
) -> None:
    pretrain(tiny[0].path, tmp_path / "run", changed(word_bert, loop={"micro_batch": size}))
    assert losses(tmp_path / "run") == pytest.approx(losses(run), abs=1e-4)


def test_micro_batches_refuse_an_encoder_with_batch_statistics(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    encoder = {"name": "resnet", "layers": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "norm": "batch", "max_pool": False}
    config = changed(word_bert, loop={"micro_batch": 4}, model={"encoder": encoder})
    with pytest.raises(ModelError, match="BatchNorm3d") as error:
        pretrain(tiny[0].path, tmp_path / "run", config)
    assert error.value.code == "batch_statistics"


def test_the_average_is_what_is_released_and_it_resumes_exactly(
    run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    config = changed(word_bert, loop={"ema": 0.5})
    pretrain(tiny[0].path, tmp_path / "whole", config)
    assert losses(tmp_path / "whole") == losses(run)
    assert not same(weights(tmp_path / "whole"), weights(run))
    saved = load_file(next(checkpoints(tmp_path / "whole" / "checkpoints")[-1].glob("*.safetensors")))
    released = weights(tmp_path / "whole")
    assert all(torch.equal(saved[f"ema/model.{name}"], value) for name, value in released.items())
    assert any(not torch.equal(saved[f"objective/model.{name}"], value) for name, value in released.items())
    with pytest.raises(Stopped):
        pretrain(tiny[0].path, tmp_path / "cut", config, callbacks=stopping(3))
    pretrain(tiny[0].path, tmp_path / "cut", config, resume=True)
    assert same(weights(tmp_path / "cut"), released)


def stopping(step: int) -> Callbacks:
    """Asks for an end after a step."""
    told: list[int] = []
    return Callbacks(metrics=lambda done, _: told.append(done), stop=lambda: step in told)


def test_a_stop_saves_the_step_that_is_done(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, run: Path
) -> None:
    with pytest.raises(Stopped) as stopped:
        pretrain(tiny[0].path, tmp_path / "cut", changed(word_bert), callbacks=stopping(3))
    assert stopped.value.step == 3
    assert [path.name for path in checkpoints(tmp_path / "cut" / "checkpoints")] == ["step-0000002", "step-0000003"]
    pretrain(tiny[0].path, tmp_path / "cut", changed(word_bert), resume=True)
    assert losses(tmp_path / "cut") == losses(run)
    assert same(weights(tmp_path / "cut"), weights(run))


def test_a_stop_while_crops_are_cut_ends_at_once(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    callbacks = Callbacks(preparing=lambda *said: told.append(said), stop=lambda: len(told) == 2)
    with pytest.raises(Stopped) as stopped:
        pretrain(tiny[0].path, tmp_path / "run", changed(word_bert), callbacks=callbacks)
    assert stopped.value.step == 0
    assert told[0][0] == "Cutting crops"
    everything: list[str] = []
    fresh = shutil.copytree(tiny[0].path, tmp_path / "store", ignore=shutil.ignore_patterns("derived"))
    pretrain(
        fresh,
        tmp_path / "all",
        changed(word_bert),
        callbacks=Callbacks(preparing=lambda *s: everything.append(s[0])),
    )
    assert list(dict.fromkeys(everything)) == ["Cutting crops", "Embedding texts"]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_best_validation_can_be_released(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.6, 0.9, 0.7])
    real = launch.build_validation

    def scored(*given: Any) -> Any:
        found = real(*given)
        object.__setattr__(found, "measure", lambda: {"val_macro_auroc": next(scores)})
        return found

    monkeypatch.setattr(launch, "build_validation", scored)
    config = changed(word_bert, loop={"validate_every": 2, "release": "best", "checkpoint_every": 4})
    pretrain(tiny[0].path, tmp_path / "run", config)
    fourth, last = checkpoints(tmp_path / "run" / "checkpoints")
    assert read_json(last / "state.json")["best"] == 2
    before, after = (load_file(next(folder.glob("*.safetensors"))) for folder in (fourth, last))
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(after.get(f"best/model.{name}", value), value)
        assert torch.equal(before[f"objective/model.{name}"], value)


def test_patience_ends_a_pretraining_early(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = launch.build_validation
    monkeypatch.setattr(launch, "build_validation", lambda *given: falling(real(*given)))
    config = changed(word_bert, loop={"validate_every": 1, "patience": 2, "release": "best"})
    pretrain(tiny[0].path, tmp_path / "run", config)
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-0000002"]
    assert load_release(tmp_path / "run").provenance["steps"] == 2
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    pretrain(tiny[0].path, tmp_path / "run", config, resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before, "a run that ended early stays as it is"


def falling(validation: Any) -> Any:
    """A validation that finds each step worse than the one before."""
    scores = iter([0.9, 0.8, 0.7])
    object.__setattr__(validation, "measure", lambda: {"val_macro_auroc": next(scores)})
    return validation


def test_every_tracker_is_told_the_same(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    config = changed(word_bert)
    track = lambda step, values: told.append({"step": step, **values})  # noqa: E731
    pretrain(tiny[0].path, tmp_path / "run", config, callbacks=Callbacks(metrics=track))
    assert told == read_metrics(tmp_path / "run")
    first = told[0]
    assert {"gradient_norm", "data_wait_s", "rows_per_s", "lr"} <= first.keys()
    assert {"render_s", "encode_s", "loss_s", "backward_s", "update_s"} <= first.keys()
    events = b"".join(path.read_bytes() for path in (tmp_path / "run" / "tensorboard").iterdir())
    assert events.count(b"loss_diagnosis") == 6
    pretrain(tiny[0].path, tmp_path / "plain", changed(word_bert, loop={"trackers": (), "pairs": 0}))
    assert not (tmp_path / "plain" / "tensorboard").exists()
    assert not (tmp_path / "plain" / "pairs.html").exists()


def test_the_page_shows_what_is_learned_before_the_first_step(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    seen: list[str] = []
    folder = tmp_path / "run"
    first = lambda step, _: seen.append((folder / "pairs.html").read_text()) if step == 1 else None  # noqa: E731
    pretrain(tiny[0].path, folder, changed(word_bert), callbacks=Callbacks(metrics=first))
    page = seen[0]
    assert page.count('<article class="pair">') == 12
    assert page.count("data:image/png;base64,") == 12
    assert any(said in page for said in ("fatty infiltration", "steatosis", "liver is unremarkable"))
    assert "ruled out by the report" in page
    assert "False of this organ" in page
    assert "with outlines of liver" in page


def test_a_batch_that_is_no_number_names_its_studies(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    config = changed(word_bert, optim={"lr": 1e30, "warmup": 0, "clip": 0.0})
    with pytest.raises(ModelError, match=r"not a number at step \d+ .*studies s\d{3}, s\d{3}") as error:
        pretrain(tiny[0].path, tmp_path / "run", config)
    assert error.value.code == "not_finite"


def test_a_model_without_negatives_collapses_and_is_stopped(
    tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    settings = {"negatives": "none", "anatomy_weight": 0.0}
    loop = {"steps": 400, "log_every": 5, "checkpoint_every": 400, "collapse_after": 20}
    config = changed(word_bert, objective=settings, loop=loop, optim={"lr": 0.01})
    with pytest.raises(ModelError, match=r"collapsed: since step \d+ .*studies s\d{3}") as error:
        pretrain(tiny[0].path, tmp_path / "run", config)
    assert error.value.code == "collapsed"


@pytest.mark.slow
def test_a_compiled_encoder_learns_the_same(
    run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    pretrain(tiny[0].path, tmp_path / "run", changed(word_bert, loop={"compile": True}))
    assert losses(tmp_path / "run") == pytest.approx(losses(run), abs=1e-4)
    assert weights(tmp_path / "run").keys() == weights(run).keys()


def test_bfloat16_on_a_cpu_is_float32(run: Path, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    pretrain(tiny[0].path, tmp_path / "run", changed(word_bert, loop={"precision": "bf16"}))
    assert losses(tmp_path / "run") == losses(run)
