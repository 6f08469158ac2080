"""Every dataset as a user of torch has it: rows, a ``DataLoader`` with worker processes, a batch with words in it."""

from __future__ import annotations

import inspect
import pickle
import pkgutil
import shutil
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, random_split

import ctglip.data
from ctglip.data import scans
from ctglip.data.augment import AugmentSettings
from ctglip.data.crops import CropSettings
from ctglip.data.cxr import CxrDataset, CxrDataSettings
from ctglip.data.cxr_organs import CxrOrganDataset
from ctglip.data.dataset import TextDataset
from ctglip.data.organs import DataSettings, OrganDataset
from ctglip.data.pairs import PairDataset
from ctglip.data.scan_reports import ScanReportDataset
from ctglip.data.scans import ScanSettings
from ctglip.data.studies import ScanDataSettings, StudyDataset
from ctglip.errors import StoreError
from ctglip.store.tables import Store
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.training.tiny import write_tiny_radiographs

DICTIONARIES = (load_organs(), load_abnormalities())
ORGANS = DataSettings(
    crops=CropSettings(grid=(8, 8, 8)), negatives=3, augment=AugmentSettings(shift_voxels=1, shift_hu=5.0)
)
SCANS = ScanDataSettings(input=ScanSettings(grid=(16, 16, 16)), batch=4, copies=2)
FILMS = CxrDataSettings(size=32, batch=4, copies=2)


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_radiographs(tmp_path_factory.mktemp("radiographs") / "store", 16)[0]


def cxr_organs(store: Store) -> CxrOrganDataset:
    return CxrOrganDataset(CxrDataset(store, "train", FILMS), store, *DICTIONARIES, DataSettings(negatives=3))


MAKE: dict[type[Dataset], Callable[[Store], TextDataset]] = {
    OrganDataset: lambda store: OrganDataset(store, "train", *DICTIONARIES, ORGANS),
    StudyDataset: lambda store: StudyDataset(store, "train", *DICTIONARIES, ORGANS, SCANS),
    PairDataset: lambda store: PairDataset(store, "train", *DICTIONARIES, ORGANS, SCANS),
    ScanReportDataset: lambda store: ScanReportDataset(store, "train", *DICTIONARIES, ORGANS, SCANS),
    CxrDataset: lambda store: CxrDataset(store, "train", FILMS),
    CxrOrganDataset: cxr_organs,
}


@pytest.fixture(params=MAKE, ids=lambda kind: kind.__name__)
def data(request: pytest.FixtureRequest, tiny_store: Store, radiographs: Store) -> TextDataset:
    kind = request.param
    return MAKE[kind](radiographs if kind in (CxrDataset, CxrOrganDataset) else tiny_store)


def test_no_dataset_is_forgotten() -> None:
    modules = [import_module(f"ctglip.data.{module.name}") for module in pkgutil.iter_modules(ctglip.data.__path__)]
    found = {
        value
        for module in modules
        for name, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__ and name.endswith("Dataset")
    }
    assert found == {TextDataset, *MAKE}
    assert all(issubclass(kind, Dataset) for kind in found)
    assert all("collate" in (kind.__doc__ or "") for kind in MAKE)


def test_rows_are_those_of_a_sequence(data: TextDataset) -> None:
    assert len(data) > 2
    torch.manual_seed(0)
    first = data.collate([data[0]])
    torch.manual_seed(0)
    assert equal(data.collate([data[-len(data)]]), first)
    with pytest.raises(IndexError):
        data[len(data)]
    assert sum(1 for _ in data) == len(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_sees_every_row_once(data: TextDataset, workers: int) -> None:
    loader = DataLoader(data, batch_size=3, shuffle=True, num_workers=workers, collate_fn=data.collate)
    batches = list(loader)
    assert sum(len(batch["image"]) for batch in batches) == len(data)
    said = 0
    for batch in batches:
        assert batch["image"].dtype == torch.float32
        assert batch["image"].isfinite().all()
        assert all(text is None or text.strip() for text in batch["text"])
        said += sum(text is not None for text in batch["text"])
        if "study_index" in batch and "organ" in batch and "mask" not in batch:
            counts = {len(batch[name]) for name in ("study_index", "organ", "size", "text", "negative_ids")}
            assert len(counts) == 1
            assert batch["study_index"].lt(3).all()
    assert said > 0


def test_chance_is_of_torch(data: TextDataset) -> None:
    def batches(seed: int) -> list:
        order = torch.Generator().manual_seed(seed)
        return list(DataLoader(data, 4, shuffle=True, num_workers=1, generator=order, collate_fn=data.collate))

    first, again, other = batches(1), batches(1), batches(2)
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(equal(a, b) for a, b in zip(first, other, strict=True))


def test_other_datasets_of_torch_are_made_of_it(data: TextDataset) -> None:
    parts = random_split(data, [1, len(data) - 1])
    assert [len(list(DataLoader(part, batch_size=1, collate_fn=data.collate))) for part in parts] == [1, len(data) - 1]
    twice = ConcatDataset([data, data])
    assert len(list(DataLoader(twice, batch_size=2, collate_fn=data.collate))) == len(data)


def test_a_spawned_worker_gets_a_copy(data: TextDataset) -> None:
    copied = pickle.loads(pickle.dumps(data))
    torch.manual_seed(3)
    first = data.collate(data.__getitems__([1, 0]))
    torch.manual_seed(3)
    assert equal(copied.collate(copied.__getitems__([1, 0])), first)


def test_texts_are_found_wherever_they_are_numbered(tiny_store: Store) -> None:
    data = MAKE[OrganDataset](tiny_store)
    assert isinstance(data, OrganDataset)
    before = data.collate(data.sampled([0, 1, 2], 5))
    data.bind([number + 100 for number in range(len(data.texts))], tuple(reversed(load_organs().names)))
    after = data.collate(data.sampled([0, 1, 2], 5))
    assert after["text"] == before["text"]
    assert after["negatives"] == before["negatives"]
    assert after["organ"] == before["organ"]
    assert not torch.equal(after["text_id"], before["text_id"])


def test_words_belong_to_their_organ(tiny_store: Store) -> None:
    data = MAKE[OrganDataset](tiny_store)
    assert isinstance(data, OrganDataset)
    batch = data.collate(data.sampled(range(len(data)), 0))
    instances = data.cache.instances
    assert batch["organ"] == [instances[int(row)].organ for row in batch["row"]]
    assert batch["mask"].shape == (len(data), 1, 8, 8, 8)


def test_a_damaged_scan_is_left_out_of_its_batch(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "MAX_FAILED_SHARE", 0.5)
    data = MAKE[PairDataset](own_store)
    assert isinstance(data, PairDataset)
    shutil.rmtree(own_store.path / "studies" / f"{data.study_ids[1]}.zarr")
    with pytest.raises(StoreError):
        data[1]
    assert len(data.sampled([0, 1, 2], 0)) == 2


def equal(one: object, other: object) -> bool:
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    return one == other
