"""Weights & Biases and MLflow are told what metrics.jsonl is told; packages of the same faces stand in for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ctglip.errors import MissingExtraError
from ctglip.store.tables import Store
from ctglip.training import Callbacks, pretrain
from ctglip.training.tracking import read_metrics
from tests.training.test_engine import changed


@dataclass
class Server:
    """What both services are told."""

    begun: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[tuple[str, int, str, float]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    broken: bool = False

    def told(self, run: str) -> dict[int, dict[str, float]]:
        """Numbers by step."""
        found: dict[int, dict[str, float]] = {}
        for name, step, key, value in self.numbers:
            if name == run:
                found.setdefault(step, {})[key] = value
        return found

    def take(self, run: str, numbers: dict[str, float], step: int) -> None:
        """Numbers of a step, where the service is there."""
        if self.broken:
            raise ConnectionError("no route to host")
        self.numbers += [(run, step, key, value) for key, value in numbers.items()]


def wandb_of(server: Server) -> ModuleType:
    """A module with the part of wandb's face that is used."""
    module: Any = ModuleType("wandb")
    module.Settings = lambda **options: options

    def init(**options: Any) -> SimpleNamespace:
        server.begun.append(options)
        run = options["id"] or f"w{len(server.begun)}"
        return SimpleNamespace(
            id=run, log=lambda numbers, step: server.take(run, numbers, step), finish=lambda: server.ended.append(run)
        )

    module.init = init
    return module


def mlflow_of(server: Server) -> dict[str, ModuleType]:
    """Modules with the part of MLflow's face that is used."""

    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> None:
            assert name == "ctglip"

        def create_experiment(self, name: str) -> str:
            return f"experiment {name}"

        def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
            server.begun.append({"experiment": experiment, "name": run_name})
            return SimpleNamespace(info=SimpleNamespace(run_id=f"m{len(server.begun)}"))

        def log_dict(self, run: str, settings: dict[str, Any], file: str) -> None:
            server.settings[file] = settings

        def log_batch(self, run: str, metrics: Sequence[SimpleNamespace]) -> None:
            for one in metrics:
                server.take(run, {one.key: one.value}, one.step)

        def set_terminated(self, run: str) -> None:
            server.ended.append(run)

    tracking: Any = ModuleType("mlflow.tracking")
    tracking.MlflowClient = MlflowClient
    entities: Any = ModuleType("mlflow.entities")
    entities.Metric = lambda key, value, _now_ms, step: SimpleNamespace(key=key, value=value, step=step)
    return {"mlflow": ModuleType("mlflow"), "mlflow.tracking": tracking, "mlflow.entities": entities}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    for name, one in {"wandb": wandb_of(server), **mlflow_of(server)}.items():
        monkeypatch.setitem(sys.modules, name, one)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return server


def finite(folder: Path) -> dict[int, dict[str, float]]:
    """The numbers of metrics.jsonl by step; training and validation each have a line."""
    found: dict[int, dict[str, float]] = {}
    for line in read_metrics(folder):
        numbers = {key: value for key, value in line.items() if key != "step" and value is not None}
        found.setdefault(line["step"], {}).update(numbers)
    return found


@pytest.mark.parametrize(("name", "first"), [("wandb", "w1"), ("mlflow", "m1")])
def test_a_tracker_is_told_every_number_and_a_resumed_run_goes_on_in_the_same_one(
    name: str, first: str, server: Server, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = changed(word_bert, loop={"trackers": [name], "pairs": 0})
    pretrain(tiny[0].path, run, config)
    assert server.told(first) == finite(run) != {}
    assert server.ended == [first]
    longer = changed(word_bert, loop={"trackers": [name], "pairs": 0, "steps": int(str(config.loop.steps)) + 1})
    pretrain(tiny[0].path, run, longer, resume=True)
    assert server.told(first) == finite(run)
    assert server.ended == [first, first]
    assert {name for name, *_ in server.numbers} == {first}


def test_settings_are_sent_but_neither_code_nor_host(
    server: Server, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    pretrain(tiny[0].path, tmp_path / "run", changed(word_bert, loop={"trackers": ["wandb", "mlflow"], "pairs": 0}))
    first = server.begun[0]
    assert first["project"] == "ctglip"
    assert first["name"] == "run"
    assert first["config"]["loop"]["trackers"] == ["wandb", "mlflow"]
    assert server.settings["config.yaml"] == first["config"]
    assert first["settings"] == {
        "silent": True, "console": "off", "disable_git": True, "disable_code": True, "x_disable_meta": True,
    }  # fmt: skip


def test_a_tracker_that_fails_ends_no_run(
    server: Server, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    server.broken, said = True, []
    config = changed(word_bert, loop={"trackers": ["wandb"], "pairs": 0})
    pretrain(tiny[0].path, tmp_path / "run", config, callbacks=Callbacks(message=said.append))
    assert [text for text in said if "WeightsAndBiases fails" in text and "no route to host" in text]
    assert len([text for text in said if "fails" in text]) == 1, "it is told no more"
    assert len(finite(tmp_path / "run")) > 1


def test_a_tracker_that_cannot_begin_ends_no_run(
    server: Server, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_account(**_: Any) -> None:
        raise PermissionError("no API key")

    monkeypatch.setattr(sys.modules["wandb"], "init", no_account)
    said: list[str] = []
    config = changed(word_bert, loop={"trackers": ["wandb", "mlflow"], "pairs": 0})
    pretrain(tiny[0].path, tmp_path / "run", config, callbacks=Callbacks(message=said.append))
    assert [text for text in said if "WeightsAndBiases fails" in text and "no API key" in text]
    assert server.told("m1") == finite(tmp_path / "run")


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"wandb.*trackers") as caught:
        pretrain(tiny[0].path, tmp_path / "run", changed(word_bert, loop={"trackers": ["wandb"], "pairs": 0}))
    assert "ctglip[trackers]" in caught.value.fix
    assert not (tmp_path / "run").exists()
