"""A store of tiny studies for what reads crops."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.store.tables import Store
from tests.training.tiny import write_tiny_store


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "store", 20)[0]


@pytest.fixture
def own_store(tmp_path: Path) -> Store:
    """A store that a test may damage."""
    return write_tiny_store(tmp_path / "store", 20)[0]
