"""Every dataset as a user of torch has it: rows, a ``DataLoader`` with worker processes, a batch with words in it."""

from __future__ import annotations

import pickle
import shutil
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, random_split

from ctglip.data import reader
from ctglip.data.augment import AugmentSettings
from ctglip.data.crops import CropSettings
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.dataset import TextDataset
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.data.samples import NO_TEXT
from ctglip.data.scans import ScanDataSettings, ScanSettings
from ctglip.data.studies import StudyDataset
from ctglip.errors import StoreError
from ctglip.store.tables import Store
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.training.tiny import write_tiny_radiographs

DICTIONARIES = (load_organs(), load_abnormalities())
ORGANS = CropDataSettings(
    crops=CropSettings(grid=(8, 8, 8)), negatives=3, augment=AugmentSettings(shift_voxels=1, shift_hu=5.0)
)
SCANS = ScanDataSettings(input=ScanSettings(grid=(16, 16, 16)), batch=4, copies=2, negatives=3)
RADIOGRAPHS = CxrDataSettings(size=32, batch=4, copies=2, negatives=3)


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_radiographs(tmp_path_factory.mktemp("radiographs") / "store", 16)[0]


def studies(store: Store, texts: str, **more: Any) -> StudyDataset:
    radiographs = store.info.modality == "cxr"
    settings = RADIOGRAPHS if radiographs else SCANS
    return StudyDataset(store, "train", *DICTIONARIES, settings, texts=texts, **more)  # pyright: ignore


def crops(store: Store, **more: Any) -> OrganDataset:
    return OrganDataset(store, "train", *DICTIONARIES, ORGANS, **more)


KINDS = ["crops", *(f"{images}, {texts}" for images in ("ct", "cxr") for texts in ("organs", "pairs", "reports"))]


@pytest.fixture(params=KINDS)
def data(request: pytest.FixtureRequest, tiny_store: Store, radiographs: Store) -> TextDataset:
    if request.param == "crops":
        return crops(tiny_store)
    images, texts = request.param.split(", ")
    return studies(tiny_store if images == "ct" else radiographs, texts)


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
        if "boxes" in batch:
            names = ("study_index", "organ", "organ_text", "size", "boxes", "negatives")
            assert len({len(batch[name]) for name in names}) == 1
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


@pytest.mark.parametrize("texts", ["crops", "organs", "pairs", "reports"])
def test_texts_and_organs_are_numbered_as_asked(tiny_store: Store, texts: str) -> None:
    names = tuple(reversed(load_organs().names))
    numbers = {"text_ids": lambda several: [number + 100 for number in range(len(several))], "organ_names": names}
    make = crops if texts == "crops" else lambda store, **more: studies(store, texts, **more)
    plain, other = make(tiny_store), make(tiny_store, **numbers)
    before, after = plain.collate(plain.sampled([0, 1, 2], 5)), other.collate(other.sampled([0, 1, 2], 5))
    same = set(before) & {"text", "negatives", "organ", "organ_text", "findings", "report"}
    assert all(after[name] == before[name] for name in same)
    if texts != "pairs":
        assert not torch.equal(after["text_id"], before["text_id"])
        assert after["text_id"][after["text_id"] != NO_TEXT].min() >= 100
        assert [names[number] for number in after["organ_id"].tolist()] == after["organ"]


def test_words_belong_to_their_organ(tiny_store: Store) -> None:
    data = crops(tiny_store)
    batch = data.collate(data.sampled(range(len(data)), 0))
    instances = data.instances
    assert batch["organ"] == [instances[int(row)].organ for row in batch["row"]]
    assert batch["mask"].shape == (len(data), 1, 8, 8, 8)


def test_a_damaged_scan_is_left_out_of_its_batch(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_FAILED_SHARE", 0.5)
    nothing_kept = SCANS.model_copy(update={"keep_gb": 0.0})
    data = StudyDataset(own_store, "train", *DICTIONARIES, nothing_kept, texts="pairs")
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
