"""An organ that the border cuts gets no answer; one that merely grazes it does."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.inference.ct_readers import _grazes
from ctglip.types import OrganRow, Standardized

LIVER = 5


def study(top: int, width: int) -> tuple[Standardized, OrganRow]:
    """A liver of 10 x 10 cross-section that ends in a tip of ``width`` x 1 voxels at slice ``top`` of 16."""
    organs = np.zeros((16, 16, 16), np.uint8)
    organs[3:13, 3:13, 4:10] = LIVER
    organs[3 : 3 + width, 3, 10:top] = LIVER
    row = OrganRow("liver", (3, 13, 3, 13, 4, top), 1.0, 50.0, True)
    return Standardized(np.zeros(organs.shape, np.int16), organs, np.eye(4), (row,)), row


@pytest.mark.parametrize(
    ("top", "width", "grazes"),
    [
        (16, 5, True),  # 5 of 100 voxels at the last slice
        (16, 10, False),  # 10 of 100
        (15, 5, False),  # ends inside the volume: it was padding that cut it
    ],
)
def test_a_graze_is_no_cut(top: int, width: int, grazes: bool) -> None:
    standardized, row = study(top, width)
    assert _grazes(standardized, row, [LIVER]) is grazes
