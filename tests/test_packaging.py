"""What stands around the code: workflow, templates, citation, conda, licences."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import yaml

import ctglip

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_workflow_runs_targets_that_the_makefile_has() -> None:
    workflow = read(".github/workflows/ci.yml")
    assert set(workflow[True]) == {"push", "pull_request"}, "on:"
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    called = set()
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] > 0
        assert job["steps"][0]["uses"].startswith("actions/checkout@")
        for step in job["steps"]:
            assert len({"uses", "run"} & step.keys()) == 1
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
            called |= set(re.findall(r"\bmake ([a-z-]+)", step.get("run", "")))
    assert called == {"check", "test", "docs"}
    assert called <= targets


def test_versions_of_python_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert read(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == named


def test_the_version_stands_everywhere_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (
        project["version"]
        == ctglip.__version__
        == read("CITATION.cff")["version"]
        == read("conda/meta.yaml")["package"]["version"]
    )
    assert read("CITATION.cff")["license"] == project["license"]


def test_templates_ask_for_what_is_needed_and_warn_of_patients() -> None:
    bug = read(".github/ISSUE_TEMPLATE/bug.yml")
    assert {part.get("id") for part in bug["body"]} >= {"command", "message", "doctor"}
    assert "patients" in bug["body"][0]["attributes"]["value"]
    assert read(".github/ISSUE_TEMPLATE/feature.yml")["body"]


def test_licences_of_all_that_is_needed_are_listed() -> None:
    module = runpy.run_path(str(ROOT / "docs/licences.py"))
    names = module["needed"]("ctglip")
    assert {"ctglip", "torch", "monai", "zarr", "numpy", "pydantic-core"} <= names
    assert "ruff" not in names
    assert module["licence_of"]("ctglip") == "Apache-2.0"
    assert module["licence_of"]("torch") != "not stated"
