from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from ctglip.config import Settings, load_settings, merge
from ctglip.errors import ConfigError
from ctglip.files import parse_yaml


class Adam(Settings):
    name: Literal["adam"] = "adam"
    lr: float = 1e-3


class Sgd(Settings):
    name: Literal["sgd"]
    momentum: float = 0.9


class Root(Settings):
    steps: int = Field(default=10, gt=0)
    study: str = "00001"
    optim: Adam | Sgd = Field(default=Adam(), discriminator="name")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("00123", "00123"),
        ("123", 123),
        ("-7", -7),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("yes", "yes"),
        ("true", True),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("~", None),
    ],
)
def test_yaml_scalars_are_what_they_look_like(text: str, value: object) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_yaml_runs_no_code() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("!!python/object/apply:os.system ['true']")


def test_extends_then_overrides(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "steps: 5\noptim: {name: adam, lr: 0.1}\n")
    child = write(tmp_path / "child.yaml", "extends: base.yaml\nstudy: 00042\n")
    settings = load_settings(Root, child, ["optim.lr=0.2", "steps=7"])
    assert settings == Root(steps=7, study="00042", optim=Adam(lr=0.2))


def test_changing_a_name_replaces_the_node() -> None:
    assert merge({"optim": {"name": "adam", "lr": 1}}, {"optim": {"name": "sgd"}}) == {"optim": {"name": "sgd"}}
    assert merge({"optim": {"name": "adam", "lr": 1}}, {"optim": {"name": "adam"}}) == {
        "optim": {"name": "adam", "lr": 1}
    }


def test_a_circle_of_bases_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml")
    write(tmp_path / "b.yaml", "extends: a.yaml")
    with pytest.raises(ConfigError, match=r"extends itself: a.yaml -> b.yaml"):
        load_settings(Root, tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 3", "step: unknown setting, did you mean 'steps'"),
        ("steps: 0", r"steps: Input should be greater than 0 \(found 0\)"),
        ("optim: {name: adam, lrr: 1}", r"optim.adam.lrr: unknown setting, did you mean 'lr'"),
        ("- a", "expected a mapping"),
        ("steps: [", "not valid YAML"),
    ],
)
def test_faults_name_the_setting(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(Root, write(tmp_path / "c.yaml", text))


def test_an_override_without_equals_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match="Write --set"):
        load_settings(Root, None, ["steps"])


def test_an_unknown_config_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="Shipped configs"):
        load_settings(Root, "no/such/config")
