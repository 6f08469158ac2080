"""Findings that others drew reach the store where they lie: layers of a mask without a header, spheres, boxes, outlines
of several readers; what lies about its place is left out and said."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import polars as pl
import pytest
from ctglip_preprocessing.lesion_masks import place_lesions
from ctglip_preprocessing.lesions import GivenLesion, abnormality_in, read_localization
from ctglip_preprocessing.outlines import draw_outline
from PIL import Image

from ctglip.cohort import read_cohort
from ctglip.errors import CohortError
from ctglip.files import remove
from ctglip.store.tables import Store
from ctglip.store.verify import verify
from ctglip.types import Standardized
from tests.preprocessing.conftest import SIZE

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = [-48, -48, 100]
COLUMNS = ("study_id", "theirs", "abnormality", "organ", "x_mm", "y_mm", "z_mm", "diameter_mm", "mask", "layer")


def at(*voxel: float) -> list[float]:
    """RAS millimetres of a voxel of the synthetic scans."""
    return (AFFINE[:3, :3] @ voxel + AFFINE[:3, 3]).tolist()


def localize(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes ``localization.csv`` and names it in every row of the cohort."""
    pl.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows]).write_csv(folder / "localization.csv")
    cohort = pl.read_csv(folder / "cohort.csv", infer_schema=False)
    cohort.with_columns(localization=pl.lit("localization.csv")).write_csv(folder / "cohort.csv")


def turn(path: Path) -> None:
    """The same scan, stored from left to right and front to back (LPS), as CT-RATE's second version is."""
    image = nib.nifti1.load(path)
    flip = np.diag([-1.0, -1, 1, 1])
    flip[:2, 3] = SIZE - 1
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1, ::-1], image.affine @ flip), path)


def layers(path: Path, *boxes: tuple[int, int, tuple[slice, ...]]) -> None:
    """A mask of layers first, in the axes of the turned scan and without a header: (layer, number, RAS+ box)."""
    values = np.zeros((2, SIZE, SIZE, SIZE), np.uint8)
    for layer, number, box in boxes:
        values[layer][box] = number
    nib.save(nib.Nifti1Image(np.ascontiguousarray(values[:, ::-1, ::-1]), np.eye(4)), path)


@pytest.fixture
def scans(make_cohort: Callable[..., Any], tmp_path: Path) -> Path:
    make_cohort(2)
    return tmp_path


def test_layers_without_a_header_lie_on_the_scan_as_it_is_stored(scans: Path, run: Callable[..., Any]) -> None:
    for name in ("ct00000.nii.gz", "masks00000.nii.gz"):
        turn(scans / name)
    first, second, overlapping = np.s_[13:16, 6:9, 15:18], np.s_[17:18, 12:13, 20:21], np.s_[14:20, 7:10, 16:19]
    layers(scans / "seg.nii.gz", (0, 1, first), (0, 2, second), (1, 1, overlapping))
    localize(scans, [
        {"study_id": "00000", "theirs": "Nodules in the right lung.", "mask": "seg.nii.gz", "layer": 0},
        {"study_id": "00000", "theirs": "2c", "abnormality": "ground_glass_opacity", "organ": "lungs",
         "mask": "seg.nii.gz", "layer": 1},
    ])  # fmt: skip
    summary = run()
    assert (summary.written, summary.failed) == (2, ())
    store = Store.open(scans / "store")
    study = store.study("00000")
    lesions = study.lesions()
    drawn = {(one.abnormality, one.organ, one.box): study.lesion_mask(one) for one in lesions}
    assert set(drawn) == {
        ("lung_nodule", "lung_lower_lobe_left", (13, 16, 6, 9, 15, 18)),
        ("lung_nodule", "lung_lower_lobe_left", (17, 18, 12, 13, 20, 21)),
        ("ground_glass_opacity", "lungs", (14, 20, 7, 10, 16, 19)),
    }, "in RAS+ voxels of the store, with the organ that its own masks have there"
    assert all(mask.all() for mask in drawn.values())
    assert {one.layer for one in lesions} == {0, 1}, "what overlaps lies in another layer"
    assert store.table("lesions").height == 3
    assert store.study("00001").lesions() == ()
    assert verify(store) == []


def test_spheres_and_what_is_too_small_or_outside(scans: Path, run: Callable[..., Any]) -> None:
    def sphere(study: str, voxel: tuple[float, ...], diameter: float) -> dict[str, Any]:
        x, y, z = at(*voxel)
        return {"study_id": study, "theirs": "nodule", "abnormality": "lung_nodule", "organ": "lungs", "x_mm": x,
                "y_mm": y, "z_mm": z, "diameter_mm": diameter}  # fmt: skip

    localize(
        scans, [sphere("00000", (15, 12, 18), 18), sphere("00000", (6.4, 12, 18), 1), sphere("00001", (99, 9, 9), 8)]
    )
    assert run().failed == ()
    store = Store.open(scans / "store")
    large, small = store.study("00000").lesions()
    mask = store.study("00000").lesion_mask(large)
    assert large.box == (13, 18, 10, 15, 16, 21)
    assert mask.sum() == pytest.approx(4 / 3 * np.pi * (9 / 4) ** 3, rel=0.25)
    assert small.box == (6, 7, 12, 13, 18, 19)
    (said,) = store.table("studies").filter(study_id="00001")["checks"]
    assert "lesions_left_out" in said
    assert "lie outside the image" in said


@pytest.mark.parametrize(
    "fault", ["missing", "other_shape", "elsewhere", "no_layer", "empty", "broken", "damaged", "huge"]
)
def test_masks_that_lie_are_left_out_and_the_study_is_not(scans: Path, run: Callable[..., Any], fault: str) -> None:
    path = scans / "seg.nii.gz"
    values = np.zeros((SIZE,) * 3, np.uint8)
    values[5:8, 5:8, 5:8] = 1
    if fault == "other_shape":  # of the scan before it was resampled, and no header
        nib.save(nib.Nifti1Image(np.pad(values, 4), np.eye(4)), path)
    elif fault == "elsewhere":
        moved = AFFINE.copy()
        moved[2, 3] += 500
        nib.save(nib.Nifti1Image(values, moved), path)
    elif fault in ("no_layer", "empty"):
        nib.save(nib.Nifti1Image(values * np.uint8(fault != "empty"), AFFINE), path)
    elif fault == "broken":
        path.write_bytes(b"no gzip")
    elif fault == "damaged":
        noise = np.random.default_rng(0).integers(0, 9, values.shape).astype(np.uint8)
        sound = gzip.compress(nib.Nifti1Image(noise, AFFINE).to_bytes())
        path.write_bytes(sound[:2000] + bytes(200) + sound[2200:])
    elif fault == "huge":
        header = nib.Nifti1Image(values, AFFINE).header
        header["dim"][1:4] = 30_000
        path.write_bytes(gzip.compress(header.binaryblock + bytes(5000)))
    layer = 3 if fault == "no_layer" else None
    localize(scans, [{"study_id": "00000", "theirs": "nodule", "mask": "seg.nii.gz", "layer": layer}])
    assert run().failed == ()
    store = Store.open(scans / "store")
    assert store.study("00000").lesions() == ()
    (said,) = store.table("studies").filter(study_id="00000")["checks"]
    assert "lesions_left_out" in said
    assert "seg.nii.gz" in said
    assert "lesions_left_out" in (scans / "store" / "quality.html").read_text()


def test_a_mask_with_a_header_of_its_own_is_laid_on_by_it(scans: Path, run: Callable[..., Any]) -> None:
    values = np.zeros((SIZE,) * 3, np.uint8)
    values[5:8, 8:11, 6:9] = 1
    finer = AFFINE @ np.diag([0.5, 0.5, 1, 1])
    finer[:2, 3] -= 1
    nib.save(nib.Nifti1Image(values.repeat(2, 0).repeat(2, 1), finer), scans / "liver_lesion.nii.gz")
    localize(
        scans, [{"study_id": "00001", "theirs": "liver_lesion", "abnormality": "lesion", "mask": "liver_lesion.nii.gz"}]
    )
    run()
    (lesion,) = Store.open(scans / "store").study("00001").lesions()
    assert lesion.box == (5, 8, 8, 11, 6, 9)


def test_a_changed_mask_makes_its_study_anew_and_only_that(scans: Path, run: Callable[..., Any]) -> None:
    layers(scans / "seg.nii.gz", (0, 1, np.s_[5:8, 5:8, 5:8]))
    localize(scans, [{"study_id": "00000", "theirs": "nodule", "mask": "seg.nii.gz", "layer": 0}])
    assert run().written == 2
    assert run().worked == 0
    layers(scans / "seg.nii.gz", (0, 1, np.s_[5:9, 5:8, 5:8]))
    again = run()
    assert (again.written, again.worked) == (1, 1)


def test_tables_that_cannot_be_used_are_one_line(scans: Path, tmp_path: Path) -> None:
    for row, found in (
        ({"study_id": "00000", "theirs": "nodule"}, "says nowhere where its finding is"),
        ({"study_id": "00000", "x_mm": 1, "y_mm": 2, "z_mm": "x", "diameter_mm": 3}, "z_mm 'x'"),
        ({"study_id": "00000", "mask": "a.nii.gz", "layer": "one"}, "layer 'one'"),
        ({"theirs": "nodule", "mask": "a.nii.gz"}, "row 2 has no study_id"),
    ):
        localize(scans, [{name: None if value is None else str(value) for name, value in row.items()}])
        with pytest.raises(CohortError, match=found):
            read_localization(read_cohort(tmp_path / "cohort.csv"))
    localize(scans, [{"study_id": "nobody", "theirs": "phlogiston", "mask": "a.nii.gz"}])
    notes = " ".join(read_localization(read_cohort(tmp_path / "cohort.csv")).notes)
    assert "phlogiston (1)" in notes
    assert "1 rows are of 1 studies" in notes


def test_a_sentence_tells_its_abnormality_where_it_names_just_one() -> None:
    assert abnormality_in("Nodule in the right upper lobe.") == "lung_nodule"
    assert abnormality_in("No nodule.") is None
    assert abnormality_in("Atelectasis and consolidation in the left lower lobe.") is None


def contour(z: float, low: float, high: float, inclusion: bool = True) -> dict[str, Any]:
    corners = ((low, low), (high, low), (high, high), (low, high))
    return {"points": [[x, y, z] for x, y in corners], "inclusion": inclusion}


def test_outlines_of_several_readers_agree_and_have_holes() -> None:
    large = [contour(z, 4.5, 13.5) for z in (4.0, 6.0, 8.0)]
    holed = [*large, contour(6.0, 7.5, 10.5, inclusion=False)]
    small = [contour(z, 4.5, 9.5) for z in (4.0, 6.0, 8.0)]
    affine = np.diag([1.0, 1.0, 2.0, 1.0])

    def drawn(readers: list[Any], least: int) -> np.ndarray:
        found = draw_outline({"readers": readers, "least": least}, (20, 20, 8), affine)
        assert found is not None
        whole = np.zeros((20, 20, 8), bool)
        inside, start = found
        whole[tuple(slice(s, s + n) for s, n in zip(start, inside.shape, strict=True))] = inside
        return whole

    one = drawn([large], 1)
    assert (one.sum(), one[5:14, 5:14, 2:5].all()) == (9 * 9 * 3, True)
    hole = drawn([holed], 1)
    assert one.sum() - hole.sum() == 3 * 3
    assert not hole[8:11, 8:11, 3].any()
    assert drawn([large, small], 1).sum() == 9 * 9 * 3
    assert drawn([large, small], 2).sum() == 5 * 5 * 3
    assert draw_outline({"readers": [[contour(900.0, 4, 9)]], "least": 1}, (20, 20, 8), affine) is None


def test_boxes_and_pictures_of_radiographs(tmp_path: Path) -> None:
    made = Standardized(np.zeros((64, 64), np.uint16), None, np.diag([2.0, 2.0, 1.0, 1.0]))
    made.affine[:2, 3] = 0.5  # each stored pixel is two of the file's
    grid = (128, 128), np.eye(4)
    picture = np.zeros((256, 256), np.uint8)
    picture[80:120, 160:200] = 255
    Image.fromarray(picture).save(tmp_path / "lesion.png")
    given = [
        GivenLesion("box", None, "pneumonia", box=(10, 21, 40, 60)),
        GivenLesion("outside", None, "pneumonia", box=(300, 310, 40, 60)),
        GivenLesion("picture", None, "pneumothorax", mask=tmp_path / "lesion.png"),
    ]
    placed = place_lesions(given, tmp_path / "a.png", None, grid, made)
    assert [one.box for one in placed.lesions] == [(5, 11, 20, 30), (20, 30, 40, 50)]
    assert [one.layer for one in placed.lesions] == [None, 0]
    assert placed.layers[0].sum() == 100
    assert "1 lie outside" in placed.checks[0].message
    Image.fromarray(picture[:128]).save(tmp_path / "lesion.png")
    assert "256 pixels" in place_lesions(given[2:], tmp_path / "a.png", None, grid, made).checks[0].message


def test_outlines_come_from_a_file_by_their_number(tmp_path: Path) -> None:
    made = Standardized(np.zeros((20, 20, 8), np.int16), None, np.diag([1.0, 1.0, 2.0, 1.0]))
    outlines = [
        {"readers": [[contour(6.0, 2.5, 5.5)]], "least": 1},
        {"readers": [[contour(6.0, 9.5, 14.5)]], "least": 1},
    ]
    (tmp_path / "outlines.json").write_text(json.dumps(outlines))
    given = [GivenLesion("nodule", "lungs", "lung_nodule", mask=tmp_path / "outlines.json", layer=n) for n in (0, 1, 2)]
    placed = place_lesions(given, tmp_path / "a", None, ((20, 20, 8), made.affine), made)
    assert [one.box[:2] for one in placed.lesions] == [(3, 6), (10, 15)]
    assert "1 outlines" in placed.checks[0].message


def test_rows_of_the_cohort_without_a_table_are_as_before(scans: Path, run: Callable[..., Any]) -> None:
    run()
    store = Store.open(scans / "store")
    assert store.table("lesions").is_empty()
    assert not list((scans / "store").rglob("lesions_*"))
    remove(scans / "store" / "lesions.parquet")  # as a store has it that was made before
    store = Store.open(scans / "store")
    assert verify(store) == []
    assert store.table("lesions").is_empty()
    assert run().worked == 0
