"""Which sentences of a report belong to which region."""

from __future__ import annotations

from ctglip.cxr.sentence_regions import regions_of_organ, sentences_by_region
from ctglip.reports.parser import get_parser
from ctglip.types import Report


def regions(sentence: str) -> dict[str, tuple[int, ...]]:
    return sentences_by_region(get_parser().parse(Report(findings=sentence, indication="Pneumothorax?")))


def test_sides_and_zones() -> None:
    found = regions("There is a right apical pneumothorax. No left pleural effusion. The heart is enlarged.")
    assert found["right_apical_zone"] == (0,)
    assert found["left_costophrenic_angle"] == (1,)
    assert found["cardiac_silhouette"] == (2,)


def test_the_lobe_of_a_finding_is_its_zone() -> None:
    assert set(regions("Consolidation in the right lower lobe.")) == {"right_lower_lung_zone", "right_lung"}
    apex = {"left_apical_zone", "left_upper_lung_zone", "left_lung"}
    assert set(regions("Nodule in the left lung apex.")) == apex, "the apex lies in the upper zone"


def test_other_sections_are_left_out() -> None:
    assert set(regions("Possible atelectasis of the left lower lobe.")) == {"left_lower_lung_zone", "left_lung"}


def test_sentences_of_regions() -> None:
    rows = get_parser().parse(
        Report(findings="The lungs are clear. The heart is normal in size. Left basilar atelectasis is present.")
    )
    by_region = sentences_by_region(rows)
    assert by_region["right_lung"] == (0,)
    assert by_region["left_lung"] == (0, 2), "what is said of a zone is said of its lung"
    assert by_region["left_lower_lung_zone"] == (2,)
    assert by_region["cardiac_silhouette"] == (1,)
    assert "spine" not in by_region


def test_organs_find_their_regions() -> None:
    assert regions_of_organ("lungs") == ("right_lung", "left_lung")
    assert regions_of_organ("vertebrae_T8") == ("spine",)
    assert regions_of_organ("rib_left_5") == ("left_chest_wall",)
    assert regions_of_organ("pleura") == ("right_lung", "left_lung")
    assert regions_of_organ("prostate") == ()
    assert regions_of_organ("no such thing") == ()
