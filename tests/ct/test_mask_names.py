"""What masks are called: names of programs and guidelines, codes before names, never the words of reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import Scan
from ctglip.vocabulary.organs import OrganDictionary

NAMES = {
    # TG-263
    "Lung_L": "lung_left", "Lung_R": "lung_right", "Lungs": "lungs", "Kidney_L": "kidney_left",
    "SpinalCord": "spinal_cord",
    "A_Aorta": "aorta", "Bowel_Small": "small_bowel", "Bowel_Large": "colon", "V_Venacava_I": "inferior_vena_cava",
    "Glnd_Adrenal_R": "adrenal_gland_right", "Glnd_Thyroid": "thyroid_gland", "Femur_L": "femur_left",
    "VB_T12": "vertebrae_T12",
    "Rib03_R": "rib_right_3", "Atrium_L": "heart_atrium_left", "Clavicle_R": "clavicula_right",
    # 3D Slicer
    "left hip": "hip_left", "left rib 3": "rib_left_3", "right lower lobe of lung": "lung_lower_lobe_right",
    "L1 vertebra": "vertebrae_L1", "left deep muscle of back": "autochthon_left",
    "left auricular appendage": "atrial_appendage_left",
    # TotalSegmentator v1, v2, v3; files as people call them
    "heart_myocardium": "heart_myocardium", "vertebrae_L6": "vertebrae_L6", "iliac_vena_left": "iliac_vena_left",
    "LIVER": "liver", "kidney-right": "kidney_right", "gall_bladder": "gallbladder", "postcava": "inferior_vena_cava",
    "liver_mask": "liver", "Left Kidney": "kidney_left", "LungLeft": "lung_left",
    # SAT, whose files lie in RadGenome-ChestCT's folders; regions and leaves
    "thoracic vertebrae 1 (t1)": "vertebrae_T1", "cervical vertebrae 7 (c7)": "vertebrae_C7",
    "lumbar vertebrae 6 (l6)": "vertebrae_L6", "sacral vertebrae 1 (s1)": "vertebrae_S1",
    "thoracic vertebrae": "thoracic_spine", "vertebrae": "spine", "left rib 12": "rib_left_12", "left rib": "ribs_left",
    "rib": "ribs", "rib cartilage": "costal_cartilages", "left heart atrium": "heart_atrium_left",
    "right heart ventricle": "heart_ventricle_right", "left auricle of heart": "atrial_appendage_left",
    "myocardium": "heart_myocardium", "left lung lower lobe": "lung_lower_lobe_left", "clavicle": "clavicles",
    "femur": "femurs", "iliac vena": "iliac_veins", "intestine": "bowel", "adrenal gland": "adrenal_glands",
    "right kidney cyst": "kidney_cyst_right", "left breast": "breast_left", "breast": "breasts", "bone": "bones",
    "trachea and bronchie": "trachea", "thyroid": "thyroid_gland", "lung": "lungs", "esophagus": "esophagus",
    # MOOSE
    "vertebra_T5": "vertebrae_T5", "clavicle_left": "clavicula_left", "bladder": "urinary_bladder",
    "portal_splenic_vein": "portal_vein_and_splenic_vein", "heart_atrium_right": "heart_atrium_right",
}  # fmt: skip
FOREIGN = (
    "mass", "lesion", "Liver lesion", "liver_tumor", "apex", "bases", "left base", "hemithorax", "tissue", "lingula",
    "Kidney_Cortex_L", "Femur_Head_L", "PTV", "GTV_liver", "body", "left and right kidney", "",
    "lung nodule", "liver tumor", "kidney cyst", "pulmonary embolism", "head of left femur", "lung lower lobe",
    "left lobe of liver", "rib 1", "spinal canal", "mediastinum", "pleura", "abdomen", "organ",
)  # fmt: skip


def test_names_of_masks(organs: OrganDictionary) -> None:
    found = {name: organs.from_source(name) for name in NAMES}
    assert {name: organ.name if organ else None for name, organ in found.items()} == NAMES


@pytest.mark.parametrize("name", FOREIGN)
def test_words_that_name_no_organ(name: str, organs: OrganDictionary) -> None:
    assert organs.from_source(name) is None


def test_every_organ_is_called_by_its_own_name_and_on_either_side(organs: OrganDictionary) -> None:
    for organ in organs.organs.values():
        if organ.label is not None:
            assert organs.from_source(organ.name) is organ
        if organ.side is not None and organ.label is not None:
            plain = organ.name.replace(f"_{organ.side}", "")
            for called in (f"{plain}_{organ.side[0].upper()}", f"{organ.side} {plain}", f"{organ.side[0]}_{plain}"):
                assert organs.from_source(called) is organ, called


def code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def coded(value: str, meaning: str, side: str | None = None, scheme: str = "SCT") -> Dataset:
    item = code(value, meaning, scheme)
    if side is not None:
        sides = {"SCT": {"Left": "7771000", "Right": "24028007"}, "SRT": {"Left": "G-A101", "Right": "G-A100"}}
        item.SegmentedPropertyTypeModifierCodeSequence = [code(sides[scheme][side], side, scheme)]
    return item


@pytest.fixture
def read(
    phantom: Any, make_segmentation: Callable[..., Any], tmp_path: Path, organs: OrganDictionary
) -> Callable[..., tuple[str | None, list[str]]]:
    """``read(name, type, **values)``: the organ that a segment of these comes to, and the codes of the checks."""

    def go(name: str, kind: Dataset | None, **values: Any) -> tuple[str | None, list[str]]:
        if kind is not None:
            values["SegmentedPropertyTypeCodeSequence"] = [kind]
        masks = {name: phantom.labels == 5, "spleen": phantom.labels == 1}
        data = make_segmentation(masks, phantom.affine)
        for key, value in values.items():
            setattr(data.SegmentSequence[0], key, value)
        data.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
        scan = Scan(phantom.hu, phantom.affine)
        result, checks = read_masks(tmp_path / "seg.dcm", scan, CtRecipe(), organs)
        found = np.unique(result.labels[phantom.labels == 5])
        names = organs.label_names()
        return (names[int(found[0])] if found[0] else None), [c.code for c in checks if c.code != "organs_odd"]

    return go


def test_codes_come_before_names(read: Callable[..., tuple[str | None, list[str]]]) -> None:
    liver = coded("10200004", "Liver")
    assert read("structure 1", liver) == ("liver", [])
    assert read("stomach", liver) == ("liver", ["name_contradicts_code"])
    assert read("structure 1", coded("T-62000", "Liver", scheme="SRT")) == ("liver", [])
    assert read("structure 1", coded("7197", "Liver", scheme="FMA")) == ("liver", [])
    assert read("structure 1", coded("64033007", "Kidney", "Right")) == ("kidney_right", [])
    assert read("structure 1", coded("T-71000", "Kidney", "Left", scheme="SRT")) == ("kidney_left", [])
    assert read("Left Kidney", coded("64033007", "Kidney")) == (
        "kidney_left",
        [],
    )  # the name tells the side
    assert read("Left lung", coded("45653009", "Upper lobe of lung", "Left")) == ("lung_upper_lobe_left", [])
    assert read("stomach", coded("85756007", "Tissue")) == ("stomach", [])  # a code that says nothing
    region = {"AnatomicRegionSequence": [code("10200004", "Liver")]}
    assert read("structure 1", coded("85756007", "Tissue"), **region) == ("liver", [])


def test_a_lesion_in_an_organ_is_not_the_organ(read: Callable[..., tuple[str | None, list[str]]]) -> None:
    region = {"AnatomicRegionSequence": [code("10200004", "Liver")]}
    for kind in (coded("4147007", "Mass"), coded("108369006", "Neoplasm"), coded("52988006", "Lesion")):
        assert read("Liver", kind, **region) == (None, ["unknown_masks"])
    abnormal = {"SegmentedPropertyCategoryCodeSequence": [code("49755003", "Morphologically Abnormal Structure")]}
    assert read("Liver", coded("1234567", "Something"), **abnormal) == (None, ["unknown_masks"])


def test_sides_that_contradict_each_other_are_refused(read: Callable[..., tuple[str | None, list[str]]]) -> None:
    for name in ("Left Kidney", "kidney_left", "Left structure"):
        with pytest.raises(MaskError) as caught:
            read(name, coded("64033007", "Kidney", "Right"))
        assert caught.value.code == "side_contradicts"
        assert "segment 1" in str(caught.value)
