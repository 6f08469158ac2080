from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.ci
def test_the_wheel_works_away_from_the_checkout(tmp_path: Path) -> None:
    """Build the wheel, install it alone into a new environment that borrows only the dependencies, run the command."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    (Path(folder) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = run(python, "-c", "import ctglip; print(ctglip.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path)
    sound = json.loads(run(tmp_path / "venv" / "bin" / "ctglip", "doctor", "--json", cwd=tmp_path))
    assert sound["organ dictionary"]["sound"]
    assert "small/ctglip_cnn" in run(
        python, "-c", "from ctglip.config import find_config; print(find_config('small/ctglip_cnn'))", cwd=tmp_path
    ).replace(".yaml", "")
    help_text = run(tmp_path / "venv" / "bin" / "ctglip", "preprocess", "--help", cwd=tmp_path)
    assert "cohort" in help_text.lower()
