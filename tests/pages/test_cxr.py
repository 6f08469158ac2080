"""The radiographs page: boxes where they belong, sections that are missing said to be, nothing unescaped."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from ctglip.pages.cxr import CxrPage, CxrSample, RegionSentences, Tag, cxr_picture, render
from ctglip.types import Region


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_box_is_drawn_where_it_says() -> None:
    image = np.full((50, 100), 2000, np.uint16)
    plain = cxr_picture(image, 4000, longest_px=400)
    boxed = cxr_picture(image, 4000, [Region("heart", 10, 30, 20, 60)], longest_px=400, subject="study s1")
    assert boxed.size == (400, 200)
    changed = np.argwhere((pixels(boxed.uri) != pixels(plain.uri)).any(2))
    np.testing.assert_allclose(changed.min(0), [40, 80], atol=2)
    np.testing.assert_allclose(changed.max(0), [119, 239], atol=2)
    assert [(entry.number, entry.name) for entry in boxed.legend] == [(1, "heart")]
    assert "heart" in boxed.alt
    assert "study s1" in boxed.alt
    assert pixels(plain.uri)[0, 0].tolist() == [128, 128, 128]


def test_the_page_says_what_is_missing_and_escapes_the_rest() -> None:
    sample = CxrSample(
        "s1",
        cxr_picture(np.arange(64.0).reshape(8, 8), 64),
        findings="<script>alert(1)</script>",
        regions=(RegionSentences("left lung", ("Clear.",), 1), RegionSentences("spine", ("Fine.",))),
        tags=(Tag("cardiomegaly", "present"),),
    )
    page = render(CxrPage("Radiographs", (sample,)))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("The report has no such section.") == 1
    assert "cardiomegaly: present" in page
    assert "(no box)" in page
    assert page.count("left lung") == 1
