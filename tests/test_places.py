"""Outputs are probed before work begins, and what lies behind a link is neither written nor copied."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ctglip.errors import OutputError, StoreError
from ctglip.places import cache_of, check_no_links, lies_within, writable_file, writable_folder


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "new", tmp_path / "a" / "b" / "c"):
        assert writable_folder(path) == path
    assert writable_file(tmp_path / "x" / "table.csv") == tmp_path / "x" / "table.csv"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "a" * 300, "nul\0", "/proc/new", "/dev/null/new", "/dev/full"])
def test_what_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError) as caught:
        writable_folder(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_disks_that_refuse(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def refuse(**_: object) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for probe in (writable_folder, writable_file):
        with pytest.raises(OutputError, match=os.strerror(number)):
            probe(tmp_path / "out")


def test_a_store_that_may_not_be_written_is_cached_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTGLIP_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert cache_of(first, "cache/crops") == first / "cache" / "crops"
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = [cache_of(store, name) for store in (first, second) for name in ("features", "cache/crops")]
    assert len(set(found)) == 4
    assert all(path.is_relative_to(tmp_path / "cache") for path in found)


def test_a_folder_in_a_store_that_another_user_owns_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTGLIP_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    (store / "derived").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != store / "derived")
    assert cache_of(store, "derived/texts").is_relative_to(tmp_path / "cache")
    assert cache_of(store, "cache/crops") == store / "cache" / "crops"


@pytest.mark.parametrize("link", ["cache", "cache/crops"])
def test_caches_behind_links_are_not_written(link: str, tmp_path: Path) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    (store / link).parent.mkdir(parents=True)
    elsewhere.mkdir()
    (store / link).symlink_to(elsewhere)
    with pytest.raises(StoreError) as caught:
        cache_of(store, "cache/crops")
    assert caught.value.code == "link_in_store"
    check_no_links(store, "studies", "journal.sqlite")


def test_files_of_a_folder_and_of_a_snapshot(tmp_path: Path) -> None:
    home = tmp_path / "models--a--b"
    snapshot, blobs, model = home / "snapshots" / "abc", home / "blobs", tmp_path / "model"
    for folder in (snapshot / "inner", blobs, model):
        folder.mkdir(parents=True)
    (blobs / "1").write_text("weights")
    (tmp_path / "secret").write_text("secret")
    for folder, target in ((snapshot, "../../blobs/1"), (snapshot, tmp_path / "secret"), (model, "../secret")):
        (folder / f"to_{Path(target).name}").symlink_to(target)
    (snapshot / "inner" / "to_1").symlink_to("../../../blobs/1")
    (model / "own").write_text("x")
    (model / "to_own").symlink_to("own")
    assert lies_within(snapshot, snapshot / "to_1")
    assert lies_within(snapshot / "inner", snapshot / "inner" / "to_1")
    assert not lies_within(snapshot, snapshot / "to_secret")
    assert not lies_within(model, model / "to_secret")
    assert lies_within(model, model / "own")
    assert lies_within(model, model / "to_own")
