"""Organs: labels, parts, sides, groundings, words, and the agreement with TotalSegmentator's own class maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from ctglip.errors import ConfigError, VocabularyError
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs, normalise, totalsegmentator_classes

COMPOSITES = """
    lung_left lung_right lungs kidneys adrenal_glands pleura_left pleura_right pleura pericardium spine cervical_spine
    thoracic_spine lumbar_spine ribs ribs_left ribs_right mediastinum bronchi lymph_nodes coronary_arteries peritoneum
    mesentery breasts thyroid_gland uterus prostate soft_tissues
""".split()  # noqa: SIM905


@pytest.mark.parametrize(
    ("task", "version", "count"), [("total_v1", "v1", 104), ("total", "v2", 117), ("total_v3", "v3", 117)]
)
def test_every_totalsegmentator_class_is_an_organ(task: str, version: str, count: int, organs: OrganDictionary) -> None:
    from totalsegmentator.map_to_binary import class_map

    classes = class_map[task]
    ours = [name for organ in organs.organs.values() for name in organ.totalsegmentator.get(version, ())]  # type: ignore[call-overload]
    assert len(classes) == count
    assert sorted(ours) == sorted(classes.values())
    for name in classes.values():
        found = organs.from_source(name)
        assert found is not None
        assert found.label is not None


def test_labels_up_to_117_are_totalsegmentators_own_numbers(organs: OrganDictionary) -> None:
    from totalsegmentator.map_to_binary import class_map

    assert dict(totalsegmentator_classes()) == class_map["total"]
    names = organs.label_names()
    assert all(names[number] == organs.from_source(name).name for number, name in class_map["total"].items())  # type: ignore[union-attr]


def test_labels_are_unique_and_fit_a_byte(organs: OrganDictionary) -> None:
    labels = [organ.label for organ in organs.organs.values() if organ.label is not None]
    assert len(labels) == len(set(labels))
    assert min(labels) == 1
    assert max(labels) <= 255


def test_the_agreed_composites_exist(organs: OrganDictionary) -> None:
    assert not [name for name in COMPOSITES if name not in organs]


def test_no_organ_is_its_own_part_and_wholes_mirror_parts(organs: OrganDictionary) -> None:
    for name in organs.names:
        assert name not in organs.parts_of(name)
        for part in organs.parts_of(name):
            assert name in organs.containing(part)
            assert organs.parts_of(part) < organs.parts_of(name)


def test_voxels_of_a_whole_hold_those_of_its_parts(organs: OrganDictionary) -> None:
    assert organs.labels_of("kidneys") >= organs.labels_of("kidney_left") | organs.labels_of("kidney_right")
    assert {10, 11} <= organs.labels_of("lung_left")
    assert organs.labels_of("lungs") >= organs.labels_of("lung_left") | organs.labels_of("lung_right")
    assert {27, 28, 29} <= organs.labels_of("lumbar_spine") <= organs.labels_of("spine")
    assert organs.labels_of("peritoneum") == frozenset()


def test_mirror_is_an_involution_that_changes_sides(organs: OrganDictionary) -> None:
    for name in organs.names:
        other = organs.mirror(name)
        assert organs.mirror(other) == name
        if other != name:
            assert {organs[name].side, organs[other].side} == {"left", "right"}
    sided = [name for name in organs.names if organs[name].side]
    assert [name for name in sided if organs.mirror(name) == name] == ["lung_middle_lobe_right"]
    assert organs.mirror("rib_left_5") == "rib_right_5"
    assert organs.mirror("liver") == "liver"
    assert organs.mirror("heart_atrium_left") == "heart_atrium_left"  # chambers are no mirror images


def test_side_of_a_pair(organs: OrganDictionary) -> None:
    assert organs.on_side("kidneys", "left") == "kidney_left"
    assert organs.on_side("pleura", "right") == "pleura_right"
    assert organs.on_side("kidney_left", "right") == "kidney_right"
    assert organs.on_side("liver", "left") == "liver"


def test_shells_lie_around_other_masks(organs: OrganDictionary) -> None:
    for name, mask in (
        ("pleura_left", "lung_left"),
        ("pleura_right", "lung_right"),
        ("pericardium", "heart"),
        ("perirenal_space_left", "kidney_left"),
    ):
        roi = organs[name].roi
        assert roi.shell
        assert roi.masks == (mask,)
        assert roi.dilate_mm > 0
        assert organs.roi_labels(name) == organs.labels_of(mask)
    for organ in organs.organs.values():
        if organ.roi.shell:
            assert organ.name not in organ.roi.masks
            assert organ.roi.dilate_mm > 0


def test_the_roi_of_an_organ_without_a_mask_is_a_neighbour_or_nothing(organs: OrganDictionary) -> None:
    assert organs["coronary_arteries"].roi.masks == ("heart",)
    assert organs.roi_labels("appendix") == organs.labels_of("colon")
    assert organs.roi_labels("soft_tissues") == frozenset()
    for name in organs.names:
        roi = organs[name].roi
        empty = [mask for mask in roi.masks if not organs.labels_of(mask)]
        assert not empty, name
        assert (name in organs.segmented) == (roi.masks == (name,))


def test_segment_names_of_the_embedded_chest_ct_are_found(organs: OrganDictionary) -> None:
    slicerio = pytest.importorskip("slicerio")
    path = Path(slicerio.__file__).parent / "data" / "Segmentation.seg.nrrd"
    names = [segment["name"] for segment in slicerio.read_segmentation(str(path))["segments"]]
    found = {name: organs.from_source(name) for name in names}
    assert {name: organ.name if organ else None for name, organ in found.items()} == {
        "ribs": "ribs",
        "cervical vertebral column": "cervical_spine",
        "thoracic vertebral column": "thoracic_spine",
        "lumbar vertebral column": "lumbar_spine",
        "right lung": "lung_right",
        "left lung": "lung_left",
        "tissue": None,
    }


def test_find_reads_display_names_and_synonyms(organs: OrganDictionary) -> None:
    for organ in organs.organs.values():
        if organ.anatomy:
            assert organs.find(organ.display) is organ
    assert organs.find("The Large Bowel").name == "colon"  # type: ignore[union-attr]
    assert organs.find("L3") is organs["vertebrae_L3"]
    assert organs.find("banana") is None
    assert organs.find("left kidney cyst") is None  # a lesion that is segmented like an organ


def test_no_word_means_two_organs(organs: OrganDictionary) -> None:
    words = [(normalise(p), o.name) for o in organs.organs.values() for p in (*o.phrases, *o.adjectives)]
    for word, same in itertools.groupby(sorted(set(words)), key=lambda pair: pair[0]):
        assert len(list(same)) == 1, word


def test_every_organ_can_be_spoken_of(organs: OrganDictionary) -> None:
    for organ in organs.organs.values():
        assert organ.group, organ.name
        assert organ.display[0] not in " ", organ.name
        assert organ.side is None or organ.side in organ.display.split(), organ.name


def test_codes_name_their_source(organs: OrganDictionary) -> None:
    classes = [organ for organ in organs.organs.values() if organ.totalsegmentator]
    assert [organ.name for organ in classes if organ.code is None] == ["vertebrae_L6"]  # in none of the lists
    assert all(organ.code.value.isdigit() and organ.code.meaning for organ in classes if organ.code)


def test_unknown_name_gets_the_nearest_ones(organs: OrganDictionary) -> None:
    with pytest.raises(VocabularyError, match="kidney_left") as caught:
        organs["left_kidney"]
    assert caught.value.code == "unknown_organ"


BROKEN = {
    "a part of itself": "  a: {display: a, label: 1, parts: [b]}\n  b: {display: b, parts: [a]}\n",
    "the same label": "  a: {display: a, label: 1}\n  b: {display: b, label: 1}\n",
    "not an organ": "  a: {display: a, label: 1, parts: [b]}\n",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_contradictions_are_refused(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "organs.yaml"
    path.write_text(f"version: 1\norgans:\n{BROKEN[fault]}")
    with pytest.raises(VocabularyError, match=fault) as caught:
        load_organs(path)
    assert caught.value.code == "bad_dictionary"


@pytest.mark.parametrize("field", ["label: 256", "label: 0", "sids: left", "side: up", "roi: {dilate_mm: -1}"])
def test_bad_fields_are_refused_with_their_organ(field: str, tmp_path: Path) -> None:
    path = tmp_path / "organs.yaml"
    path.write_text(f"version: 1\norgans:\n  spleen: {{display: spleen, {field}}}\n")
    with pytest.raises(ConfigError, match="spleen"):
        load_organs(path)


def test_a_changed_file_is_read_again(small: Callable[..., tuple[Path, Path]]) -> None:
    path, _ = small("a: {display: a, organs: [kidneys]}")
    first = load_organs(path)
    assert load_organs(path) is first
    path.write_text(path.read_text().replace("left kidney", "kidney on the left"))
    changed = load_organs(path)
    assert changed["kidney_left"].display == "kidney on the left"
    assert changed.hash != first.hash


def test_dictionaries_of_models_exported_before_are_read(tmp_path: Path) -> None:
    organs_file, abnormalities_file = tmp_path / "organs.yaml", tmp_path / "abnormalities.yaml"
    organs_file.write_text(
        "organs:\n"
        "  lung: {display: lung, group: lungs, label: 1}\n"
        "  pleura: {display: pleura, group: lungs, grounding: {masks: [lung], dilate_mm: 4, shell: true}}\n"
    )
    abnormalities_file.write_text(
        "abnormalities:\n"
        "  effusion: {display: effusion, organs: [pleura], look: Dark., exclusive: [dry]}\n"
        "  dry: {display: dry, organs: [pleura]}\n"
    )
    organs = load_organs(organs_file)
    roi = organs["pleura"].roi
    assert (roi.masks, roi.dilate_mm, roi.shell) == (("lung",), 4, True)
    assert organs["lung"].roi.masks == ("lung",)
    abnormalities = load_abnormalities(abnormalities_file, organs)
    assert abnormalities["effusion"].ct_appearance == "Dark."
    assert abnormalities["dry"].mutually_exclusive == ("effusion",)
