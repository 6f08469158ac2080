"""SCR's outlines of JSRT: organ masks of their radiograph, on the patient's own sides; mirrored ones are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from ctglip.cohorts.jsrt import NUMBERING
from ctglip.cxr.masks import read_cxr_masks
from ctglip.cxr.recipe import CxrRecipe
from ctglip.store.tables import Store
from ctglip.vocabulary.organs import load_organs
from tests.cli.commands import good_here
from tests.cohorts.builders import write_file
from tests.cohorts.test_cxr_sets import jsrt_pixels

STRUCTURES = {  # boxes in the 1024 x 1024 pictures of SCR; the patient's right is on the picture's left
    "right lung": (200, 750, 150, 400),
    "left lung": (200, 750, 625, 875),
    "heart": (550, 750, 400, 625),
    "right clavicle": (150, 240, 160, 440),
    "left clavicle": (150, 240, 590, 870),
}


def write_outlines(root: Path, name: str, mirrored: bool = False, size: tuple[int, int] = (1024, 1024)) -> None:
    for folder, (row0, row1, column0, column1) in STRUCTURES.items():
        picture = np.zeros(size, np.uint8)
        picture[row0:row1, column0:column1] = 255
        path = root / "scratch" / "fold1" / "masks" / folder / f"{name}.gif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[:, ::-1] if mirrored else picture).save(path)


@pytest.fixture(scope="module")
def jsrt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jsrt")
    for name in ("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002"):
        write_file(folder / f"root/All247images/{name}.IMG", jsrt_pixels(True).astype(">u2").tobytes())
    write_outlines(folder / "root", "JPCLN001")
    write_outlines(folder / "root", "JPCLN002", mirrored=True)
    write_outlines(folder / "root", "JPCNN001", size=(1024, 900))
    good_here("cohort", "jsrt", folder / "root", folder / "cohort", "--set", "lacking=allow")
    return folder


def test_the_cohort_has_masks_where_they_can_be_trusted(jsrt: Path) -> None:
    cohort = {row["study_id"]: row for row in pl.read_csv(jsrt / "cohort" / "cohort.csv").to_dicts()}
    assert {name for name, row in cohort.items() if row["masks"]} == {"JPCLN001"}
    assert cohort["JPCLN001"]["numbering"] == NUMBERING
    excluded = {row["item"]: row["detail"] for row in pl.read_csv(jsrt / "cohort" / "excluded.csv").to_dicts()}
    assert set(excluded) == {"JPCLN002 (SCR)", "JPCNN001 (SCR)"}
    assert "mirrored" in excluded["JPCLN002 (SCR)"]
    assert "1024 x 900" in excluded["JPCNN001 (SCR)"]


def test_masks_become_organs_and_boxes_on_their_sides(jsrt: Path) -> None:
    good_here("preprocess", jsrt / "cohort" / "cohort.csv", jsrt / "store", "--config", "preprocess/cxr",
              "--set", "cxr.size=256", "--set", "cxr.crop_borders=false", "--json")  # fmt: skip
    study = Store.open(jsrt / "store").study("JPCLN001")
    boxes = {region.name: (region.row0, region.row1, region.column0, region.column1) for region in study.regions()}
    expected = {name: tuple(edge // 4 for edge in box) for name, box in STRUCTURES.items()}
    assert boxes["cardiac_silhouette"] == pytest.approx(expected["heart"], abs=1)
    assert boxes["right_clavicle"] == pytest.approx(expected["right clavicle"], abs=1)
    assert boxes["left_lung"][1:] == pytest.approx(expected["left lung"][1:], abs=1)
    assert boxes["right_lung"][3] < boxes["left_lung"][2], "the patient's right is on the picture's left"
    labels = study.organs()
    assert labels is not None
    organs = load_organs()
    assert set(np.unique(labels)) == {0, *(organs[n].label for n in
        ("lung_left", "lung_right", "heart", "clavicula_left", "clavicula_right"))}  # fmt: skip
    assert Store.open(jsrt / "store").study("JPCNN002").organs() is None


def test_numbers_by_the_rows_numbering(tmp_path: Path) -> None:
    picture = np.zeros((64, 64), np.uint8)
    picture[10:50, 5:25], picture[10:50, 40:60] = 1, 2
    Image.fromarray(picture).save(tmp_path / "m.png")
    organs = load_organs()
    labels, _ = read_cxr_masks(tmp_path / "m.png", (64, 64), CxrRecipe(), organs, "jsrt_scr")
    assert set(np.unique(labels[:, :30])) == {0, organs["lung_right"].label}
    assert set(np.unique(labels[:, 30:])) == {0, organs["lung_left"].label}
