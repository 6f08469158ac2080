from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctglip.pages import pictures
from ctglip.pages.parts import Picture
from ctglip.pages.pictures import MOST_OUTLINES, best_slice, displayed, file_picture, slice_picture, slice_pictures

Phantom = tuple[np.ndarray, np.ndarray]


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1]))).convert("RGB"))


def centre(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return rows.mean() / mask.shape[0], columns.mean() / mask.shape[1]


@pytest.mark.parametrize(("plane", "index"), [("axial", 30), ("coronal", 22), ("sagittal", 14)])
def test_right_anterior_high_lies_where_radiologists_expect_it(phantom: Phantom, plane, index: int) -> None:
    row, column = centre(displayed(phantom[1], plane, index) == 1)
    assert row < 0.5, "anterior and head are on top"
    assert column < 0.5, "the patient's right, and anterior in sagittal pictures, are on the left"


@pytest.mark.parametrize(("plane", "index"), [("axial", 8), ("coronal", 8), ("sagittal", 6)])
def test_left_posterior_low_lies_opposite(phantom: Phantom, plane, index: int) -> None:
    row, column = centre(displayed(phantom[1], plane, index) == 2)
    assert row > 0.5
    assert column > 0.5


def test_picture_itself_is_oriented_and_says_so(phantom: Phantom) -> None:
    picture = slice_picture(phantom[0], (2.0, 2.0, 2.0), "axial", 30, window_hu=(0.0, 200.0), longest_px=150)
    bright = pixels(picture)[..., 0] > 240
    row, column = centre(bright)
    assert row < 0.5
    assert column < 0.5
    assert "Patient's right is on the left" in picture.caption
    assert "Patient's right is on the left" in picture.alt
    assert "slice 31 of 40" in picture.caption


def test_proportions_follow_the_spacing(phantom: Phantom) -> None:
    picture = slice_picture(phantom[0], (1.0, 1.0, 5.0), "coronal", 10, longest_px=200)
    assert picture.size == (20, 200)
    assert pixels(picture).shape == (200, 20, 3)


def test_window_maps_its_ends_to_black_and_white() -> None:
    hu = np.full((8, 8, 8), -100, np.int16)
    hu[4:] = 300
    shown = pixels(slice_picture(hu, (1.0, 1.0, 1.0), "axial", 4, window_hu=(-100.0, 300.0), longest_px=160))
    assert shown[20, 40].tolist() == [255, 255, 255]
    assert shown[20, 120].tolist() == [0, 0, 0]


def test_outlines_surround_their_organ_and_are_named(phantom: Phantom) -> None:
    hu, labels = phantom
    bare = pixels(slice_picture(hu, (2.0, 2.0, 2.0), "axial", 30, longest_px=300))
    picture = slice_picture(hu, (2.0, 2.0, 2.0), "axial", 30, labels, {"Spleen": {2}, "Liver": {1}}, longest_px=300)
    (entry,) = picture.legend
    assert (entry.number, entry.name) == (2, "Liver")
    assert "outlines of Liver" in picture.alt
    changed = (pixels(picture) != bare).any(axis=-1)
    inside = (
        np.asarray(
            Image.fromarray(displayed(labels, "axial", 30)).resize(picture.size or (0, 0), Image.Resampling.NEAREST)
        )
        == 1
    )
    assert changed.any()
    rows, columns = np.nonzero(inside)
    assert not changed[: rows.min() - 8].any()
    assert not changed[:, columns.max() + 8 :].any()


def test_three_planes_show_the_organs_with_one_numbering(slices: tuple[Picture, ...]) -> None:
    assert [picture.caption.split(",")[0] for picture in slices] == ["Axial", "Coronal", "Sagittal"]
    numbers = {(entry.number, entry.name) for picture in slices for entry in picture.legend}
    assert numbers <= {(1, "Liver"), (2, "Spleen")}
    assert all("of a phantom" in picture.alt for picture in slices)


def test_best_slice_has_the_largest_area_of_the_organ(phantom: Phantom) -> None:
    labels = np.zeros_like(phantom[1])
    labels[5:7, 5:7, 3] = 4
    labels[5:9, 5:9, 17] = 4
    assert best_slice(labels.shape, "axial", labels, {"Aorta": {4}}) == 17
    assert best_slice(labels.shape, "axial") == 20
    assert best_slice(labels.shape, "axial", labels, {"Absent": {9, 200}}) == 20


def test_best_slice_counts_small_organs_as_much_as_large_ones() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[:20, :20, 2:10] = 1
    labels[25:27, 25:27, 8:12] = 2
    assert best_slice(labels.shape, "axial", labels, {"Liver": {1}, "Gallbladder": {2}}) in (8, 9)


def test_only_so_many_organs_are_outlined() -> None:
    labels = np.zeros((40, 40, 4), np.uint8)
    organs = {}
    for i in range(20):
        labels[2 * i : 2 * i + 2, 10:20, :] = i + 1
        organs[f"organ {i}"] = {i + 1}
    (axial, *_) = slice_pictures(labels.astype(np.int16), (1.0, 1.0, 1.0), labels, organs, longest_px=200)
    assert len(axial.legend) == MOST_OUTLINES


def test_floats_and_flat_images_are_shown() -> None:
    hu = np.zeros((6, 6, 1), np.float32)
    for picture in slice_pictures(hu, (1.0, 1.0, 1.0), longest_px=40):
        assert picture.legend == ()
        assert pixels(picture).max() > 0


def test_pictures_are_deterministic(phantom: Phantom) -> None:
    hu, labels = phantom
    first, second = (slice_pictures(hu, (2.0, 2.0, 2.0), labels, {"Liver": {1}}) for _ in range(2))
    assert first == second


def test_a_file_becomes_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5), "red").save(tmp_path / "a.png")
    picture = file_picture(tmp_path / "a.png", "A red field", "red")
    assert picture.size == (7, 5)
    assert pixels(picture)[0, 0].tolist() == [255, 0, 0]
    Image.new("RGB", (7, 5), "red").save(tmp_path / "a.gif")
    with pytest.raises(ValueError, match="expected PNG or JPEG"):
        file_picture(tmp_path / "a.gif", "A red field")


def test_heat_is_the_more_transparent_the_less_it_is_and_never_hides_what_lies_under_it() -> None:
    heat = np.array([[-1.0, 0.0, pictures.LEAST_HEAT, 0.4, 0.7, 1.0]])
    alpha = pictures.heat_colours(heat)[0, :, 3].astype(float) / 255
    assert (alpha[:3] == 0).all()
    assert (np.diff(alpha[2:]) > 0).all()
    assert alpha.max() <= 0.5 + 1 / 255


def test_an_outline_leaves_what_it_encloses_bare() -> None:
    heat = np.zeros((40, 40))
    heat[10:30, 10:30] = 0.9
    drawn = pictures.heat_outline(heat)[..., 3] > 0
    assert drawn[10, 10:30].all()
    assert not drawn[14:26, 14:26].any()
    assert not drawn[:9].any()
