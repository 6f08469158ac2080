"""Every benchmark and every experiment has a quick form and can keep its figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STARTED_BY_ANOTHER = {"preprocessing_parts.py", "training_memory.py"}
WRITES_DATA = {"dictionary_words", "evidence"}
BENCHMARKS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.name not in STARTED_BY_ANOTHER]
EXPERIMENTS = [
    path for path in sorted((ROOT / "experiments").glob("*/__main__.py")) if path.parent.name not in WRITES_DATA
]


@pytest.mark.parametrize("script", [*BENCHMARKS, *EXPERIMENTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_it_has_a_quick_form_and_keeps_its_figures(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    for option in ("--quick", "--json"):
        assert re.search(rf'add_argument\("{option}"', text)
        assert option in text[: text.index('"""', 3)], "the docstring names it"
    assert len(re.findall(r"\b(?:asked|options|arguments)\.(?:json|quick|size)\b", text)) >= 2, "it reads both"


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [path for path in BENCHMARKS if path.name != "report_parsing.py"], ids=lambda path: path.name
)
def test_its_quick_form_runs(script: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(script), "--quick", "--json", str(figures)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(figures.read_text(encoding="utf-8"))
