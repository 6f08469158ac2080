"""What numbers mean by nnU-Net's ``dataset.json``: both versions, regions, files of other programs, broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctglip.ct.masks import read_masks
from ctglip.ct.masks_nnunet import dataset_file, dataset_names
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import Scan
from ctglip.vocabulary.organs import OrganDictionary

VERSION_1 = {
    "name": "BTCV", "modality": {"0": "CT"}, "numTraining": 1,
    "labels": {"0": "background", "1": "spleen", "6": "Liver", "9": "postcava", "20": "celiac trunk"},
    "training": [{"image": "./imagesTr/case_1.nii.gz", "label": "./labelsTr/case_1.nii.gz"}],
}  # fmt: skip
VERSION_2 = {
    "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz",
    "labels": {"background": 0, "spleen": 1, "right kidney": 2, "liver": 6, "pancreas_lesion": 4},
}  # fmt: skip
REGIONS = {
    "channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "regions_class_order": [1, 3, 2],
    "labels": {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2, "liver": [6]},
}  # fmt: skip


@pytest.fixture
def lay(phantom: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes labels 1 (spleen), 2 (a part of it), 6 (liver) in ``folder``, and a ``dataset.json`` where it belongs."""

    def write(tree: Any, folder: str = "labelsTr", above: bool = True) -> Path:
        labels = (phantom.labels == 5) * np.uint8(6) + (phantom.labels == 1) * np.uint8(1)
        labels[8:] = np.where(labels[8:] == 1, 2, labels[8:])
        path = tmp_path / folder / "case_1.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(labels, phantom.affine), path)
        place = path.parent.parent if above else path.parent
        (place / "dataset.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
        return path

    return write


def organs_in(path: Path, phantom: Any, organs: OrganDictionary, **settings: Any) -> tuple[set[str], str]:
    masks, checks = read_masks(path, Scan(phantom.hu, phantom.affine), CtRecipe(**settings), organs)
    names = organs.label_names()
    return {names[int(n)] for n in np.unique(masks.labels) if n}, " ".join(check.message for check in checks)


@pytest.mark.parametrize(("folder", "above"), [("labelsTr", True), ("predictions", False)])
def test_both_versions(
    lay: Callable[..., Path], phantom: Any, organs: OrganDictionary, folder: str, above: bool
) -> None:
    found, said = organs_in(lay(VERSION_1, folder, above), phantom, organs)
    assert found == {"spleen", "liver"}
    assert "number 2" in said  # which version 1 of this set does not name
    found, said = organs_in(lay(VERSION_2, folder, above), phantom, organs)
    assert found == {"spleen", "liver", "kidney_right"}
    assert "ignored" not in said


def test_names_without_an_organ_are_listed(tmp_path: Path, organs: OrganDictionary) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(VERSION_1))
    assert dataset_names(path, organs) == {1: "spleen", 6: "Liver", 9: "postcava", 20: "celiac trunk"}


def test_a_number_of_several_regions_is_its_organ(
    lay: Callable[..., Path], phantom: Any, organs: OrganDictionary
) -> None:
    path = lay(REGIONS)
    assert dataset_names(path.parent.parent / "dataset.json", organs) == dict.fromkeys((1, 2, 3), "kidney") | {
        6: "liver"
    }
    assert organs_in(path, phantom, organs)[0] == {"kidneys", "liver"}
    two = {**REGIONS, "labels": {"background": 0, "spleen": [1, 2], "stomach": [2, 3], "liver": 6}}
    with pytest.raises(MaskError) as caught:
        organs_in(lay(two), phantom, organs)
    assert caught.value.code == "ambiguous_regions"
    assert "spleen and stomach" in str(caught.value)


def test_what_is_chosen_counts_before_the_file(lay: Callable[..., Path], phantom: Any, organs: OrganDictionary) -> None:
    found, _ = organs_in(lay(VERSION_2), phantom, organs, label_map={6: "stomach", 1: "spleen", 2: "spleen"})
    assert found == {"stomach", "spleen"}


def test_files_of_other_programs_and_broken_ones(
    lay: Callable[..., Path], phantom: Any, organs: OrganDictionary
) -> None:
    path = lay({"train": [{"name": "train_1_a_1.nii.gz"}]}, "predictions", above=False)
    assert organs_in(path, phantom, organs)[0] == {"spleen", "kidney_right", "stomach"}  # TotalSegmentator v2's 1, 2, 6
    for broken in ('{"labels": {"liver": 6', {"labels": {"liver": "six"}}, {"labels": {"liver": 1.5}}):
        with pytest.raises(MaskError) as caught:
            organs_in(lay(broken, "predictions", above=False), phantom, organs)
        assert caught.value.code == "bad_dataset_json"
        assert "dataset.json" in str(caught.value)


def test_only_folders_of_labels_look_above(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    assert dataset_file(tmp_path / "labelsTr" / "case.nii.gz") == tmp_path / "dataset.json"
    assert dataset_file(tmp_path / "study" / "masks.nii.gz") is None
