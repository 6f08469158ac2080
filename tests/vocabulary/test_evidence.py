"""What a report says of one organ, gathered over parts, wholes and sides."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence, organ_evidence
from ctglip.vocabulary.organs import OrganDictionary

Row = Callable[..., Finding]
Gather = Callable[..., OrganEvidence]


@pytest.fixture
def of(organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> Gather:
    def gather(organ: str, *findings: Finding) -> OrganEvidence:
        return organ_evidence(findings, organ, organs, abnormalities)

    return gather


def test_affirmed_in_a_part_counts_for_the_whole(of: Gather, row: Row) -> None:
    finding = row("vertebrae_L1", "compression_fracture", sentence="L1 is wedged.")
    for organ in ("vertebrae_L1", "lumbar_spine", "spine", "bones"):
        evidence = of(organ, finding)
        assert evidence.affirmed == {"compression_fracture": "L1 is wedged."}
        assert evidence.sentences == ("L1 is wedged.",)
    assert of("thoracic_spine", finding) == OrganEvidence(
        "thoracic_spine", elsewhere=frozenset({"compression_fracture"})
    )


def test_negated_or_normal_of_a_whole_counts_for_its_parts(of: Gather, row: Row) -> None:
    denied = row("kidneys", "renal_stone", "negated")
    calm = row("kidneys", None, "normal")
    for organ in ("kidneys", "kidney_left", "kidney_right"):
        evidence = of(organ, denied, calm)
        assert "renal_stone" in evidence.negated
        assert evidence.normal
        assert evidence.mentioned


def test_negated_in_a_part_says_nothing_of_the_whole_but_that_it_is_spoken_of(of: Gather, row: Row) -> None:
    evidence = of("kidneys", row("kidney_left", "renal_stone", "negated", "left"))
    assert evidence.negated == frozenset()
    assert evidence.mentioned
    assert not evidence.normal


def test_negated_on_both_sides_counts_for_the_pair(of: Gather, row: Row) -> None:
    both = [row(f"kidney_{side}", "renal_stone", "negated", "bilateral") for side in ("left", "right")]
    assert "renal_stone" in of("kidneys", *both).negated
    apart = [row(f"kidney_{side}", "renal_stone", "negated", side) for side in ("left", "right")]
    assert "renal_stone" in of("kidneys", *apart).negated


def test_affirmed_in_a_whole_without_a_side_leaves_its_parts_uncertain(of: Gather, row: Row) -> None:
    finding = row("kidneys", "renal_cyst")
    assert of("kidneys", finding).affirmed.keys() == {"renal_cyst"}
    for side in ("left", "right"):
        evidence = of(f"kidney_{side}", finding)
        assert evidence.affirmed == {}
        assert evidence.uncertain == {"renal_cyst"}
        assert evidence.sentences == ()


def test_a_side_beside_a_pair_means_that_side_alone(of: Gather, row: Row) -> None:
    finding = row("kidneys", "renal_cyst", laterality="left")
    assert of("kidney_left", finding).affirmed.keys() == {"renal_cyst"}
    assert not of("kidney_right", finding).mentioned


def test_uncertain_and_historical_are_suspected_not_affirmed(of: Gather, row: Row) -> None:
    for status in ("uncertain", "historical"):
        evidence = of("liver", row("liver", "liver_cyst", status))
        assert evidence.affirmed == {}
        assert evidence.uncertain == {"liver_cyst"}


def test_affirmed_outweighs_a_denial_of_the_same(of: Gather, row: Row) -> None:
    evidence = of("liver", row("liver", "liver_cyst", "negated"), row("liver", "liver_cyst"))
    assert evidence.affirmed.keys() == {"liver_cyst"}
    assert evidence.negated == frozenset()


def test_a_denied_abnormality_denies_its_kinds_but_never_what_is_affirmed_beside_it(of: Gather, row: Row) -> None:
    denied = of("liver", row("liver", "lesion", "negated"))
    assert {"lesion", "liver_cyst", "liver_metastasis"} <= denied.negated
    partly = of("liver", row("liver", "lesion", "negated"), row("liver", "liver_cyst"))
    assert "liver_metastasis" in partly.negated
    assert not partly.negated & {"liver_cyst", "cyst", "liver_hypodense_lesion", "lesion"}


def test_normal_yields_to_anything_affirmed_or_suspected(of: Gather, row: Row) -> None:
    calm = row("lungs", None, "normal")
    assert of("lungs", calm).normal
    assert not of("lungs", calm, row("lung_left", "lung_nodule")).normal
    assert not of("lungs", calm, row("lungs", "consolidation", "uncertain")).normal


def test_a_calm_region_calms_what_lies_in_it(of: Gather, row: Row) -> None:
    assert of("spleen", row("upper_abdomen", None, "normal")).normal
    assert not of("spleen", row("lungs", None, "normal")).mentioned


def test_what_organs_share_is_affirmed_and_denied_of_both(of: Gather, row: Row) -> None:
    for organ in ("stomach", "esophagus"):
        assert of(organ, row("stomach", "hiatal_hernia")).affirmed.keys() == {"hiatal_hernia"}
        assert "hiatal_hernia" in of(organ, row("stomach", "hiatal_hernia", "negated")).negated
        assert of(organ, row("esophagus", "hiatal_hernia", "uncertain")).uncertain == {"hiatal_hernia"}
    assert not of("esophagus", row("stomach", "wall_thickening")).mentioned


def test_what_organs_share_stays_on_its_side(of: Gather, row: Row) -> None:
    finding = row("lung_lower_lobe_left", "bronchiectasis", laterality="left")
    assert of("bronchi", finding).affirmed.keys() == of("bronchi_left", finding).affirmed.keys() == {"bronchiectasis"}
    assert not of("bronchi_right", finding).mentioned
    assert of("bronchi_right", row("lungs", "bronchiectasis")).uncertain == {"bronchiectasis"}
    assert of("bronchi", row("lung_lower_lobe_left", "bronchiectasis", "negated")).negated == frozenset()


def test_what_is_found_elsewhere_is_kept_apart(of: Gather, row: Row) -> None:
    evidence = of("spleen", row("liver", "liver_cyst"), row("kidneys", "renal_stone", "negated"), row(None, "fracture"))
    assert evidence.affirmed == {}
    assert not evidence.mentioned
    assert evidence.elsewhere == {"liver_cyst", "fracture"}


def test_sentences_are_verbatim_and_once(of: Gather, row: Row) -> None:
    text = "Cysts in both kidneys, and a stone on the left."
    rows = [
        row("kidney_left", "renal_cyst", laterality="bilateral", sentence=text),
        row("kidney_right", "renal_cyst", laterality="bilateral", sentence=text),
        row("kidney_left", "renal_stone", laterality="left", sentence=text),
    ]
    assert of("kidneys", *rows).sentences == (text,)
    assert of("kidney_right", *rows).affirmed == {"renal_cyst": text}


def test_unplaced_and_foreign_rows_are_passed_over(of: Gather, row: Row) -> None:
    rows = [row(None, None), row("not_an_organ", "renal_cyst"), row("liver", "not_an_abnormality", "negated")]
    evidence = of("kidneys", *rows)
    assert not evidence.mentioned
    assert evidence.affirmed == {}
    assert "not_an_abnormality" in of("liver", *rows).negated
