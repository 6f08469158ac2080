"""A model as the hub has it: a local folder goes there and back, and an upload holds all files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctglip.errors import ModelError
from ctglip.models.hub import HubModel, write_card
from ctglip.models.release import load_release
from tests.models.test_release import answer, release  # noqa: F401


def test_there_and_back(release, tmp_path: Path) -> None:  # noqa: F811
    HubModel(release).save_pretrained(tmp_path / "hub")
    assert (tmp_path / "hub" / "README.md").read_text().startswith("---")
    again = HubModel.from_pretrained(str(tmp_path / "hub")).release
    torch.testing.assert_close(answer(again), answer(release), atol=1e-6, rtol=0)
    assert load_release(tmp_path / "hub").recipe == release.recipe
    assert not [p for p in (tmp_path / "hub").rglob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl")]


def test_an_upload_is_the_whole_model(release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    import shutil

    from huggingface_hub import HfApi

    class Repo:
        repo_id = "me/model"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, **_: Repo())
    up = tmp_path / "up"
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, folder_path, **_: shutil.copytree(folder_path, up))
    HubModel(release).push_to_hub("me/model")
    torch.testing.assert_close(answer(load_release(up)), answer(release), atol=1e-6, rtol=0)


def test_a_download_whose_files_are_links_is_saved_again(release, tmp_path: Path) -> None:  # noqa: F811
    """The hub's cache keeps blobs, and snapshots of links to them."""
    cache = tmp_path / "models--me--model"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    HubModel(release).save_pretrained(snapshot)
    blobs.mkdir()
    for number, file in enumerate(sorted(one for one in snapshot.rglob("*") if one.is_file())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    HubModel.from_pretrained(str(snapshot)).save_pretrained(tmp_path / "again")
    torch.testing.assert_close(answer(load_release(tmp_path / "again")), answer(release), atol=1e-6, rtol=0)
    assert not [file for file in (tmp_path / "again").rglob("*") if file.is_symlink()]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        HubModel.from_pretrained(str(tmp_path))


def test_a_card_for_an_exported_folder(release, tmp_path: Path) -> None:  # noqa: F811
    assert "ctglip" in write_card(release, tmp_path).read_text()
