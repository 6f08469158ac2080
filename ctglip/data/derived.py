"""What is computed from a store once and shared by all ranks and runs: folders of arrays in the store's ``derived/``.

A folder is named by all that decides what is in it, so that a store that grew or another dictionary gives another one.
It is written beside its name and renamed: it is there whole or not at all. Whoever needs one that is not there makes
it; of two at once the second waits, or makes another part meanwhile. Arrays are memory-mapped, so all processes of a
machine hold them once. ``derived/`` can be deleted whenever nothing trains.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ctglip.files import atomic_path, remove, value_hash
from ctglip.places import cache_of
from ctglip.store.tables import Store
from ctglip.types import Progress

DERIVED = "derived"
_NAMES = "arrays.json"
"""Names the arrays of a folder."""
Arrays = Mapping[str, np.ndarray]


def derived(
    store: Store,
    name: str,
    key: Any,
    parts: Sequence[Callable[[], Arrays]],
    joined: Callable[[list[Arrays]], Arrays],
    progress: Progress | None = None,
) -> Arrays:
    """The arrays of that name and key, made where they are not there.

    Args:
        key: a JSON-able value: everything that they depend on.
        parts: make the parts that they are joined of. A part that was made is kept until all are joined, so work goes
            on where it was interrupted, and several processes share it.
        joined: makes them of all parts.
        progress: called with (parts done, parts).
    """
    folder = cache_of(store.path, DERIVED) / f"{name}-{value_hash(key)}"
    if (found := _read(folder)) is not None:
        return found
    work = folder.with_name(f".{folder.name}.parts")
    made: dict[int, Arrays] = {}

    def every() -> Arrays:
        return joined([made.get(number) or make() for number, make in enumerate(parts)])

    try:
        for wait in (False, True):  # first those that nobody else is making
            for number, make in enumerate(parts):
                if number not in made and (part := _once(work / f"{number:05d}", make, wait, folder)) is not None:
                    made[number] = part
                    if progress is not None:
                        progress(len(made), len(parts))
        found = _once(folder, every, wait=True, folder=folder)
        assert found is not None
        remove(work)
    except OSError:  # a full disk, or one that may not be written, or all was there meanwhile
        return _read(folder) or every()
    return found


def _once(target: Path, make: Callable[[], Arrays], wait: bool, folder: Path) -> Arrays | None:
    """What lies at ``target``, made where it does not; None where another process makes it and that is not waited for,
    or where the whole is there meanwhile."""
    if (found := _read(target)) is not None:
        return found
    with claimed(target, wait) as held:
        if not held or (target != folder and _read(folder) is not None):
            return None
        if (found := _read(target)) is None:
            found = make()
            with atomic_path(target) as temporary:
                temporary.mkdir()
                for name, array in found.items():
                    np.save(temporary / f"{name}.npy", array, allow_pickle=False)
                (temporary / _NAMES).write_text(json.dumps(list(found)), encoding="utf-8")
            found = _read(target) or found
        return found


def _read(folder: Path) -> Arrays | None:
    """The arrays of a folder, memory-mapped; None where one is not there, or damaged."""
    with suppress(OSError, ValueError, EOFError):
        names = json.loads((folder / _NAMES).read_bytes())
        return {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in names}
    return None


@contextmanager
def claimed(target: Path, wait: bool) -> Iterator[bool]:
    """Hold the right to make something, which the system takes back when its holder dies; False: another holds it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name.lstrip('.')}.lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
