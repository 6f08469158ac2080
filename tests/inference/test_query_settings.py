"""What a query may change, what it may not, and what it says of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctglip.cli.answers import answer_lines
from ctglip.ct.recipe import CtRecipe
from ctglip.cxr.recipe import CxrRecipe
from ctglip.errors import ConfigError, MaskError
from ctglip.inference.pipeline import Pipeline
from ctglip.inference.query_settings import changed_recipe, query_settings, with_setting
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.types import LabelMap, Scan

Trained = tuple[Store, Path]
Files = tuple[Path, Path]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("cutoff=answer", "did you mean 'cut_off'"),
        ("cut_off=yes", "cut_off"),
        ("ct.serie=3", "did you mean 'series'"),
        ("ct.spacing_mm=[1, 1, 1]", "trained with spacing_mm"),
        ("ct.hu_clip=[0, 100]", "trained with hu_clip"),
        ("cxr.size=64", "trained on CT scans"),
    ],
)
def test_unknown_settings_and_those_of_training_are_refused(trained: Trained, change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Pipeline(load_release(trained[1])).query(Path("no/such/scan.nii.gz"), ["gallstones?"], settings=[change])


def test_a_model_of_cxr_keeps_the_size_of_its_radiographs() -> None:
    with pytest.raises(ConfigError, match="trained with size"):
        changed_recipe(CxrRecipe(), query_settings(["cxr.size=64"]).cxr, "cxr")
    assert changed_recipe(CxrRecipe(), {"label_map": {1: "lung_left"}}, "cxr").label_map == {1: "lung_left"}


def test_how_a_scan_is_read_can_be_changed_for_one_query(trained: Trained, files: Files) -> None:
    model = Pipeline(load_release(trained[1]))
    question = ["splenomegaly?"]
    assert model.query(files[0], question, files[1]).answers[0].probability is not None
    (answer,) = model.query(files[0], question, files[1], settings=["ct.min_organ_ml=100000"]).answers
    assert answer.probability is None
    assert "less than 100000 ml" in answer.reason
    assert model.recipe.min_organ_ml < 100
    settings = query_settings(["ct.series=3", "ct.align_masks_by_index=true"])
    changed = changed_recipe(CtRecipe(spacing_mm=(3, 3, 3)), settings.ct, "ct")
    assert (changed.series, changed.align_masks_by_index, changed.spacing_mm) == ("3", True, (3, 3, 3))


def test_advice_about_a_setting_says_how_a_query_changes_it() -> None:
    error = MaskError("The masks are apart.", code="mask_grid", fix="If so, set align_masks_by_index: true.")
    told = with_setting(error, CtRecipe(), "ct")
    assert isinstance(told, MaskError)
    assert told.code == "mask_grid"
    assert told.fix.endswith("For one query: --set ct.align_masks_by_index=true")
    other = MaskError("It is empty.", fix="Segment it again.")
    assert with_setting(other, CtRecipe(), "ct") is other


def cut_through(model: Pipeline, files: Files) -> tuple[Scan, LabelMap]:
    """The scan with a spleen that runs out of it."""
    standardized = model.standardize(*files)
    labels = np.asarray(standardized.organs).copy()
    spleen = next(iter(model.dictionaries.organs.labels_of("spleen")))
    x, y, _ = (int(n) for n in np.argwhere(labels == spleen).mean(0))
    labels[x - 2 : x + 3, y - 2 : y + 3, :][labels[x - 2 : x + 3, y - 2 : y + 3, :] == 0] = spleen
    return Scan(standardized.image, standardized.affine), LabelMap(labels, standardized.affine)


def test_a_cut_off_organ_is_answered_where_that_is_wanted_and_marked(trained: Trained, files: Files) -> None:
    model = Pipeline(load_release(trained[1]))
    model.release.calibration = {**model.release.calibration, "fitted_on": "val"}
    model = Pipeline(model.release)
    scan, labels = cut_through(model, files)
    (refused,) = model.query(scan, ["splenomegaly?"], labels).answers
    assert refused.probability is None
    assert "cut off by the field of view" in refused.reason
    assert "cut_off=answer" in refused.reason
    told = model.query(scan, ["splenomegaly?", "liver: fatty liver"], labels, settings=["cut_off=answer"])
    marked, whole = told.answers
    assert marked.probability is not None
    assert marked.caveats == ("The spleen is cut off by the field of view.",)
    assert not marked.calibrated
    assert "cut off by the field of view" in next(line for line in answer_lines(told) if line.startswith("spleno"))
    assert whole.caveats == ()
    assert whole.calibrated
