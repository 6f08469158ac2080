"""One scan in, one study out: crop, clip, grid, organs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ctglip.config import load_settings
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.segmentation import SegmentationSettings
from ctglip.ct.standardize import standardize
from ctglip.errors import ConfigError, MaskError
from ctglip.types import LabelMap, Scan
from ctglip.vocabulary.organs import OrganDictionary


def test_recipe_grid_types_and_volumes(phantom: Any, organs: OrganDictionary) -> None:
    scan, masks = Scan(phantom.hu, phantom.affine), LabelMap(phantom.labels, phantom.affine)
    result = standardize(scan, masks, CtRecipe(spacing_mm=(3, 2, 4)), organs)
    assert result.image.dtype == np.int16
    assert result.organs is not None
    assert result.organs.dtype == np.uint8
    assert result.image.shape == result.organs.shape
    assert result.image.flags.c_contiguous
    assert np.allclose(result.spacing_mm, (3, 2, 4))
    rows = {row.organ: row for row in result.rows}
    for label, name in ((5, "liver"), (51, "heart"), (21, "urinary_bladder")):
        assert rows[name].volume_ml == pytest.approx((phantom.labels == label).sum() * 0.125, rel=0.12)
    assert rows["liver"].mean_hu == pytest.approx(60, abs=8)


def test_crop_keeps_the_body_and_every_mask(phantom: Any, organs: OrganDictionary) -> None:
    hu = np.full((60, 60, 32), -1000, np.int16)
    hu[20:48, 10:40] = phantom.hu
    labels = np.zeros(hu.shape, np.uint8)
    labels[20:48, 10:40] = phantom.labels
    labels[5, 5, 5] = 22  # outside the body, but asked for
    recipe = CtRecipe(spacing_mm=(5, 5, 5))
    scan = Scan(hu, phantom.affine)
    plain = standardize(scan, None, recipe, organs)
    assert plain.organs is None
    assert plain.rows == ()
    assert plain.image.shape[0] < 40
    assert (plain.image > -300).sum() == (hu > -300).sum()
    full = standardize(scan, LabelMap(labels, phantom.affine), recipe, organs)
    assert (full.organs == 22).sum() == 1
    whole = standardize(scan, None, recipe.model_copy(update={"crop_to_body": False}), organs)
    assert np.array_equal(whole.image, hu)


def test_padding_is_clipped_before_it_bleeds(phantom: Any, organs: OrganDictionary) -> None:
    hu = np.where(phantom.hu == -1000, -3024, phantom.hu).astype(np.int16)
    clipped = np.where(phantom.hu == -1000, -1024, phantom.hu).astype(np.int16)
    recipe = CtRecipe(spacing_mm=(4, 4, 4))
    dark = standardize(Scan(hu, phantom.affine), None, recipe, organs)
    plain = standardize(Scan(clipped, phantom.affine), None, recipe, organs)
    assert dark.image.min() == -1024
    assert np.array_equal(dark.image, plain.image)


def test_air_alone_is_doubted_not_cropped(organs: OrganDictionary) -> None:
    hu = np.full((10, 10, 10), -1000, np.int16)
    result = standardize(Scan(hu, np.eye(4) * 5), None, CtRecipe(spacing_mm=(5, 5, 5)), organs)
    assert result.image.shape == (10, 10, 10)
    assert [check.code for check in result.checks] == ["no_body"]


def test_mirrored_masks_are_noticed(phantom: Any, organs: OrganDictionary) -> None:
    scan = Scan(phantom.hu[::-1], phantom.affine)
    masks = LabelMap(phantom.labels[::-1], phantom.affine)
    result = standardize(scan, masks, CtRecipe(spacing_mm=(5, 5, 5)), organs)
    assert [c.severity for c in result.checks if c.code == "left_right"] == ["error"]


def test_masks_of_another_grid_are_refused(phantom: Any, organs: OrganDictionary) -> None:
    scan = Scan(phantom.hu, phantom.affine)
    with pytest.raises(MaskError, match="grid"):
        standardize(scan, LabelMap(phantom.labels[1:], phantom.affine), CtRecipe(), organs)


def test_recipe_is_data(tmp_path: Any) -> None:
    assert CtRecipe().hash == CtRecipe(spacing_mm=(1.5, 1.5, 1.5)).hash
    assert CtRecipe().hash != CtRecipe(spacing_mm=(3, 3, 3)).hash
    here, there = SegmentationSettings(device="cpu", threads=1), SegmentationSettings(device="gpu:1", timeout_s=9)
    assert CtRecipe(segmentation=here).hash == CtRecipe(segmentation=there).hash
    assert CtRecipe(segmentation=here).hash != CtRecipe(segmentation=SegmentationSettings(mode="full")).hash
    assert CtRecipe(segmentation=here).hash != CtRecipe().hash
    assert CtRecipe.model_validate_json(CtRecipe().model_dump_json()) == CtRecipe()
    (tmp_path / "r.yaml").write_text("label_map: {1: liver}\nspacing_mm: [3, 3, 3]\n")
    assert load_settings(CtRecipe, tmp_path / "r.yaml").label_map == {1: "liver"}
    for line in ("spacing_mm: [0, 1, 1]", "hu_clip: [5, 1]", "spacing: 3"):
        (tmp_path / "r.yaml").write_text(line)
        with pytest.raises(ConfigError):
            load_settings(CtRecipe, tmp_path / "r.yaml")
