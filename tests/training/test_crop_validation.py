"""Validation on crops: the same answers wherever crops are kept, and of the studies alone that can be read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctglip.config import merge, validate
from ctglip.data.organs import CropDataSettings
from ctglip.inference import ct_readers
from ctglip.inference.scoring import dictionaries_of
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.training.launch import pretrain
from ctglip.training.validation import build_validation
from tests.training.conftest import tiny_config
from tests.training.tiny import write_tiny_store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, word_bert: Path) -> tuple[Store, Path, CropDataSettings]:
    folder = tmp_path_factory.mktemp("validation")
    store, _ = write_tiny_store(folder / "store", 40, seed=5)
    config = tiny_config(word_bert, steps=2)
    pretrain(store.path, folder / "run", config)
    return store, folder / "run", config.data


def kept(data: CropDataSettings, keep: str, folder: Path, max_damaged: float = 0.05) -> CropDataSettings:
    cache = {"keep": keep, "folder": str(folder), "max_damaged": max_damaged}
    return validate(CropDataSettings, merge(data.model_dump(mode="json"), {"cache": cache}), "test")


def test_answers_are_the_same_wherever_crops_are_kept(
    trained: tuple[Store, Path, CropDataSettings], tmp_path: Path
) -> None:
    store, run, data = trained
    release = load_release(run)
    found = []
    for keep in ("memory", "disk", "none"):
        validation = build_validation(store, release, dictionaries_of(release), kept(data, keep, tmp_path))
        assert validation is not None
        found.append((validation.measure(), [(p.study_id, p.organ) for p in validation.instances]))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["val_pairs"] > 0
    assert list(tmp_path.rglob("*.crops"))


@pytest.mark.parametrize("keep", ["memory", "none"])
def test_crops_are_cut_in_workers(
    trained: tuple[Store, Path, CropDataSettings], tmp_path: Path, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers; this process cuts nothing, and what memory holds is cut once."""
    store, run, data = trained
    release, log = load_release(run), tmp_path / "log"
    plain = build_validation(store, release, dictionaries_of(release), kept(data, keep, tmp_path))
    assert plain is not None
    expected, cut = plain.measure(), ct_readers.read_crops

    def logged(*given: Any) -> Any:
        with log.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return cut(*given)

    monkeypatch.setattr(ct_readers, "read_crops", logged)
    shared = build_validation(store, release, dictionaries_of(release), kept(data, keep, tmp_path), workers=2)
    assert shared is not None
    assert shared.measure() == expected
    processes = log.read_text().split()
    assert str(os.getpid()) not in processes
    assert len(processes) == 8 * (1 if keep == "memory" else 2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep", ["memory", "none"])
def test_a_damaged_study_is_left_out(
    trained: tuple[Store, Path, CropDataSettings], tmp_path: Path, keep: str, workers: int
) -> None:
    store, run, data = trained
    copy = tmp_path / "store"
    shutil.copytree(store.path, copy)
    table = store.table("splits")
    damaged = table.filter(table["split"] == "val")["study_id"].sort()[0]
    shutil.rmtree(copy / "studies" / f"{damaged}.zarr")
    release = load_release(run)
    validation = build_validation(
        Store.open(copy),
        release,
        dictionaries_of(release),
        kept(data, keep, tmp_path / "crops", 0.5),
        workers=workers,
    )
    assert validation is not None
    studies = {instance.study_id for instance in validation.instances}
    assert studies
    assert damaged not in studies
    assert validation.measure()["val_pairs"] > 0
