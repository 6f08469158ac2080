"""The organ table against the plain way of counting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ctglip.ct.organs import label_table, organ_table
from ctglip.vocabulary.organs import OrganDictionary


def test_rows_equal_the_plain_count(phantom: Any, organs: OrganDictionary) -> None:
    image = (phantom.hu + np.random.default_rng(0).integers(-30, 30, phantom.hu.shape)).astype(np.int16)
    rows = {row.organ: row for row in organ_table(phantom.labels, image, phantom.affine, organs)}
    for name in ("liver", "spleen", "vertebrae_L3", "lumbar_spine", "spine", "kidneys", "kidney_right", "heart"):
        inside = np.isin(phantom.labels, list(organs.labels_of(name)))
        index = np.argwhere(inside)
        low, high = index.min(0), index.max(0) + 1
        assert rows[name].box == (low[0], high[0], low[1], high[1], low[2], high[2]), name
        assert rows[name].volume_ml == pytest.approx(inside.sum() * 0.125)
        assert rows[name].mean_hu == pytest.approx(image[inside].mean())
        assert rows[name].sd_hu == pytest.approx(image[inside].std())
    assert "kidney_left" not in rows
    assert [row for row in rows if row in ("lungs", "stomach")] == []
    assert list(rows) == [name for name in organs.names if name in rows]


def test_shells_are_listed_by_their_base(organs: OrganDictionary) -> None:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[4:8, 4:8, 4:8] = organs["lung_right"].label
    rows = {row.organ: row for row in organ_table(labels, labels.astype(np.int16), np.eye(4) * 5, organs)}
    assert rows["pleura_right"].box == rows["lung_right"].box == (4, 8, 4, 8, 4, 8)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_border_contact(axis: int, end: int, organs: OrganDictionary) -> None:
    labels = np.zeros((12, 13, 14), np.uint8)
    labels[5:8, 5:8, 5:8] = 5
    image = np.zeros(labels.shape, np.int16)
    assert not organ_table(labels, image, np.eye(4) * 5, organs)[0].touches_border
    position: list[Any] = [6, 6, 6]
    position[axis] = end
    labels[tuple(position)] = 5
    assert organ_table(labels, image, np.eye(4) * 5, organs)[0].touches_border


def test_specks_are_left_out(organs: OrganDictionary) -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[4, 4, 4] = 5
    image = np.zeros(labels.shape, np.int16)
    assert organ_table(labels, image, np.eye(4) * 3, organs, min_organ_ml=0.05) == ()
    assert organ_table(labels, image, np.eye(4) * 3, organs, min_organ_ml=0.02)


def test_label_table_counts_everything() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 140, (19, 10, 11)).astype(np.uint8)
    labels[3:5] = 7  # runs that go on from line to line
    image = rng.integers(-1000, 1000, labels.shape).astype(np.int16)
    table = label_table(labels, image)
    for number in range(1, 140):
        assert table.count[number] == (labels == number).sum()
        assert table.total[number] == pytest.approx(image[labels == number].sum())
        assert table.squares[number] == pytest.approx((image[labels == number].astype(float) ** 2).sum())
        positions = np.argwhere(labels == number)
        assert table.low[number].tolist() == positions.min(0).tolist()
        assert table.high[number].tolist() == (positions.max(0) + 1).tolist()


def test_an_even_organ_has_no_spread(organs: OrganDictionary) -> None:
    labels = np.full((12, 12, 12), 5, np.uint8)
    liver = organ_table(labels, np.full(labels.shape, 3071, np.int16), np.eye(4) * 5, organs)[0]
    assert liver.sd_hu == 0
