"""A tiny store, and a run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.store.tables import Store
from ctglip.training.launch import pretrain
from tests.training.conftest import tiny_config
from tests.training.tiny import write_tiny_store, write_word_bert


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store of 60 tiny studies, and its label table."""
    return write_tiny_store(tmp_path_factory.mktemp("finetune") / "store", 60)


@pytest.fixture(scope="session")
def run(tiny: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on it."""
    folder = tmp_path_factory.mktemp("run")
    pretrain(tiny[0].path, folder / "run", tiny_config(write_word_bert(folder / "bert"), steps=40))
    return folder / "run"
