"""The label table: what columns mean, and every kind of bad input with its message."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ctglip.data.crops import CropSettings
from ctglip.data.organ_crops import instances_of
from ctglip.errors import CohortError
from ctglip.inference.scoring import Dictionaries
from ctglip.store.tables import Store
from ctglip.tasks.inputs import bags_of, organs_of
from ctglip.tasks.settings import ColumnSettings
from ctglip.tasks.studies import join, unanswerable
from ctglip.tasks.targets import read_targets
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "pleura_left", "pleura_right", "lung_left", "aorta")


@pytest.fixture(scope="module")
def dictionaries() -> Dictionaries:
    return Dictionaries(load_organs(), load_abnormalities())


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(path: Path, dictionaries: Dictionaries, text: str, organs=ORGANS, **more):
    return read_targets(table(path / "labels.csv", text), dictionaries, organs, **more)


def test_columns_find_their_organs(tmp_path, dictionaries) -> None:
    found = read(
        tmp_path,
        dictionaries,
        "study_id,Pleural effusion,liver:hepatic_steatosis,left renal cyst,aortic_aneurysm,spleen:weight\n"
        "a,1,0,1,,NaN\nb,0,1.0,nan,1,0\n",
    )
    assert [(target.column, target.organs, target.abnormality) for target in found.targets] == [
        ("Pleural effusion", ("pleura_left", "pleura_right"), "pleural_effusion"),
        ("liver:hepatic_steatosis", ("liver",), "hepatic_steatosis"),
        ("left renal cyst", ("kidney_left",), "renal_cyst"),
        ("aortic_aneurysm", ("aorta",), "aortic_aneurysm"),
        ("spleen:weight", ("spleen",), None),
    ]
    np.testing.assert_array_equal(found.labels.values, [[1, 0, 1, np.nan, np.nan], [0, 1, np.nan, 1, 0]])


def test_columns_by_config(tmp_path, dictionaries) -> None:
    columns = {
        "died": ColumnSettings(organs=("all",)),
        "grade": ColumnSettings(organs=("liver",), classes=("none", "mild", "severe")),
        "Effusion": ColumnSettings(organs=("lung_left", "pleura_left"), abnormality="pleural_effusion"),
    }
    found = read(
        tmp_path, dictionaries, "study_id,died,grade,Effusion,age\n01,1,mild,0,70\n02,0,,1,x\n",
        columns=columns, ignore=("age",),
    )  # fmt: skip
    assert found.labels.study_ids == ("01", "02")
    assert [target.organs for target in found.targets] == [ORGANS, ("liver",), ("lung_left", "pleura_left")]
    assert [target.width for target in found.targets] == [1, 3, 1]
    np.testing.assert_array_equal(found.labels.values, [[1, 1, 0], [0, np.nan, 1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study_id,liver_cyst\na,2\nb,-1\nc,-1\n", r"'liver_cyst' holds '2' in 1 studies, first 'a'.*holds '-1' in 2"),
        ("study_id,liver_cyst\na,1\na,0\n", "study_id 'a' stands in 2 rows"),
        ("study_id,liver_cyst\na,1\n,0\n", "1 rows have no study_id"),
        (
            "study_id,hepatic_steatosys\na,1\n",
            r"'hepatic_steatosys' names no abnormality.*Did you mean hepatic_steatosis",
        ),
        ("study_id,liver\na,1\n", "'liver' names an organ, but no abnormality"),
        ("study_id,gallstone\na,1\n", "the model or the store has none of them"),
        ("study_id,hepatic_steatosis,liver:hepatic_steatosis\na,1,1\n", "ask the same"),
        ("study_id,liver_cyst,split\na,1,training\n", "split 'training' is none of train, val, test"),
        ("study_id,liver_cyst,split,patient_id\na,1,train,p\nb,0,test,p\n", "patient 'p' is in 2 splits"),
        ("study_id\na\n", "no label column"),
        ("study,liver_cyst\na,1\n", "no column 'study_id'"),
    ],
)
def test_a_fault_stops_and_is_named(tmp_path, dictionaries, text, message) -> None:
    with pytest.raises(CohortError, match=message):
        read(tmp_path, dictionaries, text)


def test_all_faults_come_at_once(tmp_path, dictionaries) -> None:
    with pytest.raises(CohortError) as caught:
        read(tmp_path, dictionaries, "study_id,nonsense,liver_cyst,spleen:splenic_cyst\na,1,7,x\na,0,0,0\n")
    assert all(word in str(caught.value) for word in ("nonsense", "'7'", "'x'", "2 rows"))


def joined(tiny: Store, tmp_path: Path, dictionaries: Dictionaries, text: str):
    return join(read(tmp_path, dictionaries, text), tiny)


def rows(studies, value=lambda n: n % 2) -> str:
    return "".join(f"{name},{value(n)}\n" for n, name in enumerate(studies))


def test_what_cannot_be_used_is_listed(tiny, tmp_path, dictionaries) -> None:
    store, _ = tiny
    known = store.study_ids
    text = "study_id,liver:hepatic_steatosis,spleen:splenomegaly\n"
    text += "".join(f"{name},{n % 2},1\n" for n, name in enumerate(known[:-2]))
    text += f"{known[-2]},,\nstranger,1,0\n"
    found = joined(store, tmp_path, dictionaries, text)
    listed = {(problem.code, problem.subject) for problem in found.problems}
    assert listed == {
        ("unknown_study", "stranger"),
        ("no_labels", known[-2]),
        ("no_labels", known[-1]),
        ("one_class", "spleen:splenomegaly"),
    }
    assert [target.column for target in found.targets] == ["liver:hepatic_steatosis"]
    assert len(found.study_ids) == len(known) - 2


def test_a_patient_in_two_splits_stops(tiny, tmp_path, dictionaries) -> None:
    store, _ = tiny
    studies = store.study_ids

    class Tampered:
        path = store.path

        @staticmethod
        def table(name: str):
            import polars as pl

            table = store.table(name)
            same = pl.when(pl.col("study_id").is_in(studies[:30])).then(pl.lit("p000")).otherwise(pl.col("patient_id"))
            return table.with_columns(same.alias("patient_id")) if name == "studies" else table

    with pytest.raises(CohortError, match=r"patients are in two splits: p000"):
        joined(Tampered, tmp_path, dictionaries, "study_id,liver:hepatic_steatosis\n" + rows(studies))  # type: ignore[arg-type]


def test_another_patient_than_the_stores_stops(tiny, tmp_path, dictionaries) -> None:
    store, _ = tiny
    text = "study_id,liver:hepatic_steatosis,patient_id\n" + "".join(f"{n},1,px\n" for n in store.study_ids[:2])
    with pytest.raises(CohortError, match="to other patients than the store"):
        joined(store, tmp_path, dictionaries, text)


def test_nothing_to_learn_stops(tiny, tmp_path, dictionaries) -> None:
    store, _ = tiny
    with pytest.raises(CohortError, match="No column has two answers"):
        joined(store, tmp_path, dictionaries, "study_id,liver:hepatic_steatosis\n" + rows(store.study_ids, lambda n: 1))
    with pytest.raises(CohortError, match="No study of the split 'train'"):
        joined(store, tmp_path, dictionaries, "study_id,liver:hepatic_steatosis\nstranger,1\n")


def test_the_tables_own_splits_are_taken(tiny, tmp_path, dictionaries) -> None:
    store, _ = tiny
    names = ("test", "train", "val", "train")
    text = "study_id,liver:hepatic_steatosis,split\n"
    text += "".join(f"{name},{n // 2 % 2},{names[n % 4]}\n" for n, name in enumerate(store.study_ids))
    found = joined(store, tmp_path, dictionaries, text)
    assert found.splits[:4] == names


def test_an_organ_that_a_study_lacks_is_listed(tiny, tmp_path, dictionaries) -> None:
    store, _ = tiny
    found = joined(store, tmp_path, dictionaries, "study_id,liver:hepatic_steatosis\n" + rows(store.study_ids))
    instances = instances_of(store, found.study_ids, organs_of(found.targets), CropSettings())[1:]
    kept, problems = unanswerable(found, bags_of(instances, found.study_ids, ("liver",)))
    assert [(problem.code, problem.subject) for problem in problems] == [("no_organ", found.study_ids[0])]
    assert np.isnan(kept.values[0, 0])
    assert np.isfinite(kept.values[1:, 0]).all()


def test_subsets_are_nested_by_patient_and_fixed(tiny, tmp_path, dictionaries) -> None:
    store, _ = tiny
    found = joined(store, tmp_path, dictionaries, "study_id,liver:hepatic_steatosis\n" + rows(store.study_ids))
    small, middle, whole = (set(found.subset(share, 7).tolist()) for share in (0.1, 0.5, 1.0))
    assert small < middle < whole == set(found.of("train").tolist())
    patients = [{found.patients[row] for row in rows} for rows in (middle, whole - middle)]
    assert not patients[0] & patients[1]
    assert set(found.subset(0.1, 7).tolist()) == small
    assert set(found.subset(0.5, 8).tolist()) != middle
    assert len(small) == math.ceil(0.1 * len(whole))
