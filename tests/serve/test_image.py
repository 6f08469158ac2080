"""The container as its files describe it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ctglip.cli.main import app
from ctglip.files import read_yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    return read_yaml(ROOT / "compose.yaml")["services"]["serve"]


def test_both_targets_end_as_a_user_without_rights(steps: list[tuple[str, str]]) -> None:
    stages: dict[str, list[tuple[str, str]]] = {}
    for word, rest in steps:
        if word == "FROM":
            stages[rest.split(" AS ")[1]] = []
        stages[list(stages)[-1]].append((word, rest))
    assert set(stages) == {"base", "cpu", "cuda"}
    for name in ("cpu", "cuda"):
        assert stages[name][0] == ("FROM", f"base AS {name}")
        assert stages[name][-1] == ("USER", "ctglip")
        assert any(word == "RUN" and "-c constraints.txt '.[serve]'" in rest for word, rest in stages[name])
    assert {word for word, _ in steps} <= {
        "FROM", "ENV", "RUN", "WORKDIR", "COPY", "EXPOSE", "VOLUME", "HEALTHCHECK", "ENTRYPOINT", "CMD", "USER",
    }  # fmt: skip


def test_what_is_copied_is_there_and_not_left_out(steps: list[tuple[str, str]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [name for word, rest in steps if word == "COPY" for name in rest.split()[:-1]]
    assert ignored[0] == "*"
    for name in sources:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    build = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for needed in re.findall(r'^(\w+) = "ctglip/_resources', build, flags=re.MULTILINE):
        assert needed in sources


def test_its_command_is_one_of_ours_with_a_token(steps: list[tuple[str, str]]) -> None:
    (entry,) = [json.loads(rest) for word, rest in steps if word == "ENTRYPOINT"]
    (run,) = [json.loads(rest) for word, rest in steps if word == "CMD"]
    assert entry[:2] == ["ctglip", "serve"]
    options = {name for one in get_command(app).commands["serve"].params for name in one.opts}  # type: ignore[attr-defined]
    assert {word for word in entry if word.startswith("--")} <= options
    assert "--token-file" in entry
    assert run == ["/run/model"]
    (health,) = [rest for word, rest in steps if word == "HEALTHCHECK"]
    compile(json.loads(health.partition("CMD ")[2])[2], "health", "exec")


def test_compose_keeps_it_to_this_machine_and_read_only(service: dict[str, Any], steps: list[tuple[str, str]]) -> None:
    assert service["ports"] == ["127.0.0.1:8765:8765"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] != "root"
    targets = {rest.rpartition(" AS ")[2] for word, rest in steps if word == "FROM"}
    assert service["build"]["target"].partition(":-")[2].rstrip("}") in targets
    inside = {one.rsplit(":", 2 if one.endswith(":ro") else 1)[1] for one in service["volumes"]}
    assert inside == {"/run/model", "/run/secrets/token", "/data"}
