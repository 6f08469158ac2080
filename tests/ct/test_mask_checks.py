"""Sides: a body built the other way round is a warning, names or headers that are turned are an error."""

from __future__ import annotations

import pytest

from ctglip.ct.mask_checks import check_masks
from ctglip.types import OrganRow

HU = {"lung_left": -800, "lung_right": -800, "hip_left": 300, "hip_right": 300}
# Middle of each organ from the patient's left (0) to the right (100), as everyone is built.
PLACES = {
    "spleen": 15, "liver": 70, "heart": 40, "stomach": 30, "kidney_left": 30, "kidney_right": 70, "lung_left": 25,
    "lung_right": 75, "hip_left": 25, "hip_right": 75,
}  # fmt: skip
PAIRED = [name for name in PLACES if name.endswith(("_left", "_right"))]


def rows(positions: dict[str, int]) -> list[OrganRow]:
    return [
        OrganRow(name, (at - 10, at + 10, 0, 20, 0, 20), 100, HU.get(name, 60), False) for name, at in positions.items()
    ]


def turned(names: list[str]) -> dict[str, int]:
    return {name: 100 - at if name in names else at for name, at in PLACES.items()}


def found(positions: dict[str, int]) -> list[tuple[str, str]]:
    return [(check.code, check.severity) for check in check_masks(rows(positions)) if check.code != "front_back"]


def test_everyone_and_the_other_way_round() -> None:
    assert found(PLACES) == []
    assert found(turned([name for name in PLACES if name not in PAIRED])) == [("situs_inversus", "warning")]
    assert found(turned(list(PLACES))) == [("left_right", "error")]


@pytest.mark.parametrize("pairs", [PAIRED, ["kidney_left", "kidney_right", "lung_left", "lung_right"]])
def test_sides_of_pairs_that_are_swapped_are_an_error(pairs: list[str]) -> None:
    assert found(turned(pairs)) == [("left_right", "error")]


def test_one_organ_on_the_other_side_is_a_warning() -> None:
    assert found(turned(["spleen"])) == [("left_right", "warning")]
    only = {name: at for name, at in PLACES.items() if name not in PAIRED}
    assert found({name: 100 - at for name, at in only.items()}) == [
        ("left_right", "error")
    ]  # nothing tells which it is
