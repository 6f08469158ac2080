"""Every newer word says where it comes from, and the parser reads it back as its entry, affirmed and denied."""

from __future__ import annotations

from typing import Any

import pytest

from ctglip.files import read_yaml
from ctglip.reports.abbreviations import Abbreviation, load_abbreviations
from ctglip.reports.parser import ReportParser
from ctglip.resources import resource
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary

WORDS: dict[str, Any] = read_yaml(resource("abnormality_dictionary", "words.yaml"))
FINDINGS: dict[str, dict[str, Any]] = WORDS["findings"]
ABBREVIATIONS = load_abbreviations().abbreviations
NAMING = {text: entry for text, entry in ABBREVIATIONS.items() if entry.finding or entry.organ}


@pytest.fixture(scope="module")
def parser() -> ReportParser:
    return ReportParser()


def _terms(entry: dict[str, Any]) -> list[str]:
    return [term for terms in entry.values() for term in terms]


def test_every_word_has_one_source_and_a_frequency_only_where_it_was_counted() -> None:
    for entry in (WORDS["abbreviations"], *FINDINGS.values()):
        assert set(entry) <= {"counted", "list", "knowledge"}
        assert len(set(_terms(entry))) == len(_terms(entry))
        assert all(isinstance(count, int) and count > 0 for count in entry.get("counted", {}).values())
        assert all(isinstance(name, str) for name in entry.get("list", {}).values())
    assert set(_terms(WORDS["abbreviations"])) == set(ABBREVIATIONS)


def test_there_are_as_many_words_as_a_reader_of_whole_bodies_needs() -> None:
    assert len(ABBREVIATIONS) >= 200
    assert len(FINDINGS) >= 100
    assert sum(len(_terms(entry)) for entry in FINDINGS.values()) >= 300


@pytest.mark.parametrize("name", FINDINGS)
def test_each_word_is_read_as_its_entry(name: str, parser: ReportParser, abnormalities: AbnormalityDictionary) -> None:
    organs = abnormalities[name].organs
    for term in _terms(FINDINGS[name]):
        entry = abnormalities.find(term)
        assert entry is not None, term
        assert entry.name == name
        for sentence, status in ((f"There is {term}.", "affirmed"), (f"No {term}.", "negated")):
            rows = parser.parse(sentence)
            assert (name, status) in {(r.abnormality, r.status) for r in rows if r.organ in organs}, sentence
            assert {r.abnormality for r in rows} <= {None, *abnormalities.related(name)}, sentence


def _reads(rows: tuple[Finding, ...], entry: Abbreviation, organs: OrganDictionary) -> bool:
    if entry.finding:
        return any(row.abnormality == entry.finding and row.status == "affirmed" for row in rows)
    within = {entry.organ, *organs.parts_of(entry.organ or "")}
    return any(row.organ in within and row.status == "normal" for row in rows)


@pytest.mark.parametrize("text", NAMING)
def test_each_abbreviation_is_read_as_what_it_names(text: str, parser: ReportParser, organs: OrganDictionary) -> None:
    entry = NAMING[text]
    for beside in entry.only_with or ("",):
        sentence = f"There is {beside} {text}." if entry.finding else f"The {text} is normal."
        assert _reads(parser.parse(sentence), entry, organs), sentence


@pytest.mark.parametrize("text", [text for text, entry in NAMING.items() if entry.unless or entry.only_with])
def test_an_abbreviation_of_two_meanings_is_read_by_the_words_beside_it(text: str, parser: ReportParser) -> None:
    entry = NAMING[text]
    others = [f"There is {word} {text}." for word in entry.unless] or [f"There is {text}."]
    for sentence in others:
        found = {row.abnormality or row.organ for row in parser.parse(sentence)}
        assert (entry.finding or entry.organ) not in found, sentence


@pytest.mark.parametrize(
    ("sentence", "organ", "abnormality", "status"),
    [
        ("No PE.", "pulmonary_artery", "pulmonary_embolism", "negated"),
        ("Saddle PE with RV strain.", "heart_ventricle_right", "right_heart_strain", "affirmed"),
        ("No mediastinal LAD.", "mediastinal_lymph_nodes", "lymphadenopathy", "negated"),
        ("Calcified plaque in the LAD.", "coronary_arteries", "coronary_calcification", "affirmed"),
        ("TIPS is patent.", "liver", "tips_shunt", "affirmed"),
        ("No contrast extravasation from the spleen.", "spleen", "active_extravasation", "negated"),
        ("Multiple hepatic mets.", "liver", "liver_metastasis", "affirmed"),
        ("NGT in the stomach.", "stomach", "gastric_tube", "affirmed"),
        ("SBO w/o pneumatosis.", "bowel", "pneumatosis", "negated"),
        ("Stable 4.5 cm infrarenal AAA.", "abdominal_aorta", "abdominal_aortic_aneurysm", "affirmed"),
        ("Findings c/w ruptured AAA.", "abdominal_aorta", "abdominal_aortic_aneurysm", "affirmed"),
        ("Small L effusion.", "pleura_left", "pleural_effusion", "affirmed"),
        ("R/O pneumatosis.", "bowel", "pneumatosis", "uncertain"),
        ("Left basal opacity, contusion versus aspiration.", "lung_lower_lobe_left", "aspiration_change", "uncertain"),
        ("The prostate is surgically absent.", "prostate", "prostatectomy", "affirmed"),
        ("Left temporal lobe contusion.", "brain", "brain_contusion", "affirmed"),
        ("Acute left subdural haematoma.", "brain", "subdural_hematoma", "affirmed"),
        ("Haemoperitoneum.", "peritoneum", "hemoperitoneum", "affirmed"),
        ("Gas in the wall of the caecum, in keeping with pneumatosis.", "cecum", "pneumatosis", "affirmed"),
        ("Small right hip joint effusion.", "femur_right", "joint_effusion", "affirmed"),
        ("Sacral decubitus ulcer.", "soft_tissues", "decubitus_ulcer", "affirmed"),
        ("Occlusion of the left common iliac artery.", "iliac_artery_left", "arterial_occlusion", "affirmed"),
        ("Occlusion of the portal vein.", "portal_vein_and_splenic_vein", "thrombosis", "affirmed"),
    ],
)
def test_words_in_their_sentences(
    sentence: str, organ: str, abnormality: str, status: str, parser: ReportParser
) -> None:
    rows = {(row.organ, row.abnormality, row.status) for row in parser.parse(sentence)}
    assert (organ, abnormality, status) in rows


@pytest.mark.parametrize(("slip", "word"), load_abbreviations().slips.items())
def test_each_slip_is_read_as_the_word_it_was_meant_to_be(slip: str, word: str, parser: ReportParser) -> None:
    def words(text: str) -> list[str]:
        return parser.lexicon.read(text)[0]

    assert words(f"There is {slip} here.") == words(f"There is {word} here.")
    assert parser.lexicon.concepts.get((slip,)) is None
    assert parser.lexicon.locations.get((slip,)) is None


def test_a_sentence_of_slips_is_read() -> None:
    rows = {(r.organ, r.abnormality, r.status) for r in ReportParser().parse("There is a smal rigth plerual efusion.")}
    assert ("pleura_right", "pleural_effusion", "affirmed") in rows


@pytest.mark.parametrize(("slip", "name"), [("diverticulits", "diverticulitis"), ("appendicits", "appendicitis")])
def test_an_inflammation_without_its_second_i_is_one(slip: str, name: str, parser: ReportParser) -> None:
    assert name in {row.abnormality for row in parser.parse(f"Acute {slip}.")}


@pytest.mark.parametrize(
    ("sentence", "abnormality"),
    [
        ("The catheter tips end in the right atrium.", "tips_shunt"),
        ("Criteria are not met in the liver.", "metastatic_disease"),
        ("On PE the abdomen is soft.", "pulmonary_embolism"),
        ("PE: pleural effusion on the left.", "pulmonary_embolism"),
        ("Mosaic attenuation of both lungs (small vessel disease?).", "small_vessel_disease"),
        ("Bronchoscopy with needle aspiration was performed.", "aspiration_change"),
        ("Free fluid in the hip joint.", "pleural_effusion"),
    ],
)
def test_words_that_only_look_alike(sentence: str, abnormality: str, parser: ReportParser) -> None:
    assert abnormality not in {row.abnormality for row in parser.parse(sentence)}


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("bowel ischaemia", "bowel ischemia"),
        ("caecal volvulus", "cecal volvulus"),
        ("coeliac artery compression", "celiac artery compression"),
        ("devascularisation of the spleen", "devascularization of the spleen"),
        ("necrotising fasciitis", "necrotizing fasciitis"),
        ("organising pneumonia", "organizing pneumonia"),
        ("orthopaedic hardware", "orthopedic hardware"),
        ("subarachnoid haemorrhage", "subarachnoid hemorrhage"),
        ("tumour thrombus", "tumor thrombus"),
        ("intervertebral disk protrusion", "intervertebral disc protrusion"),
        ("oesophageal rupture", "esophageal rupture"),
    ],
)
def test_british_spelling_is_read_as_american(british: str, american: str, parser: ReportParser) -> None:
    def found(words: str) -> set[tuple[str | None, str | None, str]]:
        return {(row.organ, row.abnormality, row.status) for row in parser.parse(f"There is {words}.")}

    assert found(british) == found(american)
    assert any(abnormality for _, abnormality, _ in found(british))
