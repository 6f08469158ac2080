"""Which organs a phrase names, how specific, on which side."""

from __future__ import annotations

import pytest

from ctglip.reports.location import find_locations
from ctglip.reports.parser import get_parser


def organs(text: str) -> set[str | None]:
    lexicon = get_parser().lexicon
    words, tied = lexicon.read(text)
    locations, _ = find_locations(words, tied, lexicon, [])
    return {organ for location in locations for organ, _ in location.members()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left kidney", {"kidney_left"}),
        ("kidney on the left", {"kidney_left"}),
        ("left and right kidneys", {"kidney_left", "kidney_right"}),
        ("both kidneys", {"kidney_left", "kidney_right"}),
        ("kidneys", {"kidneys"}),
        ("right upper lobe", {"lung_upper_lobe_right"}),
        ("upper lobe of the right lung", {"lung_upper_lobe_right"}),
        ("right lung upper lobe", {"lung_upper_lobe_right"}),
        ("upper and lower lobes of the left lung", {"lung_upper_lobe_left", "lung_lower_lobe_left"}),
        ("lower lobes of both lungs", {"lung_lower_lobe_left", "lung_lower_lobe_right"}),
        ("both main bronchi", {"bronchi_left", "bronchi_right"}),
        ("left subclavian artery", {"subclavian_artery_left"}),
        ("ascending and descending aorta", {"ascending_aorta", "descending_aorta"}),
        ("L1", {"vertebrae_L1"}),
        ("D12 vertebra", {"vertebrae_T12"}),
        ("fifth lumbar vertebra", {"vertebrae_L5"}),
        ("T11-L2", {"vertebrae_T11", "vertebrae_T12", "vertebrae_L1", "vertebrae_L2"}),
        ("L4-5", {"vertebrae_L4", "vertebrae_L5"}),
        ("left 5th rib", {"rib_left_5"}),
        ("paraduodenal fat", {"duodenum"}),
        ("the chair", set()),
    ],
)
def test_organs(text: str, expected: set[str]) -> None:
    assert organs(text) == expected


def test_a_comparison_gives_no_side() -> None:
    assert organs("the kidneys, more on the right") == {"kidneys"}


def test_weighting_is_no_vertebra() -> None:
    assert organs("T1 weighted") == set()
