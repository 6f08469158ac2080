"""``ctglip export``: the encoder in other projects' names, and a card that needs no invention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctglip.models.release import Release, save_release
from tests.cli.commands import good_here, here
from tests.models.conftest import tiny_bert  # noqa: F401
from tests.models.test_release import release  # noqa: F401


@pytest.fixture
def stored(release: Release, tmp_path: Path) -> Path:  # noqa: F811
    return save_release(tmp_path / "model", release)


def test_peers_and_a_card_come_with_a_line_each(stored: Path, tmp_path: Path) -> None:
    done = json.loads(good_here("export", stored, tmp_path / "out", "--also", "peers", "--also", "hub", "--json").out)
    assert {"peers/peers.json", "README.md", "model.safetensors"} <= set(done["files"])
    assert [note.split(":")[0] for note in done["notes"][:3]] == ["peers"] * 3
    assert len(done["notes"]) == 4


def test_an_evaluation_is_for_the_card_and_must_be_one(stored: Path, tmp_path: Path) -> None:
    done = here("export", stored, tmp_path / "out", "--evaluation", tmp_path)
    assert done.code == 2
    assert "--also hub" in done.err
    assert not (tmp_path / "out").exists()
    done = here("export", stored, tmp_path / "out", "--also", "hub", "--evaluation", tmp_path)
    assert done.code == 2
    assert "results.json is missing" in done.err
    assert not (tmp_path / "out" / "README.md").exists()
