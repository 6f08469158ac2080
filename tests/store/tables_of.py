"""A store's tables as tests take them: changed behind its back, and compared whatever their parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import polars as pl

from ctglip.store.format import TABLES
from ctglip.store.parts import table_path
from ctglip.store.tables import Store


def part_files(root: Path, name: str) -> list[Path]:
    """The files of a table, in order."""
    return sorted(table_path(root, name).glob("*"))


def change_table(store: Store, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Write every part of a table anew, as something else than this program would."""
    for path in part_files(store.path, name):
        change(pl.read_parquet(path)).write_parquet(path)


def table_hashes(store: Store) -> dict[str, str]:
    """A hash of each table's rows."""
    return {name: hashlib.sha256(store.table(name).write_json().encode()).hexdigest() for name in TABLES}


def as_before(store: Store) -> None:
    """Make each table one file, as stores had them before there were parts."""
    for name in TABLES:
        table = store.table(name)
        for path in part_files(store.path, name):
            path.unlink()
        folder = table_path(store.path, name)
        folder.rmdir()
        table.write_parquet(folder)
