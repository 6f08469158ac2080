"""The feature cache gives what encoding gives, once, and never something stale."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctglip.data.crops import OrganCrop
from ctglip.data.organ_crops import cut_study
from ctglip.errors import ModelError, StoreError
from ctglip.inference import feature_cache
from ctglip.inference.ct_readers import CropOrganReader
from ctglip.inference.feature_cache import MASK_ONLY, FeatureCache, FeatureView, organ_features_of
from ctglip.inference.model_readers import reader_of
from ctglip.models.release import Release, load_release
from ctglip.store.study import StudyRecord, write_study
from ctglip.store.tables import Store, compact
from ctglip.types import Standardized
from ctglip.vocabulary.organs import load_organs
from tests.inference.reading import encoded

Trained = tuple[Store, Path]
ORGANS = ["liver", "spleen", "kidney_left"]


@pytest.fixture(scope="module")
def release(trained: Trained) -> Release:
    return load_release(trained[1])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops each call of the encoder was given."""
    counts: list[int] = []

    encode = CropOrganReader.encode

    def noted(reader, images, *rest, **named):
        counts.append(len(images))
        return encode(reader, images, *rest, **named)

    monkeypatch.setattr(CropOrganReader, "encode", noted)
    return counts


def test_the_cache_gives_what_the_encoder_gives(trained: Trained, release: Release, tmp_path: Path) -> None:
    store, ids = trained[0], trained[0].study_ids[:5]
    reader = reader_of(release)
    instances = tuple(reader.instances(store, ids, ORGANS))
    plain = encoded(reader, store, instances)
    for _ in range(2):
        found = organ_features_of(store, release, ids, ORGANS, folder=tmp_path, batch=4)
        assert found.instances == instances
        for part in ("features", "anatomy", "diagnosis"):
            np.testing.assert_allclose(getattr(found.embeddings, part), getattr(plain, part), atol=1e-5)
    assert found.table()["volume_ml"].to_list() == [instance.row.volume_ml for instance in instances]


def test_every_organ_is_encoded_once(trained: Trained, release: Release, tmp_path: Path, counted: list[int]) -> None:
    store, ids = trained[0], trained[0].study_ids[:6]
    first = organ_features_of(store, release, ids[:4], ["liver"], folder=tmp_path)
    assert (sum(counted), first.encoded) == (4, 4)
    again = organ_features_of(store, release, ids[:4], ["liver"], folder=tmp_path)
    assert (sum(counted), again.encoded) == (4, 0)
    more = organ_features_of(store, release, ids, ["liver", "spleen"], folder=tmp_path)
    assert (sum(counted), more.encoded) == (12, 8)
    organ_features_of(store, release, ids, ["spleen", "liver"], folder=tmp_path)
    assert sum(counted) == 12
    organ_features_of(store, release, ids[:1], ["liver"], folder=tmp_path, view=MASK_ONLY)
    assert sum(counted) == 13


def test_a_view_changes_the_crops(trained: Trained, release: Release, tmp_path: Path) -> None:
    def emptied(*of) -> list[OrganCrop]:
        return [replace(crop, hu=np.full_like(crop.hu, -1024)) for crop in cut_study(*of)]

    store, ids = trained[0], trained[0].study_ids[:2]
    plain, changed = (
        organ_features_of(store, release, ids, ORGANS, folder=tmp_path, view=view)
        for view in (FeatureView(), FeatureView("emptied", cut=emptied))
    )
    assert plain.instances == changed.instances
    assert not np.allclose(plain.embeddings.features, changed.embeddings.features)


def test_a_damaged_or_stale_file_is_encoded_again(
    trained: Trained, release: Release, tmp_path: Path, counted: list[int]
) -> None:
    shutil.copytree(trained[0].path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    ids = store.study_ids[:2]
    before = organ_features_of(store, release, ids, ORGANS)
    files = sorted((store.path / "features").rglob("*.safetensors"))
    assert [file.stem for file in files] == ids
    files[0].write_bytes(files[0].read_bytes()[:100])
    again = organ_features_of(store, release, ids, ORGANS)
    np.testing.assert_allclose(again.embeddings.features, before.embeddings.features, atol=1e-5)
    assert counted == [6, 3]

    reader = store.study(ids[1])
    other = Standardized(
        reader.image() // 2, reader.organs(), reader.affine, before.instances[3].row and _rows(before, 1)
    )
    record = StudyRecord(ids[1], "p001", other, "another scan", store.info.recipe_hash)
    write_study(store.path, record)
    compact(store)
    changed = organ_features_of(Store.open(store.path), release, ids, ORGANS)
    assert counted == [6, 3, 3]
    assert not np.allclose(changed.embeddings.features[3:], before.embeddings.features[3:], atol=1e-3)


def _rows(found: feature_cache.OrganFeatures, study: int):
    return tuple(instance.row for instance in found.instances[3 * study : 3 * study + 3])


def test_another_model_has_another_key(release: Release) -> None:
    organs = load_organs()
    key = feature_cache.feature_key(release, organs)
    assert key == feature_cache.feature_key(release, organs)
    assert key != feature_cache.feature_key(release, organs, MASK_ONLY)
    other = copy.deepcopy(release)
    next(iter(other.model.parameters())).data.mul_(1.001)
    assert key != feature_cache.feature_key(other, organs)


def test_a_folder_that_cannot_be_written_to_is_no_fault(trained: Trained, release: Release, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    found = organ_features_of(trained[0], release, trained[0].study_ids[:2], ORGANS, folder=tmp_path / "file")
    assert len(found) == 6
    cache = FeatureCache(tmp_path / "file" / "key")
    rows = [found.instances[0].row]
    cache.write("s", "", rows, {rows[0].organ: dict.fromkeys(feature_cache.PARTS, np.zeros(2))})
    assert not cache.writable


def test_faults_are_named(trained: Trained, release: Release, tmp_path: Path) -> None:
    shutil.copytree(trained[0].path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    for study in store.study_ids[:3]:
        (store.path / "studies" / f"{study}.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="3 of 4 studies cannot be read"):
        organ_features_of(store, release, store.study_ids[:4], ORGANS, folder=tmp_path / "cache")
    other = store.info.model_copy(update={"recipe": {**store.info.recipe, "min_organ_ml": 9.0}})
    with pytest.raises(ModelError, match="another recipe"):
        organ_features_of(Store(store.path, other), release, store.study_ids[:1], ORGANS)
