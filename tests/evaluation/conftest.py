"""A tiny store and a run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.store.tables import Store
from ctglip.training.launch import pretrain
from tests.training.conftest import tiny_config
from tests.training.tiny import write_tiny_store, write_word_bert


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, Path]:
    """A store of 60 tiny studies, its label table, and a run of a few steps."""
    folder = tmp_path_factory.mktemp("tiny")
    store, truth = write_tiny_store(folder / "store", 60)
    pretrain(store.path, folder / "run", tiny_config(write_word_bert(folder / "bert"), steps=4))
    return store, truth, folder / "run"
