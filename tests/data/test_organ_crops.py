"""Crops are the same wherever they are kept; what lies on disk is a crop or nothing; damaged studies are counted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctglip.config import validate
from ctglip.data import loading
from ctglip.data.collate import images_of
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.loading import prefetched
from ctglip.data.organ_crops import (
    CacheSettings,
    CropFiles,
    cut_study,
    instances_of,
    open_crops,
    read_crops,
    resolve,
    slot_bytes,
)
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.data.reader import CachedReader
from ctglip.data.samples import OrganInstance, OrganSample
from ctglip.data.sampling import BalancedSampler, SamplingSettings
from ctglip.errors import CTGLIPError, StoreError
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

ORGANS = load_organs()
SETTINGS = CropSettings(grid=(12, 12, 12), details=("highest", "lowest"))

NAMES = ["liver", "spleen", "kidney_left", "kidneys"]


def instances(store: Store) -> list[Any]:
    return instances_of(store, store.study_ids, NAMES, SETTINGS)


def same(a: Sequence[OrganCrop | None], b: Sequence[OrganCrop | None]) -> bool:
    arrays = ("organ", "hu", "detail", "mask", "size", "median_hu")
    return len(a) == len(b) and all(
        np.array_equal(getattr(one, n), getattr(two, n)) for one, two in zip(a, b, strict=True) for n in arrays
    )


def reader(store: Store, keep: str, folder: Path | None = None) -> CachedReader[OrganInstance, OrganCrop]:
    cache = CacheSettings(keep=keep, folder=None if folder is None else str(folder))  # type: ignore[arg-type]
    return open_crops(store, instances(store), SETTINGS, ORGANS, cache)


def test_crops_are_the_same_from_memory_store_and_disk(tiny_store: Store, tmp_path: Path) -> None:
    memory = reader(tiny_store, "memory")
    memory.preload()
    rows = np.random.default_rng(0).permutation(len(memory.keys))
    some = [memory.keys[row] for row in rows]
    assert len(rows) >= 60
    for keep in ("none", "disk", "disk"):
        assert same(reader(tiny_store, keep, tmp_path).read(some), memory.read(some))


def test_the_second_time_memory_and_disk_answer_alone(
    tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [instances(tiny_store)[row] for row in (3, 0, 5)]
    memory, disk = (reader(tiny_store, keep, tmp_path) for keep in ("memory", "disk"))
    first = memory.read(some)
    assert same(disk.read(some), first)
    monkeypatch.setattr(Store, "study", lambda *_: pytest.fail("the study was read again"))
    assert same(memory.read(some), first)
    assert same(reader(tiny_store, "disk", tmp_path).read(some), first)


def test_only_the_chunks_of_the_crop_are_read(tiny_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[Any] = []
    plain = StudyReader.image

    def noted(self: StudyReader, box: Any = None) -> np.ndarray:
        boxes.append(box)
        return plain(self, box)

    monkeypatch.setattr(StudyReader, "image", noted)
    reader(tiny_store, "none").read(instances(tiny_store)[1:2])
    (x0, x1, y0, y1, z0, z1) = boxes[0]
    assert (x1 - x0) * (y1 - y0) * (z1 - z0) < 20**3 / 2


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-100],
        lambda data: data[:-900] + b"\x00" * 900,
        lambda data: data[:-500] + bytes([data[-500] ^ 1]) + data[-499:],
        lambda data: b"",
    ],
    ids=["cut off", "zeros after a crash", "one bit", "empty"],
)
def test_what_a_crash_leaves_behind_is_cut_again(
    tiny_store: Store, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    instance, files = instances(tiny_store)[0], CropFiles(tmp_path, tiny_store, SETTINGS, ORGANS)
    first = reader(tiny_store, "disk", tmp_path).read([instance])
    path = files.path(instance.study_id)
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    assert files.read(instance.study_id, instance.row) is None
    assert same(reader(tiny_store, "disk", tmp_path).read([instance]), first)
    assert path.read_bytes()[-slot_bytes(SETTINGS) :] == whole[-slot_bytes(SETTINGS) :]


def test_other_settings_recipes_and_sources_have_other_files(tiny_store: Store, tmp_path: Path) -> None:
    def path(store: Store, **settings: Any) -> Path:
        return CropFiles(tmp_path, store, SETTINGS.model_copy(update=settings), ORGANS).path("s000")

    here = path(tiny_store)
    assert path(tiny_store, windows_hu=((-100.0, 300.0),)) == here
    assert path(tiny_store, grid=(8, 8, 8)).parent != here.parent
    assert path(tiny_store, details=("lowest", "highest")).parent != here.parent
    other = Store(tiny_store.path, tiny_store.info.model_copy(update={"recipe_hash": "other"}))
    assert path(other).parent != here.parent
    files = CropFiles(tmp_path, tiny_store, SETTINGS, ORGANS)
    files.__dict__["_sources"] = {"s000": "another scan"}
    assert files.path("s000").parent == here.parent
    assert files.path("s000").name != here.name


def test_a_box_that_moved_is_not_taken_from_disk(tiny_store: Store, tmp_path: Path) -> None:
    instance = instances(tiny_store)[0]
    files = CropFiles(tmp_path, tiny_store, SETTINGS, ORGANS)
    reader(tiny_store, "disk", tmp_path).read([instance])
    assert files.read(instance.study_id, instance.row) is not None
    x0, *rest = instance.row.box
    assert files.read(instance.study_id, replace(instance.row, box=(x0 + 1, *rest))) is None


def test_a_disk_that_cannot_be_written_is_done_without(tiny_store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    some = instances(tiny_store)[:2]
    found = reader(tiny_store, "disk", tmp_path / "file").read(some)
    assert same(found, reader(tiny_store, "none").read(some))


def test_a_study_is_cut_once_for_all_models_that_cut_alike(
    tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = tiny_store.study_ids[0]
    rows = [instance.row for instance in instances(tiny_store) if instance.study_id == study_id]
    plain = cut_study(tiny_store.study(study_id), rows, SETTINGS, ORGANS)
    files, asked = CropFiles(tmp_path, tiny_store, SETTINGS, ORGANS), []

    def cut(study: StudyReader, some: list[Any], *rest: Any) -> list[Any]:
        asked.append([row.organ for row in some])
        return cut_study(study, some, *rest)

    monkeypatch.setattr("ctglip.data.organ_crops.cut_study", cut)
    read_crops(tiny_store, study_id, rows[1:2], SETTINGS, ORGANS, files)
    for _ in range(2):
        assert same(read_crops(tiny_store, study_id, rows, SETTINGS, ORGANS, files), plain)
    assert asked == [[rows[1].organ], [row.organ for row in rows if row is not rows[1]]]


def test_a_few_organs_and_all_of_a_study_are_cut_alike(tiny_store: Store) -> None:
    study = tiny_store.study(tiny_store.study_ids[0])
    rows = [one.row for one in instances(tiny_store) if one.study_id == study.study_id]
    assert len(rows) == 4
    one_by_one = [crop for row in rows for crop in cut_study(study, [row], SETTINGS, ORGANS)]
    assert same(cut_study(study, rows, SETTINGS, ORGANS), one_by_one)


def test_auto_takes_memory_then_disk_then_none(
    tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = slot_bytes(SETTINGS)
    small = CacheSettings(memory_gb=10 * size / 1e9, folder=str(tmp_path / "new" / "folder"))
    assert resolve(small, 10, size, tiny_store) == "memory"
    assert resolve(small, 11, size, tiny_store) == "disk"
    monkeypatch.setattr("ctglip.data.organ_crops.free_bytes", lambda _: 20 * size)
    assert resolve(small, 11, size, tiny_store) == "none"
    assert resolve(CacheSettings(keep="memory"), 10**9, size, tiny_store) == "memory"


# ---- batches


def dataset(store: Store, folder: Path, keep: str, max_damaged: float = 0.05, **augment: Any) -> OrganDataset:
    tree = {
        "organs": NAMES[:3],
        "crops": {"grid": [12, 12, 12]},
        "cache": {"keep": keep, "folder": str(folder), "max_damaged": max_damaged},
        "augment": augment,
    }
    return OrganDataset(store, "train", ORGANS, load_abnormalities(), validate(CropDataSettings, tree, "test"))


def batches(data: OrganDataset) -> Callable[[int], list[OrganSample]]:
    sampler = BalancedSampler(data.captions.pools(), SamplingSettings(batch=9, organs=3), seed=1)

    def batch(step: int) -> list[OrganSample]:
        rng = sampler.rng(step)
        return data.samples(sampler.rows(rng), rng)

    return batch


def equal(a: list[OrganSample], b: list[OrganSample]) -> bool:
    def key(one: OrganSample) -> list[Any]:
        arrays = (one.image, one.mask, one.size, one.negative_ids)
        return [
            *(v.tobytes() for v in arrays),
            one.organ_id,
            one.text_id,
            one.text_key,
            one.study_index,
            one.parameters,
        ]

    return [key(one) for one in a] == [key(one) for one in b]


@pytest.mark.parametrize("keep", ["memory", "disk", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_however_crops_are_kept_and_whoever_makes_them(
    tiny_store: Store, tmp_path: Path, keep: str, workers: int
) -> None:
    plain = batches(dataset(tiny_store, tmp_path / "plain", "memory", zoom=0.1, gain=0.01, noise_hu=3.0))
    other = batches(dataset(tiny_store, tmp_path / "other", keep, zoom=0.1, gain=0.01, noise_hu=3.0))
    for _ in range(2):  # on disk, the second time they are read from there
        for step, (batch, _) in enumerate(prefetched(other, 0, 4, workers)):
            assert equal(batch, plain(step))


def test_images_that_are_made_together_are_those_of_each_sample(tiny_store: Store, tmp_path: Path) -> None:
    data = dataset(tiny_store, tmp_path, "memory", zoom=0.1, gain=0.01, noise_hu=3.0)
    samples = batches(data)(0)
    assert torch.equal(images_of(samples), torch.stack([torch.from_numpy(one.image) for one in samples]))


def damage(store: Store, study_id: str) -> None:
    folder = store.path / "studies" / f"{study_id}.zarr" / "image"
    shard = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:7])


def train_studies(store: Store) -> list[str]:
    return store.table("splits").filter(split="train")["study_id"].sort().to_list()


@pytest.mark.parametrize("keep", ["memory", "disk", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_study_is_skipped_counted_and_named(
    own_store: Store, tmp_path: Path, keep: str, workers: int
) -> None:
    broken = train_studies(own_store)[:2]
    damage(own_store, broken[0])
    shutil.rmtree(own_store.path / "studies" / f"{broken[1]}.zarr")
    data = dataset(own_store, tmp_path, keep, max_damaged=0.5)
    named = {name: number for number, name in enumerate(train_studies(own_store))}
    found = [batch for batch, _ in prefetched(batches(data), 0, 6, workers)]
    again = [batches(data)(step) for step in range(6)]
    assert all(equal(a, b) for a, b in zip(found, again, strict=True))
    for batch in found:
        assert len({one.row for one in batch}) == len(batch) == 9
        assert not {one.study_index for one in batch} & {named[name] for name in broken}
        assert sorted(one.organ_id for one in batch) == sorted([one.organ_id for one in batch[::3]] * 3)
    failures = {failure.study_id: failure for failure in data.failures}
    assert set(failures) == set(broken)
    assert failures[broken[0]].code == "damaged_study"
    assert failures[broken[1]].code == "no_study"


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_damaged_studies_end_the_run_on_the_way(own_store: Store, tmp_path: Path, workers: int) -> None:
    data = dataset(own_store, tmp_path, "none", max_damaged=0.2)
    coming = prefetched(batches(data), 0, 200, workers)
    next(coming)
    broken = train_studies(own_store)[:4]
    for study_id in broken:
        damage(own_store, study_id)
    with pytest.raises(StoreError, match=r"of 12 studies cannot be read") as error:
        list(coming)
    assert error.value.code == "damaged_store"
    assert any(study_id in error.value.message for study_id in broken)


def test_too_many_damaged_studies_end_the_run_at_once_in_memory(own_store: Store, tmp_path: Path) -> None:
    for study_id in train_studies(own_store)[:4]:
        damage(own_store, study_id)
    with pytest.raises(StoreError, match="4 of 12 studies cannot be read"):
        dataset(own_store, tmp_path, "memory", max_damaged=0.2)


def test_ranks_share_a_batch_that_does_not_depend_on_their_number(tiny_store: Store, tmp_path: Path) -> None:
    data = dataset(tiny_store, tmp_path, "memory", noise_hu=2.0)
    sampler = BalancedSampler(data.captions.pools(), SamplingSettings(batch=9, organs=3), seed=1)

    def batch(rank: int, world: int) -> list[OrganSample]:
        rng = sampler.rng(5)
        return data.samples(sampler.rows(rng), rng, rank, world)

    whole = batch(0, 1)
    for world in (2, 4):
        for rank in range(world):
            assert equal(batch(rank, world), whole[rank::world])


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    ],
    ids=["reset", "end", "signal"],
)
def test_a_killed_worker_is_named_however_it_is_noticed(error: Exception) -> None:
    def broken():
        raise error
        yield

    with pytest.raises(CTGLIPError, match="A process that makes batches died") as caught:
        loading._next(broken())
    assert caught.value.code == "worker_died"
    assert "fewer loop.workers" in str(caught.value)
