"""Where public vocabularies are found in the dictionaries, and that every code is what its list says."""

from __future__ import annotations

import csv
from importlib import resources

import pytest
from pydicom.sr._concepts_dict import concepts

from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary
from ctglip.vocabulary.sources import SourceList, load_sources, unknown_targets
from tests.vocabulary.coverage import coverage


def test_the_shipped_sources_point_at_entries(organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
    sources = load_sources()
    assert unknown_targets(sources, organs, abnormalities) == ()
    assert all(reason and names for source in sources.lists.values() for reason, names in source.declined.items())
    assert not [item for source in sources.lists.values() for item in source.maps if source.reason(item)]


@pytest.mark.parametrize(
    ("item", "kind", "found"),
    [
        ("Pleural effusion", "abnormalities", "pleural_effusion"),
        ("gallstones", "abnormalities", "gallstone"),
        ("Kidney_Cyst", "abnormalities", "renal_cyst"),
        ("Spleen_Hypoattenuating lesion", "abnormalities", "spleen:splenic_hypodensity"),
        ("heart", "organs", "heart"),
        ("rib_left_5", "both", "rib_left_5"),
        ("pearl", "abnormalities", "liver:stone"),
    ],
)
def test_an_item_is_found_by_name_or_by_hand(
    item: str, kind: str, found: str, organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> None:
    source = SourceList.model_validate({"title": "mine", "kind": kind, "maps": {"pearl": "liver:stone"}})
    assert coverage([item], source, organs, abnormalities).found == {item: (found,)}


def test_what_is_neither_found_nor_declined_is_missing(
    organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> None:
    source = SourceList(title="mine", declined={"a tooth": ("tooth_*",)})
    became = coverage(["tooth_11", "heart", "Liver_Pneumothorax"], source, organs, abnormalities)
    assert became.declined == {"tooth_11": "a tooth"}
    assert became.missing == ("heart", "Liver_Pneumothorax")  # an organ is no abnormality, and a liver has no pleura


def test_dicom_codes_are_dicoms(organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
    known = {
        (scheme, code, meaning)
        for scheme, names in concepts.items()
        for codes in names.values()
        for code, (meaning, _) in codes.items()
    }
    codes = [e.code for d in (organs.organs, abnormalities.abnormalities) for e in d.values() if e.code]
    dicom = {(code.scheme, code.value, code.meaning) for code in codes if code.source == "dicom"}
    assert len(dicom) > 80
    assert sorted(dicom - known) == []


def test_totalsegmentator_codes_are_totalsegmentators(organs: OrganDictionary) -> None:
    table = resources.files("totalsegmentator") / "resources" / "totalsegmentator_snomed_mapping.csv"
    kind = "SegmentedPropertyTypeCodeSequence.Code"
    with table.open(encoding="utf-8") as stream:  # type: ignore[call-arg]
        known = {row["Structure"]: (row[f"{kind}Value"], row[f"{kind}Meaning"]) for row in csv.DictReader(stream)}
    coded = [o for o in organs.organs.values() if o.totalsegmentator and o.code and o.code.source == "totalsegmentator"]
    assert len(coded) > 100
    for organ in coded:
        assert organ.code is not None
        assert known[organ.name] == (organ.code.value, organ.code.meaning), organ.name
