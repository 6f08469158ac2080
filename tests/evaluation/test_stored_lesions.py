"""The pointing game by the drawn findings of the store itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.evaluation.parts.stored_lesions import ANY_ORGAN, outside_mm, outside_px, stored_lesions
from ctglip.evaluation.run import evaluate
from ctglip.store.format import StoreInfo
from ctglip.store.study import StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import LesionAnnotation, Standardized
from tests.evaluation.test_run import CONFIG
from tests.training.tiny import write_tiny_store

Tiny = tuple[Store, Path, Path]


def store_of(
    path: Path, image: np.ndarray, affine: np.ndarray, lesions: list[LesionAnnotation], layer: np.ndarray
) -> Store:
    modality = "cxr" if image.ndim == 2 else "ct"
    store = create_store(path, StoreInfo(modality=modality, recipe={}, recipe_hash="r"))
    record = StudyRecord(
        "a", "p", Standardized(image, None, affine), "c", "r", lesions=tuple(lesions), lesion_layers=(layer,)
    )
    write_study(path, record)
    compact(store)
    return Store.open(path)


def test_distances_from_voxels_and_boxes_of_a_scan(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-20, 10, 100)
    layer = np.zeros((16, 16, 12), np.uint8)
    layer[4:7, 5:8, 6:9] = 2
    layer[4, 5, 6] = 1
    lesions = [
        LesionAnnotation("liver", "liver_cyst", "cyst", (4, 7, 5, 8, 6, 9), 0, 2),
        LesionAnnotation(None, "liver_cyst", "another", (12, 14, 12, 14, 1, 3)),
        LesionAnnotation("liver", None, "unnamed", (0, 1, 0, 1, 0, 1)),
    ]
    store = store_of(tmp_path / "s", np.zeros(layer.shape, np.int16), affine, lesions, layer)
    found = stored_lesions(store)["a"]
    assert {pair: [one.theirs for one in several] for pair, several in found.items()} == {
        ("liver", "liver_cyst"): ["cyst"], (ANY_ORGAN, "liver_cyst"): ["another"],
    }  # fmt: skip
    study = store.study("a")
    index = np.stack(np.meshgrid(*map(np.arange, (4, 4, 4)), indexing="ij"), -1) + np.array([3, 4, 5])
    world = index @ affine[:3, :3].T + affine[:3, 3]
    outside = outside_mm(study, found["liver", "liver_cyst"], world)
    assert np.array_equal(outside == 0, (layer == 2)[3:7, 4:8, 5:9]), "the voxel of another number is outside"
    assert outside[0, 1, 1] == pytest.approx(np.hypot(2, 2)), "the voxel beside it has another number"
    far = outside_mm(study, study.lesions()[1:2], np.array([[[[-20.0 + 2 * 20, 10 + 26, 103]]]]))
    assert far.item() == pytest.approx(2 * 7)


def test_distances_on_a_radiographs_file(tmp_path: Path) -> None:
    layer = np.zeros((32, 32), np.uint8)
    layer[10:14, 20:25] = 1
    lesion = LesionAnnotation(None, "pneumothorax", "p", (10, 14, 20, 25), 0, 1)
    store = store_of(tmp_path / "s", np.zeros((32, 32), np.uint16), np.eye(4), [lesion], layer)
    to_file = np.diag([2.0, 2.0, 1.0, 1.0])
    to_file[:2, 3] = 0.5
    outside = outside_px(store.study("a"), [lesion], (64, 64), to_file)
    assert (np.argwhere(outside == 0).min(0).tolist(), np.argwhere(outside == 0).max(0).tolist()) == (
        [20, 40],
        [27, 49],
    )
    assert outside[23, 55] == 6


def test_an_evaluation_points_at_the_stores_own_lesions(tiny: Tiny, tmp_path: Path) -> None:
    _, _, run = tiny
    store, truth = write_tiny_store(tmp_path / "store", 60, drawn=True)
    config = CONFIG.model_copy(update={"parts": ("localization",), "controls": False, "pictures": False})
    results = evaluate(run, store.path, tmp_path / "out", labels=truth, config=config)
    (everything, cyst) = results.parts["localization"].rows
    test = set(store.table("splits").filter(pl.col("split") == "test")["study_id"])
    drawn = set(store.table("lesions")["study_id"]) & test
    assert cyst.abnormality == "renal_cyst"
    assert cyst.answers == len(drawn) == everything.answers
    assert cyst.lesion_chance == pytest.approx(12 / 210, abs=0.03), "voxels of the cyst in its kidney"
    assert cyst.lesion.value is not None
    assert "cyst" in (tmp_path / "out" / "report.html").read_text()
    spheres = [  # the same by a table, as simulated cohorts have it: the middle of each cyst
        {"study_id": row["study_id"], "organ": row["organ"], "abnormality": row["abnormality"], "radius_mm": 9.0,
         **{f"{axis}_mm": 6.0 * (row[f"{axis}0"] + row[f"{axis}1"] - 1) / 2 for axis in "xyz"}}
        for row in store.table("lesions").to_dicts()
    ]  # fmt: skip
    pl.DataFrame(spheres).write_csv(tmp_path / "lesions.csv")
    tabled = evaluate(run, store.path, tmp_path / "out2", labels=truth,
                      config=config.model_copy(update={"lesions": str(tmp_path / "lesions.csv")}))  # fmt: skip
    other = {one.abnormality: one for one in tabled.parts["localization"].rows}["renal_cyst"]
    assert other.answers == cyst.answers
    assert other.lesion_chance == pytest.approx(cyst.lesion_chance, abs=0.05)


def test_a_store_without_lesions_says_so(tiny: Tiny, tmp_path: Path) -> None:
    store, truth, run = tiny
    config = CONFIG.model_copy(update={"parts": ("localization",), "controls": False, "pictures": False})
    results = evaluate(run, store.path, tmp_path / "out", labels=truth, config=config)
    assert "localization" not in results.parts
    assert "no evaluated organ holds a lesion of the store" in " ".join(results.notes)
