"""Radiographs and whole reports reach the objectives: sources, model, release, the pairs page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctglip.config import load_settings, merge
from ctglip.data.collate import collate_reports
from ctglip.data.cxr import CxrDataSettings, CxrInputSettings
from ctglip.data.samples import ReportBatch
from ctglip.data.scans import ScanSettings, cut_scan
from ctglip.data.studies import StudyDataset
from ctglip.errors import ConfigError, StoreError
from ctglip.features.text_bank import TextBank
from ctglip.models.release import load_release
from ctglip.models.text import load_text_encoder
from ctglip.objectives.base import total
from ctglip.objectives.texts import Texts
from ctglip.store.study import organ_row
from ctglip.store.tables import Store
from ctglip.training.assembly import Assembly, assemble, shipped_dictionaries
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.sources import open_source
from ctglip.training.tracking import read_metrics
from tests.training.conftest import SCANS, tiny_config

FILMS = {"data": {"name": "cxr", "size": 48, "batch": 8, "margin": 1.25}, "model": {"encoder": {"spatial_dims": 2}}}
IMITATE = {"objective": {"name": "imitate", "aggregation": {"keep": [0.5, 0.5], "grid": [4, 4], "tokens": 16}}}
KINDS: dict[str, dict[str, Any]] = {
    "organ_text, box": {"model": {"regions": {"name": "box"}}},
    "organ_query, query": {"model": {"regions": {"name": "query"}}, "objective": {"name": "organ_query"}},
    "global_pair": {"objective": {"name": "global_pair"}},
    "mixture": {
        "model": {"regions": {"name": "box"}},
        "objective": {
            "name": "mixture",
            "parts": {"organs": {"name": "organ_text"}, "radiographs": {"name": "global_pair"}},
            "weights": {"organs": 1.0, "radiographs": 0.5},
        },
    },
}


def cxr_config(encoder: Path, *changes: dict[str, Any], **loop: object) -> PretrainConfig:
    return tiny_config(encoder, FILMS, *changes, **loop)


@pytest.fixture
def assembled(tiny_cxr: tuple[Store, Path], word_bert: Path, tmp_path: Path):
    def make(kind: str, **changes: Any) -> Assembly:
        return assemble(tiny_cxr[0], tmp_path / "run", cxr_config(word_bert, KINDS[kind], changes), "cpu")

    return make


def reports_of(store: Store, config: PretrainConfig, bank: TextBank) -> StudyDataset:
    dictionaries = shipped_dictionaries(store)
    source = open_source(
        "reports", store, dictionaries, config.data, None, config.seed, "batch", [],
        text_ids=lambda texts: bank.ids(texts).tolist(), organ_names=dictionaries.organs.names,
    )  # fmt: skip
    assert isinstance(source, StudyDataset)
    return source


@pytest.fixture
def bank(word_bert: Path, tmp_path: Path) -> TextBank:
    return TextBank(tmp_path / "bank", load_text_encoder(tiny_config(word_bert).text))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_cxr_learns(assembled, kind: str) -> None:
    parts = assembled(kind)
    inputs = parts.release.model.inputs
    assert (inputs.in_channels, inputs.sizes) == (1, False)
    assert parts.release.scans is None
    assert CxrInputSettings.model_validate(parts.release.cxr).size == 48
    losses, _ = parts.objective(parts.batch(0))
    total(losses).backward()
    assert math.isfinite(total(losses).item())
    assert not [n for n, p in parts.objective.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_share_the_cxr_of_a_step(assembled, kind: str) -> None:
    parts = assembled(kind)

    def drawn() -> list[tuple[float, str]]:
        found = parts.samples(1)
        found = [one for some in found.values() for one in some] if isinstance(found, dict) else found
        return [(float(np.abs(one.image).sum()), str(np.asarray(one.text_id).tolist())) for one in found]

    whole, shared = drawn(), []
    for rank in range(2):
        parts.rank, parts.world = rank, 2
        shared += drawn()
    assert sorted(shared) == sorted(whole)
    assert len(set(parts.studies(1))) == 8


def test_organs_of_cxr_have_negatives_where_asked(assembled) -> None:
    batch = assembled("organ_text, box").batch(0)
    assert batch.negative_ids.shape[1] == 8
    assert (batch.negative_ids >= 0).any()
    assert assembled("organ_query, query").batch(0).negative_ids.shape[1] == 0


def test_the_parts_of_a_mixture_keep_the_cxr_once(assembled) -> None:
    sources = assembled("mixture").sources
    assert sources["organs"].images.reader is sources["radiographs"].images.reader
    assert assembled("mixture").sources["radiographs"].images.reader is not sources["radiographs"].images.reader


@pytest.mark.parametrize("kind", ["organ_text, box", "global_pair"])
def test_permuted_reports_belong_to_other_radiographs(assembled, kind: str) -> None:
    texts = []
    for flag in (False, True):
        parts = assembled(kind, data={"permute_texts": flag})
        found = [[one.report, *one.text_key] for step in range(3) for one in parts.samples(step)]
        texts.append(dict(zip([name for step in range(3) for name in parts.studies(step)], found, strict=True)))
    assert np.mean([texts[0][name] == texts[1][name] for name in texts[0]]) < 0.8


def test_what_does_not_suit_cxr_is_named(tiny_cxr, tiny, word_bert: Path, tmp_path: Path) -> None:
    for store, change, message in (
        (tiny_cxr[0], {"model": {"regions": {"name": "crop"}}}, "model.regions is crop"),
        (tiny_cxr[0], {"model": {"regions": {"name": "mask"}}}, "Set model.regions.name to one of: box, query"),
        (tiny_cxr[0], {**KINDS["global_pair"], "model": {"encoder": {"spatial_dims": 3}}}, "spatial_dims to 2"),
        (tiny[0], KINDS["global_pair"], "Take a config whose data.name is crops or scans"),
    ):
        with pytest.raises((ConfigError, StoreError)) as caught:
            assemble(store, tmp_path / "run", cxr_config(word_bert, change), "cpu")
        assert message in f"{caught.value} {caught.value.fix}"


def test_reports_of_radiographs(tiny_cxr, word_bert: Path, bank: TextBank) -> None:
    source = reports_of(tiny_cxr[0], cxr_config(word_bert, IMITATE, {"data": {"copies": 2}}), bank)
    batch = collate_reports(source.batch(0), Texts(bank).collate)
    assert batch.images.shape == (8, 2, 1, 48, 48)
    assert batch.boxes.shape[1:] == (2, 4)
    reports = tiny_cxr[0].table("reports")
    for row, name in enumerate(source.studies(0)):
        told = {r["section"]: r["text"] for r in reports.filter(reports["study_id"] == name).iter_rows(named=True)}
        for section in ("findings", "impression"):
            number = getattr(batch, section)[row]
            assert (bank.texts(number[None])[0] if number >= 0 else None) == told.get(section)
    assert source.taught.organs.keys() >= {"heart", "lung_right"}
    assert all(
        "lung" in text.lower() or "consolid" in text.lower() for text in regions(batch, bank, "right_lung", source)
    )


def regions(batch: ReportBatch, bank: TextBank, name: str, source: Any) -> list[str]:
    mine = batch.region_id == source.regions.index(name)
    return bank.texts(batch.region_text[mine & (batch.region_text >= 0)])


def test_reports_of_scans(tiny, word_bert: Path, bank: TextBank) -> None:
    views = {"data": {**SCANS, "copies": 2, "shift_voxels": 2, "shift_hu": 3.0}}
    config = tiny_config(word_bert, views, merge(IMITATE, {"objective": {"aggregation": {"grid": [4, 4, 2]}}}))
    source: Any = reports_of(tiny[0], config, bank)
    batch = collate_reports(source.batch(0), Texts(bank).collate)
    assert batch.images.shape == (4, 2, 2, 16, 16, 16)
    assert not torch.equal(batch.images[:, 0], batch.images[:, 1])
    assert (batch.findings >= 0).all()
    assert (batch.impression < 0).all(), "these reports have no impression"
    assert all("liver" in text.lower() or "steatosis" in text.lower() for text in regions(batch, bank, "liver", source))
    names = source.studies(0)
    seen = 0
    for row, region, boxes in zip(batch.region_study.tolist(), batch.region_id.tolist(), batch.boxes, strict=True):
        study = tiny[0].study(names[row])
        rows = [organ_row(r) for r in study.rows("organs") if r["organ"] == source.regions[region]]
        cut = cut_scan(study.image(), None, study.affine, ScanSettings.model_validate(SCANS["input"]))
        moved = boxes.numpy() - cut.boxes(rows)
        assert np.abs(moved).max() <= 2
        seen += int(np.abs(moved).max() > 0)
    assert seen, "views are shifted"
    shared = [one for rank in range(2) for one in source.batch(3, rank, 2)]
    whole = {one.study_id: one for one in source.batch(3)}
    assert sorted(one.study_id for one in shared) == sorted(whole)
    for one in shared:
        np.testing.assert_array_equal(one.images, whole[one.study_id].images)


def test_reports_need_reports(tiny_cxr, word_bert: Path, bank: TextBank) -> None:
    store = Store.open(tiny_cxr[0].path)
    plain = store.table

    def table(name: str) -> Any:
        return plain(name).clear() if name == "reports" else plain(name)

    store.table = table  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StoreError, match="findings or impression"):
        reports_of(store, cxr_config(word_bert, KINDS["global_pair"]), bank)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("kind", ["organ_text, box", "global_pair"])
def test_a_run_on_cxr_ends_in_a_model_that_can_be_read(tiny_cxr, word_bert: Path, tmp_path: Path, kind: str) -> None:
    config = cxr_config(word_bert, KINDS[kind], steps=3)
    folder = pretrain(tiny_cxr[0].path, tmp_path / "run", config)
    release = load_release(folder)
    assert isinstance(config.data, CxrDataSettings)
    assert release.cxr == config.data.input.model_dump(mode="json")
    assert release.recipe["size"] == 64
    assert release.provenance["trained"]["heart"] == ["cardiomegaly"]
    page = (tmp_path / "run" / "pairs.html").read_text()
    assert page.count("data:image/png") >= 3
    assert all(math.isfinite(line["loss"]) for line in read_metrics(tmp_path / "run") if "loss" in line)


@pytest.mark.slow
def test_simulated_cxr_become_a_model(word_bert: Path, tmp_path: Path) -> None:
    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.simulation.cohort import simulate_cohort
    from ctglip.simulation.cxr import CxrSettings
    from ctglip.simulation.study import SimulationSettings

    simulate_cohort(tmp_path / "radiographs", 8, 1, SimulationSettings(bodies=1), radiographs=CxrSettings())
    prepared = load_settings(PreprocessConfig, "preprocess/cxr", ["cxr.size=96"])
    preprocess_cohort(read_cohort(tmp_path / "radiographs" / "cohort.csv"), tmp_path / "store", prepared)
    net = {"encoder": {"name": "resnet", "spatial_dims": 2, "layers": [1, 1, 1, 1], "widths": [8, 16, 16, 32]}}
    config = cxr_config(
        word_bert,
        KINDS["mixture"],
        {"data": {"size": 64, "batch": 4}, "model": net, "text": {"max_length": 60}},
        steps=3,
    )
    release = load_release(pretrain(tmp_path / "store", tmp_path / "run", config))
    assert release.provenance["trained"]
    assert all(torch.isfinite(value).all() for value in release.model.state_dict().values())
