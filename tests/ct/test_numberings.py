"""What the numbers of masks mean: named numberings, and refusal of a numbering that another one beats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ctglip.ct.mask_anatomy import load_anatomy
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.errors import MaskError
from ctglip.types import QualityCheck, Scan
from ctglip.vocabulary.numberings import load_numberings, numbering
from ctglip.vocabulary.organs import OrganDictionary
from tests.ct import torso

NUMBERINGS = load_numberings()
# Four facts of each numbering, as its own documents give them.
FACTS = {
    "totalsegmentator_v1": {1: "spleen", 7: "aorta", 44: "heart_myocardium", 104: "urinary_bladder"},
    "totalsegmentator_v2": {1: "spleen", 5: "liver", 52: "aorta", 117: "costal_cartilages"},
    "totalsegmentator_v3": {1: "spleen", 5: "liver", 26: "vertebrae_L6", 117: "costal_cartilages"},
    "abdomenatlas": {1: "aorta", 5: "liver", 8: "spleen", 9: "stomach"},
    "eight_organs": {1: "spleen", 3: "kidney_left", 6: "liver", 8: "duodenum"},
    "ct_org": {1: "liver", 2: "urinary_bladder", 3: "lungs", 4: "kidneys"},
    "amos": {1: "spleen", 2: "kidney_right", 6: "liver", 10: "pancreas"},
    "btcv": {1: "spleen", 2: "kidney_right", 6: "liver", 11: "pancreas"},
    "flare": {1: "liver", 3: "spleen", 5: "aorta", 13: "kidney_left"},
    "word": {1: "liver", 2: "spleen", 3: "kidney_left", 5: "stomach"},
    "moose": {3: "urinary_bladder", 6: "kidney_left", 8: "liver", 15: "spleen"},
    "vista3d": {1: "liver", 3: "spleen", 14: "kidney_left", 115: "heart"},
    "radar": {1: "adrenal_glands", 14: "pelvic_bones", 21: "liver", 36: "thoracic_spine"},
    "jsrt_scr": {1: "lung_right", 2: "lung_left", 3: "heart", 5: "clavicula_left"},
    "fvlm": {1: "lungs", 2: "heart", 3: "esophagus", 4: "aorta"},
    "rsna_trauma": {1: "liver", 2: "spleen", 3: "kidneys", 5: "bowel"},
    "moose_cardiac": {2: "heart_atrium_left", 3: "heart_atrium_right", 6: "aorta", 13: "pulmonary_artery"},
    "moose_ribs": {12: "rib_left_12", 14: "rib_right_1", 25: "rib_right_12", 27: "sternum"},
    "moose_vertebrae": {7: "vertebrae_C7", 19: "vertebrae_T12", 25: "vertebrae_L6", 28: "sacrum"},
    "moose_peripheral_bones": {3: "clavicula_left", 6: "femur_right", 21: "scapula_left", 23: "skull"},
    "moose_muscles": {1: "autochthon_left", 4: "gluteus_maximus_right", 9: "iliopsoas_left", 10: "iliopsoas_right"},
    "moose_digestive": {1: "colon", 2: "duodenum", 3: "esophagus", 4: "small_bowel"},
    "moose_lungs": {1: "lung_upper_lobe_left", 2: "lung_lower_lobe_left", 4: "lung_middle_lobe_right"},
}
DRAWN = [name for name in FACTS if {"liver", "spleen"} <= set(NUMBERINGS[name].organs.values())]
"""Those whose organs the torso has."""

# Whole numberings in their makers' own words, written down from other places than the tables.
RADAR = (  # the organs that its inference asks about, in their order
    "adrenal gland, aorta, erector spinae muscle, brain, clavicle, large bowel, duodenum, esophagus, face, femur, "
    "gallbladder, gluteus muscle, heart, hip, humerus, iliac artery, iliac vena, iliopsoas muscle, inferior vena cava, "
    "kidney, liver, lung, pancreas, portal vein and splenic vein, pulmonary artery, rib, sacrum, scapula, small bowel, "
    "spleen, stomach, trachea, bladder, cervical vertebrae, lumbar vertebrae, thoracic vertebrae"
)
ABDOMEN_ATLAS = (  # file names of 1.1, in the order of its card
    "aorta gall_bladder kidney_left kidney_right liver pancreas postcava spleen stomach adrenal_gland_left "
    "adrenal_gland_right bladder celiac_trunk colon duodenum esophagus femur_left femur_right hepatic_vessel intestine "
    "lung_left lung_right portal_vein_and_splenic_vein prostate rectum"
)
VISTA = {  # label_dict.json, of which the names have a word for each side in front
    1: "liver", 5: "right kidney", 9: "left adrenal gland", 14: "left kidney", 15: "bladder",
    28: "left lung upper lobe", 32: "right lung lower lobe", 33: "vertebrae L5", 56: "vertebrae C1",
    58: "left iliac artery", 63: "left rib 1", 75: "right rib 1", 88: "right humerus", 95: "left hip", 97: "sacrum",
    104: "left autochthon", 108: "left atrial appendage", 115: "heart", 131: "vertebrae L6",
}  # fmt: skip


def test_whole_numberings_in_their_makers_words(organs: OrganDictionary) -> None:
    for name, words in (("radar", dict(enumerate(RADAR.split(", "), 1))), ("vista3d", VISTA)):
        for number, word in words.items():
            organ = organs.from_source(word)
            assert organ is not None, (name, word)
            assert NUMBERINGS[name].organs[number] == organ.name, (name, number)
    atlas = NUMBERINGS["abdomenatlas"]
    differ = {}
    for number, word in enumerate(ABDOMEN_ATLAS.split(), 1):
        organ = organs.from_source(word)
        if (organ and organ.name) != atlas.organs.get(number):
            differ[word] = (organ and organ.name, atlas.organs.get(number))
    assert differ == {  # a file of vessels inside the liver adds nothing to the liver's own
        "hepatic_vessel": (None, "liver"), "intestine": ("bowel", "small_bowel"), "rectum": (None, "colon"),
    }  # fmt: skip


def test_the_numberings_say_what_their_documents_say(organs: OrganDictionary) -> None:
    assert set(NUMBERINGS) == set(FACTS)
    for name, facts in FACTS.items():
        assert {number: NUMBERINGS[name].organs[number] for number in facts} == facts
    for known in NUMBERINGS.values():
        assert all(organs[organ].label for organ in known.organs.values())
        assert not set(known.organs) & set(known.others)
        assert known.source


def test_totalsegmentators_numberings_are_its_own(organs: OrganDictionary) -> None:
    from totalsegmentator.map_to_binary import class_map

    for name, task in (("v1", "total_v1"), ("v2", "total"), ("v3", "total_v3")):
        own = {number: organs.from_source(label).name for number, label in class_map[task].items()}  # type: ignore[union-attr]
        assert NUMBERINGS[f"totalsegmentator_{name}"].organs == own


def test_every_organ_that_is_drawn_has_an_anatomy(organs: OrganDictionary) -> None:
    anatomy = load_anatomy()
    assert {name for name in organs.names if organs[name].label} == set(anatomy)
    for name, usual in anatomy.items():
        assert usual.ml[0] < usual.ml[1]
        assert usual.hu[0] < usual.hu[1]
        mirror = anatomy[organs.mirror(name)]
        if organs[name].side is not None and not name.startswith("lung"):
            assert usual.centre == (-mirror.centre[0], *mirror.centre[1:])
            assert (usual.centre[0] < 0) == (organs[name].side == "left")


def read(
    labels: np.ndarray,
    scan: Scan,
    write: Callable[..., Path],
    organs: OrganDictionary,
    chosen: Any,
    row: str | None = None,
) -> tuple[np.ndarray, list[QualityCheck]]:
    path = write(labels, scan.affine, "masks.nii.gz")
    masks, checks = read_masks(path, scan, CtRecipe(label_map=chosen), organs, row)
    return masks.labels, list(checks)


def meaning(labels: np.ndarray, names: dict[int, str]) -> dict[int, str | None]:
    return {int(n): names.get(int(n)) for n in np.unique(labels) if n}


@pytest.mark.parametrize("true", DRAWN)
def test_a_file_is_right_under_its_numbering_and_refused_under_others(
    true: str, write_nifti: Callable[..., Path], organs: OrganDictionary
) -> None:
    scan, labels = torso.scan(), torso.drawn(NUMBERINGS[true].organs)
    result, checks = read(labels, scan, write_nifti, organs, true)
    assert not [check for check in checks if check.severity == "error"]
    for organ in ("liver", "spleen", "kidney_left"):
        if organ in NUMBERINGS[true].organs.values():
            drawn = (result == organs[organ].label).sum()
            assert 0.9 < drawn / torso.inside(organ).sum() <= 1
            assert torso.inside(organ)[result == organs[organ].label].all()
    read_so = meaning(labels, NUMBERINGS[true].organs)
    for other, known in NUMBERINGS.items():
        if meaning(labels, known.organs) == read_so:
            continue
        if not set(meaning(labels, known.organs).values()) - {None}:
            with pytest.raises(MaskError, match="holds no organ"):
                read(labels, scan, write_nifti, organs, other)
            continue
        _, checks = read(labels, scan, write_nifti, organs, other)
        wrong = [check for check in checks if check.severity == "error"]
        assert [check.code for check in wrong] == ["numbering"], (true, other)
        assert true in wrong[0].message, (true, other, wrong[0].message)


def test_the_default_is_refused_where_another_numbering_fits(
    write_nifti: Callable[..., Path], organs: OrganDictionary
) -> None:
    scan = torso.scan()
    for only in ((), ("liver", "spleen"), ("liver",)):
        labels = torso.drawn(NUMBERINGS["flare"].organs, only) * np.uint8(1)
        labels[0, 0, 0] = 0 if len(only) != 1 else 2  # not one number alone, which nothing would name
        _, checks = read(labels, scan, write_nifti, organs, None)
        wrong = [check for check in checks if check.severity == "error"]
        assert [check.code for check in wrong] == ["numbering"]
        assert "flare" in wrong[0].message


def test_the_row_comes_before_the_recipe(write_nifti: Callable[..., Path], organs: OrganDictionary) -> None:
    scan, labels = torso.scan(), torso.drawn(NUMBERINGS["amos"].organs)
    result, checks = read(labels, scan, write_nifti, organs, "flare", row="AMOS")
    assert not [check for check in checks if check.severity == "error"]
    assert (result == organs["liver"].label).any()
    with pytest.raises(MaskError) as caught:
        read(labels, scan, write_nifti, organs, None, row="amoss")
    assert caught.value.code == "unknown_numbering"
    assert "amos" in str(caught.value)


def test_a_recipe_names_a_known_numbering() -> None:
    assert CtRecipe(label_map="BTCV").label_map == "btcv"
    with pytest.raises(ValidationError, match="nearest: totalsegmentator_v2"):
        CtRecipe(label_map="totalsegmentator-v22")
    assert numbering("vista3d").others[132] == "airway"


def test_one_unnamed_structure_is_refused(write_nifti: Callable[..., Path], organs: OrganDictionary) -> None:
    scan = torso.scan()
    for number in (1, 255):
        labels = torso.inside("kidney_left") * np.uint8(number)
        with pytest.raises(MaskError) as caught:
            read(labels, scan, write_nifti, organs, None)
        assert caught.value.code == "unnamed_mask"
        result, checks = read(labels, scan, write_nifti, organs, {number: "kidney_left"})
        assert not checks
        assert set(np.unique(result)) == {0, organs["kidney_left"].label}


def whole() -> np.ndarray:
    return torso.drawn(NUMBERINGS["totalsegmentator_v2"].organs)


@pytest.mark.parametrize(
    "name",
    ["chest", "abdomen", "pelvis", "left_half", "no_spleen", "one_kidney", "small_liver", "large_spleen", "low_kidney"],
)
def test_parts_of_bodies_and_odd_anatomy_are_not_refused(
    name: str, write_nifti: Callable[..., Path], organs: OrganDictionary
) -> None:
    scan, labels, mm = torso.scan(), whole(), torso.grid()
    starts = {"chest": (0, 0, 62), "abdomen": (0, 0, 25)}.get(name, (0, 0, 0))
    ends = {"abdomen": (72, 52, 62), "pelvis": (72, 52, 30), "left_half": (36, 52, 110)}.get(name, torso.SHAPE)
    keep = tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))
    if name == "no_spleen":
        labels[labels == 1] = 0
    elif name == "one_kidney":
        labels[labels == 3] = 0
    elif name == "small_liver":  # resected: a fifth is left
        labels[(labels == 5) & (mm[..., 2] < 15)] = 0
    elif name == "large_spleen":
        grown = torso.ellipsoid((-85, -10, -60), (50, 60, 110))
        labels[grown], scan.hu[grown] = 1, 110
    elif name == "low_kidney":  # a pelvic kidney
        labels[labels == 2] = 0
        low = torso.ellipsoid((30, -30, -200), (27, 27, 50))
        labels[low], scan.hu[low] = 2, 150
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ starts
    part = Scan(scan.hu[keep], affine)
    result, checks = read(np.ascontiguousarray(labels[keep]), part, write_nifti, organs, None)
    assert not [check for check in checks if check.severity != "info"], checks
    assert np.array_equal(result, labels[keep])


def test_masks_of_another_patient_fit_no_numbering(write_nifti: Callable[..., Path], organs: OrganDictionary) -> None:
    scan, labels = torso.scan(), whole()
    moved = np.roll(labels, 40, axis=2)  # 20 cm up: livers in lungs, lungs in the air
    moved[:, :, :40] = 0
    moved = np.roll(moved, 25, axis=1)
    moved[:, :25] = 0
    _, checks = read(moved, scan, write_nifti, organs, None)
    assert [check.code for check in checks if check.severity == "error"] == ["masks_unlike_anatomy"]


def test_a_mirrored_body_is_no_other_numbering(write_nifti: Callable[..., Path], organs: OrganDictionary) -> None:
    scan, labels = torso.scan(mirrored=True), whole()[::-1]
    _, checks = read(np.ascontiguousarray(labels), scan, write_nifti, organs, None)
    assert not [check for check in checks if check.severity == "error"]  # the order of organs tells, see test_quality


def test_numbers_above_a_byte_and_tables_of_the_file(write_nifti: Callable[..., Path], organs: OrganDictionary) -> None:
    scan = torso.scan()
    labels = np.zeros(torso.SHAPE, np.uint16)
    labels[torso.inside("liver")] = 1005
    labels[torso.inside("spleen")] = 300
    result, _ = read(labels, scan, write_nifti, organs, {1005: "liver", 300: "spleen"})
    assert np.array_equal(result == organs["liver"].label, torso.inside("liver") & ~torso.inside("spleen"))
    assert (result == organs["spleen"].label).sum() == (labels == 300).sum()
