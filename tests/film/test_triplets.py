"""Triplets: what a report says, of which region; RadGraph's file gives the same type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctglip.errors import ReportError
from ctglip.film.radgraph import read_radgraph, regions_in
from ctglip.film.triplets import Triplet, regions_of_organ, sentences_by_region, triplets
from ctglip.text.reports import get_parser
from ctglip.types import Report
from ctglip.vocabulary.abnormalities import load_abnormalities


def read(findings: str, impression: str | None = None) -> list[tuple[str | None, str, str]]:
    rows = get_parser().parse(Report(findings=findings, impression=impression, indication="Pneumothorax?"))
    return [(t.region, t.finding, t.existence) for t in triplets(rows)]


def test_sides_zones_and_denials() -> None:
    found = read("There is a right apical pneumothorax. No left pleural effusion. The heart is enlarged.")
    assert ("left_costophrenic_angle", "pleural_effusion", "absent") in found
    assert ("cardiac_silhouette", "cardiomegaly", "present") in found
    assert ("right_apical_zone", "pneumothorax", "present") in found


def test_the_lobe_of_a_finding_is_its_zone() -> None:
    assert ("right_lower_lung_zone", "consolidation", "present") in read("Consolidation in the right lower lobe.")
    apical = read("Nodule in the left lung apex.")
    assert {region for region, finding, _ in apical if "nodule" in finding} == {"left_apical_zone"}


def test_uncertain_stays_uncertain_and_other_sections_are_left_out() -> None:
    found = read("Possible atelectasis of the left lower lobe.")
    assert ("left_lower_lung_zone", "atelectasis", "uncertain") in found
    assert not any(finding == "pneumothorax" for _, finding, _ in found)


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


RADGRAPH = {
    "p1/s1.txt": {
        "text": "small left pleural effusion . no consolidation in the right lower lobe . heart is enlarged",
        "entities": {
            "1": {"tokens": "small", "label": "OBS-DP", "start_ix": 0, "end_ix": 0, "relations": [["modify", "4"]]},
            "2": {"tokens": "left", "label": "ANAT-DP", "start_ix": 1, "end_ix": 1, "relations": [["modify", "3"]]},
            "3": {"tokens": "pleural", "label": "ANAT-DP", "start_ix": 2, "end_ix": 2, "relations": []},
            "4": {"tokens": "effusion", "label": "OBS-DP", "start_ix": 3, "end_ix": 3,
                  "relations": [["located_at", "3"]]},
            "5": {"tokens": "consolidation", "label": "OBS-DA", "start_ix": 6, "end_ix": 6,
                  "relations": [["located_at", "8"]]},
            "6": {"tokens": "right", "label": "ANAT-DP", "start_ix": 9, "end_ix": 9, "relations": [["modify", "8"]]},
            "7": {"tokens": "lower", "label": "ANAT-DP", "start_ix": 10, "end_ix": 10, "relations": [["modify", "8"]]},
            "8": {"tokens": "lobe", "label": "ANAT-DP", "start_ix": 11, "end_ix": 11, "relations": []},
            "9": {"tokens": "heart", "label": "Anatomy::definitely present", "start_ix": 13, "end_ix": 13,
                  "relations": []},
            "10": {"tokens": "enlarged", "label": "Observation::definitely present", "start_ix": 15, "end_ix": 15,
                   "relations": [["located_at", "9"]]},
        },
    }
}  # fmt: skip


def test_radgraph(tmp_path: Path) -> None:
    path = tmp_path / "radgraph.json"
    path.write_text(json.dumps(RADGRAPH))
    (found,) = read_radgraph(path, load_abnormalities()).values()
    assert found[0] == Triplet(
        "left_costophrenic_angle", "pleural_effusion", "present", 0, "small left pleural effusion"
    )
    assert (found[1].region, found[1].finding, found[1].existence) == (
        "right_lower_lung_zone", "consolidation", "absent",
    )  # fmt: skip
    assert (found[2].region, found[2].existence, found[2].sentence_index) == ("cardiac_silhouette", "present", 2)
    path.write_text("[1, 2]")
    with pytest.raises(ReportError):
        read_radgraph(path, load_abnormalities())


@pytest.mark.parametrize(
    ("text", "regions"),
    [("lungs", ("right_lung", "left_lung")), ("left lower lobe", ("left_lower_lung_zone",)),
     ("right costophrenic angle", ("right_costophrenic_angle",)), ("thoracic spine", ("spine",)), ("elbow", ())],
)  # fmt: skip
def test_anatomy_words(text: str, regions: tuple[str, ...]) -> None:
    assert regions_in(text) == regions
