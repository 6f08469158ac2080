"""Every benchmark and every experiment has a quick form and can keep its figures."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STARTED_BY_ANOTHER = {"preprocessing_parts.py", "training_memory.py"}
PARSED = ("asked", "options", "arguments")
WRITES_DATA = {"dictionary_words", "evidence"}
BENCHMARKS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.name not in STARTED_BY_ANOTHER]
EXPERIMENTS = [
    path for path in sorted((ROOT / "experiments").glob("*/__main__.py")) if path.parent.name not in WRITES_DATA
]


@pytest.mark.parametrize("script", [*BENCHMARKS, *EXPERIMENTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_it_has_a_quick_form_and_keeps_its_figures(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    told = text[: text.index('"""', 3)]
    known, read = options_of(text)
    for option in ("quick", "json"):
        assert option in known
        assert option in read
        assert f"--{option}" in told, "the docstring names it"


def options_of(text: str) -> tuple[set[str], set[str]]:
    """The options that a program declares, and those that it reads."""
    known, read = {"quick", "json"} if "parser_of(" in text else set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            names = [one.value for one in node.args if isinstance(one, ast.Constant)]
            (dest,) = [one.value.value for one in node.keywords if one.arg == "dest"] or [names[-1]]  # pyright: ignore
            known.add(str(dest).lstrip("-").replace("-", "_"))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PARSED:
            read.add(node.attr)
    return known, read


@pytest.mark.parametrize("script", EXPERIMENTS, ids=lambda path: path.parent.name)
def test_options_that_are_read_are_those_that_can_be_given(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    known, read = options_of("def main(" + text.partition("\ndef main(")[2])
    assert read <= known
    assert known <= options_of(text)[1], "each is read"


def test_an_option_by_another_name_is_seen() -> None:
    text = 'parser.add_argument("--cxr")\nasked = parser.parse_args()\nprint(asked.radiographs)\n'
    assert options_of(text) == ({"cxr"}, {"radiographs"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [[str(path)] for path in BENCHMARKS if path.name != "report_parsing.py"]
    + [["-m", f"experiments.{name}"] for name in ("place", "ecamp")],
    ids=lambda words: words[-1].rpartition("/")[2],
)
def test_its_quick_form_runs(script: list[str], tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, *script, "--quick", "--json", str(figures)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(figures.read_text(encoding="utf-8"))
