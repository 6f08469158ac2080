from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from ctglip.config import validate
from ctglip.errors import ConfigError, StoreError
from ctglip.store.parts import write_part
from ctglip.store.splits import SplitSettings, assign_splits, check_given
from ctglip.store.tables import Store, create_store, frame


def _fill(store: Store, patients: int, studies_each: int = 2, findings: dict[str, list[str]] | None = None) -> None:
    rows = [
        {"study_id": f"s{p:03}-{n}", "patient_id": f"p{p:03}", "split": None}
        for p in range(patients)
        for n in range(studies_each)
    ]
    found = [
        {"study_id": f"{patient.replace('p', 's')}-0", "abnormality": name, "status": "affirmed"}
        for patient, names in (findings or {}).items()
        for name in names
    ]
    tables = {"studies": frame("studies", rows), "findings": frame("findings", found)}
    write_part(store.path, 0, lambda name: tables.get(name, frame(name, [])))


@pytest.fixture
def empty(tmp_path, store: Store) -> Store:
    return create_store(tmp_path / "splits", store.info)


def _of_patients(store: Store) -> dict[str, str]:
    table = store.table("splits")
    assert table.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1
    return dict(table.select("patient_id", "split").iter_rows())


def test_patients_are_divided_by_the_fractions(empty: Store) -> None:
    _fill(empty, 50)
    assert assign_splits(empty, SplitSettings(fractions=(0.6, 0.2, 0.2))) == {}
    assert Counter(_of_patients(empty).values()) == {"train": 30, "val": 10, "test": 10}
    assert empty.table("splits").height == 100


def test_the_seed_decides_and_repeats(empty: Store) -> None:
    _fill(empty, 40)
    seen = []
    for seed in (1, 1, 2):
        (empty.path / "splits.parquet").unlink(missing_ok=True)
        assign_splits(empty, SplitSettings(seed=seed))
        seen.append(_of_patients(empty))
    assert seen[0] == seen[1] != seen[2]


def test_nobody_moves_when_studies_are_added_or_go(empty: Store) -> None:
    _fill(empty, 20)
    assign_splits(empty)
    before = _of_patients(empty)
    _fill(empty, 60, studies_each=3)
    assign_splits(empty, SplitSettings(fractions=(0.2, 0.4, 0.4), seed=9))
    after = _of_patients(empty)
    assert {p: after[p] for p in before} == before
    assert empty.table("splits").height == 180
    _fill(empty, 5)
    assign_splits(empty)
    assert len(_of_patients(empty)) == 5
    _fill(empty, 60)
    assign_splits(empty, SplitSettings(seed=4))
    assert _of_patients(empty) == after


def test_the_cohorts_own_split_wins_and_moves_are_told(empty: Store) -> None:
    _fill(empty, 10)
    assign_splits(empty)
    before = _of_patients(empty)
    other = "val" if before["p003"] != "val" else "train"
    moved = assign_splits(empty, given={"p003": other, "p004": before["p004"]})
    assert moved == {"p003": (before["p003"], other)}
    assert _of_patients(empty) == before | {"p003": other}


def test_a_split_in_the_studies_table_counts_as_given(store: Store, record) -> None:
    from ctglip.store.study import write_study
    from ctglip.store.tables import compact

    write_study(store.path, record("s-a", "p1", row={"split": "val"}))
    compact(store)
    assign_splits(store, SplitSettings(fractions=(1, 0, 0)))
    assert _of_patients(store) == {"p1": "val", "p2": "train"}


def test_a_patient_in_two_splits_is_an_error() -> None:
    with pytest.raises(StoreError, match="study a in 'train', study b in 'test'") as error:
        check_given([("a", "p", "train"), ("c", "p", None), ("b", "p", "test")])
    assert error.value.code == "patient_in_two_splits"
    assert check_given([("a", "p", "train"), ("b", "q", None)]) == {"p": "train"}


def test_stratified_splits_share_out_a_rare_finding(empty: Store) -> None:
    findings = {f"p{n:03}": ["rare"] for n in range(10)} | {f"p{n:03}": ["common"] for n in range(10, 60)}
    _fill(empty, 100, findings=findings)
    assign_splits(empty, SplitSettings(fractions=(0.6, 0.2, 0.2), stratify=True))
    splits = _of_patients(empty)
    assert Counter(splits[f"p{n:03}"] for n in range(10)) == {"train": 6, "val": 2, "test": 2}
    assert Counter(splits[f"p{n:03}"] for n in range(10, 60)) == {"train": 30, "val": 10, "test": 10}
    assert Counter(splits.values()) == {"train": 60, "val": 20, "test": 20}


def test_fractions_must_sum_to_one() -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        validate(SplitSettings, {"fractions": [0.5, 0.1, 0.1]}, "here")


def test_a_study_whose_patient_was_corrected_has_one_split(empty: Store) -> None:
    _fill(empty, 1, 1)
    assign_splits(empty, given={"p000": "train"})
    study_id = empty.study_ids[0]
    studies = frame("studies", [{"study_id": study_id, "patient_id": "corrected", "split": None}])
    write_part(empty.path, 0, lambda name: studies if name == "studies" else frame(name, []))
    assign_splits(empty, given={"corrected": "test"})
    assert empty.table("splits").rows() == [(study_id, "corrected", "test")]
