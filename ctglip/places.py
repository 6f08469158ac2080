"""Places to write to: probed before work begins, beside a store where it may be written, and never behind a link."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ctglip.errors import CTGLIPError, OutputError, StoreError
from ctglip.files import user_cache, value_hash, writing

_PROBE = bytes(1 << 16)


def writable_folder(path: Path) -> Path:
    """A folder that is to be written, or made: the path itself, once a file could be written where it will be.

    Raises:
        OutputError: it cannot be; nothing is left behind.
    """
    try:
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file, expected a folder to write.", fix="Name another.")
        _probe(path)
    except (ValueError, OSError) as error:
        if isinstance(error, CTGLIPError):
            raise
        raise OutputError(f"{path!r} cannot be written: {error}.", fix="Name another.") from error
    return path


def writable_file(path: Path) -> Path:
    """A file that is to be written, see ``writable_folder``.

    Raises:
        OutputError: it cannot be.
    """
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder, expected a file to write.", fix="Name another.")
        _probe(path.parent)
    except (ValueError, OSError) as error:
        if isinstance(error, CTGLIPError):
            raise
        raise OutputError(f"{path!r} cannot be written: {error}.", fix="Name another.") from error
    return path


def _probe(folder: Path) -> None:
    """Write and remove a file in a folder, or in the nearest one above that is there."""
    if "\0" in str(folder):
        raise ValueError("it holds a NUL")
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise OutputError(f"{folder} cannot be written: {there} is a file.", fix="Name another folder.")
    with writing(folder), tempfile.TemporaryFile(dir=there) as stream:
        stream.write(_PROBE)
        stream.flush()


def cache_of(store: Path, name: str) -> Path:
    """Where what is computed from a store is kept: in a folder of it, or, where it may not be written, in one of the
    user's own that is named after it.

    Raises:
        StoreError: ``link_in_store``: the store's folder is a link to elsewhere.
    """
    folder = store / name
    check_no_links(store, *(Path(*Path(name).parts[: k + 1]) for k in range(len(Path(name).parts))))
    there = next((path for path in (folder, *folder.parents) if path.exists()), store)
    if os.access(there, os.W_OK):
        return folder
    return user_cache() / "stores" / value_hash(str(store.resolve())) / name


def check_no_links(root: Path, *names: str | Path) -> None:
    """Refuse links where this program writes below a folder: who made it may not choose what is written elsewhere.

    Raises:
        StoreError: ``link_in_store``.
    """
    for name in names:
        if (root / name).is_symlink():
            raise StoreError(
                f"{root / name} is a link, and is not followed.",
                code="link_in_store",
                fix="Remove it; a config can name another folder for what is cached.",
            )


def lies_within(folder: Path, file: Path) -> bool:
    """Whether a file of a folder is its own, links followed: one that leads elsewhere is not, but for a snapshot of
    Hugging Face's cache and folders in it, whose files are links to the blobs beside the snapshots."""
    home = folder.resolve()
    snapshots = [one for one in home.parents if one.name == "snapshots"]
    allowed = [home, *(one.parent / "blobs" for one in snapshots)]
    target = file.resolve()
    return any(target.is_relative_to(one) for one in allowed)
