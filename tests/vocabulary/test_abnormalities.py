"""Abnormalities: their organs, kinds, synonyms, and what a general word means in an organ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctglip.errors import ConfigError, VocabularyError
from ctglip.vocabulary.abnormalities import AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs, normalise

CANONICAL = """
    hepatic_steatosis liver_cyst liver_metastasis hepatomegaly gallstone splenomegaly renal_stone renal_cyst
    hydronephrosis aortic_calcification aortic_aneurysm pleural_effusion lung_nodule consolidation emphysema atelectasis
    cardiomegaly pericardial_effusion compression_fracture bladder_stone coronary_calcification hiatal_hernia
    lymphadenopathy bronchiectasis medical_material arterial_calcification lung_opacity pulmonary_fibrotic_sequela
    mosaic_attenuation peribronchial_thickening interlobular_septal_thickening prostatomegaly osteopenia
    abdominal_aortic_aneurysm aortic_valve_calcification atherosclerosis thrombosis bowel_obstruction appendicitis
    pancreatic_atrophy renal_hypodensity ascites anasarca metastatic_disease fracture absent_gallbladder
    biliary_dilatation pneumoperitoneum
""".split()  # noqa: SIM905
TRUTH_COLUMNS = """
    kidney_left:renal_cyst pleura_right:pleural_effusion lung_left:lung_nodule lumbar_spine:compression_fracture
    aorta:aortic_aneurysm heart:cardiomegaly gallbladder:gallstone liver:hepatic_steatosis spleen:splenomegaly
    vertebrae_L1:compression_fracture urinary_bladder:bladder_stone kidneys:hydronephrosis
""".split()  # noqa: SIM905


def test_the_agreed_names_exist(abnormalities: AbnormalityDictionary) -> None:
    assert not [name for name in CANONICAL if name not in abnormalities]


@pytest.mark.parametrize("column", TRUTH_COLUMNS)
def test_truth_columns_are_pairs_of_the_dictionary(column: str, abnormalities: AbnormalityDictionary) -> None:
    assert tuple(column.split(":")) in abnormalities.pairs()


def test_names_are_plain_keys(abnormalities: AbnormalityDictionary) -> None:
    assert not [name for name in abnormalities.names if not name.isidentifier() or name != name.lower()]


def test_hierarchy_has_no_cycle_and_both_directions_agree(abnormalities: AbnormalityDictionary) -> None:
    for name in abnormalities.names:
        assert name not in abnormalities.ancestors(name)
        for ancestor in abnormalities.ancestors(name):
            assert name in abnormalities.descendants(ancestor)
        assert abnormalities.related(name) == abnormalities.ancestors(name) | abnormalities.descendants(name) | {name}


def test_every_abnormality_has_a_home_that_can_be_spoken_of(
    abnormalities: AbnormalityDictionary, organs: OrganDictionary
) -> None:
    for entry in abnormalities.abnormalities.values():
        assert entry.organs
        assert entry.default_organ in organs
        assert all(organ in organs for organ in entry.organs)
        assert organs[entry.default_organ].anatomy


def test_a_kind_is_found_wherever_its_more_general_entry_is_asked(abnormalities: AbnormalityDictionary) -> None:
    for entry in abnormalities.abnormalities.values():
        for ancestor in abnormalities.ancestors(entry.name):
            assert set(entry.organs) <= set(abnormalities[ancestor].organs), (entry.name, ancestor)


def test_pairs_and_organs_agree(abnormalities: AbnormalityDictionary) -> None:
    pairs = set(abnormalities.pairs())
    for organ, name in pairs:
        assert abnormalities[name] in abnormalities.of_organ(organ)
    assert {(organ, entry.name) for organ in ("liver", "body") for entry in abnormalities.of_organ(organ)} <= pairs
    assert abnormalities.of_organ("no_such_organ") == ()
    listed = {(organ, entry.name) for organ in {o for o, _ in pairs} for entry in abnormalities.of_organ(organ)}
    assert listed == pairs


def test_an_organ_lists_each_abnormality_once(abnormalities: AbnormalityDictionary) -> None:
    names = [entry.name for entry in abnormalities.of_organ("liver")]
    assert "liver_cyst" in names
    assert not {"cyst", "hypodense_lesion", "hemangioma", "abscess", "metastatic_disease"} & set(names)
    assert "cyst" in {entry.name for entry in abnormalities.of_organ("soft_tissues")}


def test_an_abnormality_reaches_the_parts_of_its_organs_own_group(abnormalities: AbnormalityDictionary) -> None:
    assert {"kidney_left", "kidney_right"} <= set(abnormalities["renal_cyst"].organs)
    assert "lung_upper_lobe_right" in abnormalities["lung_nodule"].organs
    assert "vertebrae_T7" in abnormalities["compression_fracture"].organs
    assert "kidney_cyst_left" not in abnormalities["renal_stone"].organs


def test_no_word_means_two_abnormalities(abnormalities: AbnormalityDictionary) -> None:
    owners: dict[str, str] = {}
    for entry in abnormalities.abnormalities.values():
        for phrase in entry.phrases:
            assert owners.setdefault(normalise(phrase), entry.name) == entry.name, phrase
            assert abnormalities.find(phrase) is entry


def test_exclusion_is_mutual_and_never_between_kin(abnormalities: AbnormalityDictionary) -> None:
    for entry in abnormalities.abnormalities.values():
        for other in entry.mutually_exclusive:
            assert entry.name in abnormalities[other].mutually_exclusive
            assert other not in abnormalities.related(entry.name)


@pytest.mark.parametrize(
    ("word", "organ", "meaning"),
    [
        ("cyst", "kidney_left", "renal_cyst"),
        ("cyst", "liver", "liver_cyst"),
        ("stone", "gallbladder", "gallstone"),
        ("nodule", "lung_upper_lobe_left", "lung_nodule"),
        ("calcification", "aorta", "aortic_calcification"),
        ("fracture", "vertebrae_L1", "vertebral_fracture"),
        ("aneurysm", "abdominal_aorta", "abdominal_aortic_aneurysm"),
        ("cyst", "soft_tissues", "cyst"),
        ("splenomegaly", "spleen", "splenomegaly"),
    ],
)
def test_a_general_word_means_the_organs_own_entry(
    word: str, organ: str, meaning: str, abnormalities: AbnormalityDictionary
) -> None:
    assert abnormalities.specialise(word, organ) == meaning


def test_what_a_word_means_in_an_organ_is_a_kind_of_it_there(abnormalities: AbnormalityDictionary) -> None:
    pairs = set(abnormalities.pairs())
    for entry in abnormalities.abnormalities.values():
        for organ in entry.organs:
            meaning = abnormalities.specialise(entry.name, organ)
            assert meaning == entry.name or meaning in abnormalities.descendants(entry.name)
            assert (organ, meaning) in pairs
            assert abnormalities.specialise(meaning, organ) == meaning


def test_unknown_name_gets_the_nearest_ones(abnormalities: AbnormalityDictionary) -> None:
    with pytest.raises(VocabularyError, match="renal_cyst") as caught:
        abnormalities["renal cysts"]
    assert caught.value.code == "unknown_abnormality"


BROKEN = {
    "is a kind of itself": "a: {display: a, organs: [kidneys], parent: b}\nb: {display: b, parent: a}",
    "not in it": "a: {display: a, organs: [kidneys], parent: b}",
    "does not hold": "a: {display: a, organs: [lungs]}",
    "has no organ": "a: {display: a}",
    "is not a kind of it": "a: {display: a, organs: [kidneys], implied: {by: [b]}}\nb: {display: b, organs: [kidneys]}",
    "implies both": (
        "a: {display: a, organs: [kidneys]}\n"
        "b: {display: b, organs: [kidneys], parent: a, implied: {by: [a]}}\n"
        "c: {display: c, organs: [kidneys], parent: a, implied: {by: [a]}}"
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_contradictions_are_refused(fault: str, small: Callable[..., tuple[Path, Path]]) -> None:
    organs_path, path = small(BROKEN[fault])
    with pytest.raises(VocabularyError, match=fault) as caught:
        load_abnormalities(path, load_organs(organs_path))
    assert caught.value.code == "bad_dictionary"


def test_an_unknown_field_is_refused_with_its_entry(small: Callable[..., tuple[Path, Path]]) -> None:
    organs_path, path = small("a: {display: a, organs: [kidneys], synonim: [b]}")
    with pytest.raises(ConfigError, match="did you mean 'synonyms'"):
        load_abnormalities(path, load_organs(organs_path))


def test_equal_content_has_one_hash_and_any_change_another(small: Callable[..., tuple[Path, Path]]) -> None:
    organs_path, path = small("a: {display: a, organs: [kidneys]}")
    organs = load_organs(organs_path)
    first = load_abnormalities(path, organs)
    path.write_text(path.read_text() + "# a remark\n")
    assert load_abnormalities(path, organs).hash == first.hash
    path.write_text(path.read_text().replace("display: a", "display: an a"))
    assert load_abnormalities(path, organs).hash != first.hash
