"""LIDC-IDRI's outlines: from the readers' pixels to voxels of the store, on the side and slice they were drawn on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.cohorts.lidc_outlines import marks_of, nodules_of, parse_xml
from ctglip.errors import CohortError
from ctglip.store.tables import Store
from tests.cli.commands import good_here
from tests.cohorts.builders import PHANTOM, write_dicom_series, write_file

SHAPE = PHANTOM.hu.shape
EDGE = np.linalg.norm(PHANTOM.affine[:3, :3], axis=0)
SETTINGS = ("--set", f"ct.spacing_mm={[float(e) for e in EDGE]}", "--set", "ct.crop_to_body=false",
            "--set", "ct.segmentation=null", "--json")  # fmt: skip


def roi(z: int, box: tuple[int, int, int, int], inclusion: bool = True) -> str:
    """A contour of pixels just outside of RAS+ voxels x0..x1, y0..y1 (half-open) in slice z, as a reader would draw it
    on the file, whose columns run from right to left and rows from front to back."""
    x0, x1, y0, y1 = box
    columns = SHAPE[0] - 1 - x1, SHAPE[0] - x0
    rows = SHAPE[1] - 1 - y1, SHAPE[1] - y0
    corners = [(columns[0], rows[0]), (columns[1], rows[0]), (columns[1], rows[1]), (columns[0], rows[1])]
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in corners)
    height = PHANTOM.affine[2, 3] + z * EDGE[2]
    return (
        f"<roi><imageZposition>{height}</imageZposition><imageSOP_UID>1.2.{z}</imageSOP_UID>"
        f"<inclusion>{'TRUE' if inclusion else 'FALSE'}</inclusion>{edges}</roi>"
    )


def session(*nodules: str, small: bool = False) -> str:
    marked = "".join(
        f"<unblindedReadNodule><noduleID>{n}</noduleID><characteristics><malignancy>4</malignancy></characteristics>"
        f"{rois}</unblindedReadNodule>"
        for n, rois in enumerate(nodules)
    )
    tiny = f"<unblindedReadNodule><noduleID>s</noduleID>{roi(20, (3, 4, 3, 4))}</unblindedReadNodule>" if small else ""
    return f"<readingSession>{marked}{tiny}<nonNodule><nonNoduleID>n</nonNoduleID></nonNodule></readingSession>"


def xml(*sessions: str) -> str:
    return f'<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov">{"".join(sessions)}</LidcReadMessage>'


LARGE = "".join(roi(z, (5, 12, 8, 15)) for z in (10, 11, 12))
HOLED = LARGE + roi(11, (7, 10, 10, 13), inclusion=False)
SMALLER = "".join(roi(z, (5, 9, 8, 15)) for z in (10, 11))
OTHER = "".join(roi(z, (18, 22, 8, 12)) for z in (22, 23))


@pytest.fixture(scope="module")
def lidc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lidc")
    series = write_dicom_series(folder / "root" / "LIDC-IDRI-0001" / "study" / "a")
    write_file(series / "069.xml", xml(session(HOLED), session(SMALLER, OTHER), session(small=True), session()))
    series = write_dicom_series(folder / "root" / "LIDC-IDRI-0002" / "study" / "a",
                                ImageOrientationPatient=[0, 1, 0, 0, 0, -1])  # fmt: skip
    write_file(series / "070.xml", xml(session(LARGE)))
    good_here("cohort", "lidc_idri", folder / "root", folder / "cohort")
    return folder


def test_outlines_lie_where_they_were_drawn(lidc: Path) -> None:
    cohort = pl.read_csv(lidc / "cohort" / "cohort.csv", infer_schema=False)
    cohort.filter(study_id="LIDC-IDRI-0001").write_csv(lidc / "cohort" / "one.csv")
    good_here("preprocess", lidc / "cohort" / "one.csv", lidc / "store", *SETTINGS)
    study = Store.open(lidc / "store").study("LIDC-IDRI-0001")
    first, second = study.lesions()
    assert (first.box, first.abnormality, first.organ) == ((5, 12, 8, 15, 10, 13), "lung_nodule", "lungs")
    expected = np.ones((7, 7, 3), bool)
    expected[2:5, 2:5, 1] = False  # the hole of the one reader, outside of the other's outline from x = 9 on
    expected[2:4, 2:5, 1] = True
    assert np.array_equal(study.lesion_mask(first), expected), "half of two readers is one"
    assert second.box == (18, 22, 8, 12, 22, 24)


def test_how_many_must_agree_can_be_chosen(lidc: Path) -> None:
    good_here("cohort", "lidc_idri", lidc / "root", lidc / "both", "--set", "agreement=1.0", "--set", "readers=2")
    table = pl.read_csv(lidc / "both" / "localization.csv")
    assert table["study_id"].to_list() == ["LIDC-IDRI-0001"], "the other nodule has one reader"
    cohort = pl.read_csv(lidc / "both" / "cohort.csv", infer_schema=False).filter(study_id="LIDC-IDRI-0001")
    cohort.write_csv(lidc / "both" / "one.csv")
    good_here("preprocess", lidc / "both" / "one.csv", lidc / "store2", *SETTINGS)
    (lesion,) = Store.open(lidc / "store2").study("LIDC-IDRI-0001").lesions()
    assert lesion.box == (5, 9, 8, 15, 10, 12), "what both enclosed"


def test_what_cannot_be_placed_is_named(lidc: Path) -> None:
    excluded = pl.read_csv(lidc / "cohort" / "excluded.csv")
    assert excluded.filter(reason="outlines_not_taken").height == 1
    assert pl.read_csv(lidc / "cohort" / "labels.csv")["lung_nodule"].to_list() == [1, 1], "its label stays"


def test_marks_of_one_nodule_are_those_whose_boxes_meet(tmp_path: Path) -> None:
    near = "".join(roi(z, (11, 14, 8, 12)) for z in (12, 13))
    path = write_file(tmp_path / "a.xml", xml(session(LARGE), session(near, OTHER), session(SMALLER), session(OTHER)))
    marks = marks_of(parse_xml(path))
    groups = nodules_of(marks)
    assert [sorted(mark.reader for mark in group) for group in groups] == [[0, 1, 2], [1, 3]]
    assert [len(group) for group in nodules_of(marks[::-1])] == [3, 2], "in any order"
    with pytest.raises(CohortError, match="entities"):
        parse_xml(write_file(tmp_path / "b.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'))
