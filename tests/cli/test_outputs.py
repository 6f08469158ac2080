"""Every command that writes says in one line, before any work, that it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import here

COMMANDS = {
    "simulate": ("simulate", "{out}", "--studies", "2"),
    "cohort": ("cohort", "jsrt", "{in}", "{out}"),
    "preprocess": ("preprocess", "{in}/cohort.csv", "{out}"),
    "pretrain": ("pretrain", "{in}/store", "{out}", "--config", "small/ctglip_cnn"),
    "evaluate": ("evaluate", "{in}/run", "{in}/store", "{out}"),
    "compare": ("compare", "{in}/run", "{in}/run", "{in}/store", "{out}"),
    "finetune": ("finetune", "{in}/run", "{in}/store", "{out}", "--labels", "{in}/labels.csv"),
    "embed": ("embed", "{in}/run", "{in}/store", "{out}"),
    "query": ("query", "{in}/run", "{in}/scan.nii.gz", "--ask", "liver: fatty liver", "--out", "{out}"),
    "export": ("export", "{in}/run", "{out}"),
    "store export": ("store", "export", "{in}/store", "1", "--out", "{out}"),
    "parse": ("parse", "{in}/cohort.csv", "--out", "{out}/findings.csv"),
    "dictionary": ("dictionary", "build", "{in}/cohort.csv", "--out", "{out}/proposals.yaml"),
    "demo": ("demo", "{out}"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for out in (tmp_path / "file" / "out", Path("/proc/ctglip-out")):
        arguments = [word.replace("{out}", str(out)).replace("{in}", str(tmp_path)) for word in COMMANDS[name]]
        done = here(*arguments)
        assert done.code == 2, done.out + done.err
        assert "cannot be written" in done.err
        assert len(done.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
