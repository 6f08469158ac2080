"""The small store of the store's own tests."""

from tests.store.conftest import store

__all__ = ["store"]
