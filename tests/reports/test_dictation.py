"""Spoken reports: what is taken back is left out, and nothing else."""

from __future__ import annotations

import pytest

from ctglip.reports.dictation import written


@pytest.mark.parametrize(
    ("spoken", "meant"),
    [
        ("nodule in the left correction right upper lobe", "nodule in the right upper lobe"),
        ("nodule in the left, correction, right upper lobe", "nodule in the right upper lobe"),
        ("Left correction: right effusion", "right effusion"),
        ("a stone of 4 mm correction 6 mm", "a stone of 6 mm"),
        ("a stone of four millimeters, correction, six millimeters", "a stone of six millimeters"),
        ("a 2.5 correction 3.5 cm mass", "a 3.5 cm mass"),
    ],
)
def test_a_side_or_a_number_is_taken_back(spoken: str, meant: str) -> None:
    assert written(spoken) == meant


@pytest.mark.parametrize(
    "text",
    [
        "Scoliosis correction rods in place.",
        "PET with attenuation correction shows no uptake.",
        "After hernia correction there is no recurrence.",
        "Status post left hip correction osteotomy.",
        "Cyst, correction to follow.",
        "3 correction procedures on the left.",
        "left correction of the hip",
    ],
)
def test_no_other_word_is_lost_before_correction(text: str) -> None:
    assert written(text) == text
