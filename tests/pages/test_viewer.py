from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest

from ctglip.pages import answers, viewer

Phantom = tuple[np.ndarray, np.ndarray]
AFFINE = np.array([[2.0, 0, 0, -10], [0, 2.0, 0, 5], [0, 0, 3.0, 7], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the installed viewer, so that these tests need no package."""
    monkeypatch.setattr(
        viewer, "_module", lambda: base64.b64encode(gzip.compress(b"export default {}", mtime=0)).decode()
    )


def image_of(packed: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))


def made(phantom: Phantom, **changes) -> viewer.Viewer:
    result = viewer.make_viewer(phantom[0], AFFINE, phantom[1], {"Liver": {1}, "Spleen": {2}}, **changes)
    assert result is not None
    return result


def test_voxels_arrive_with_their_geometry(phantom: Phantom) -> None:
    view = made(phantom)
    image, labels = image_of(view.image), image_of(view.labels)
    np.testing.assert_allclose(image.affine, AFFINE)
    np.testing.assert_allclose(np.asarray(image.dataobj), phantom[0], atol=viewer.HU_STEP / 2)
    np.testing.assert_array_equal(np.asarray(labels.dataobj), phantom[1])
    assert view.shape == phantom[0].shape
    assert labels.header["intent_code"] == 1002


def test_the_script_finds_the_voxels_where_it_looks(phantom: Phantom) -> None:
    view = made(phantom)
    raw = gzip.decompress(base64.b64decode(view.labels))
    x, y, z = 13, 22, 30
    assert raw[352 + x + view.shape[0] * (y + view.shape[1] * z)] == 1
    assert len(raw) == 352 + phantom[1].size


def test_organs_are_numbered_in_order_and_centred_inside(phantom: Phantom) -> None:
    view = made(phantom)
    assert [organ.name for organ in view.organs] == ["Liver", "Spleen"]
    for number, organ in enumerate(view.organs, start=1):
        voxel = tuple(int(f * n) for f, n in zip(organ.centre, view.shape, strict=True))
        assert phantom[1][voxel] == number


def test_a_heat_map_keeps_its_own_grid_and_its_peak_is_found_in_the_scan(phantom: Phantom) -> None:
    fine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0])
    heat = np.full((40, 60, 80), -0.5)
    heat[27, 44, 60] = 1.0
    view = made(phantom, maps=[viewer.PlacedMap("Liver: cyst", "Liver", heat, fine)])
    (shown,) = view.maps
    image = image_of(shown.image)
    np.testing.assert_allclose(image.affine, fine)
    values = np.asarray(image.dataobj)
    assert (values.max(), values[27, 44, 60], values[0, 0, 0]) == (255, 255, 0)
    voxel = [int(share * n) for share, n in zip(shown.peak, view.shape, strict=True)]
    np.testing.assert_allclose(voxel, [13.5, 22, 30], atol=0.6)


def test_absent_organs_are_left_out_and_the_first_claim_wins(phantom: Phantom) -> None:
    organs = {"Absent": {9}, "Liver": {1}, "Both": {1, 2}}
    view = viewer.make_viewer(phantom[0], AFFINE, phantom[1], organs)
    assert view is not None
    assert [organ.name for organ in view.organs] == ["Liver", "Both"]
    numbers = np.asarray(image_of(view.labels).dataobj)
    assert set(numbers[phantom[1] == 1]) == {1}
    assert set(numbers[phantom[1] == 2]) == {2}


def test_without_masks_there_are_no_organs(phantom: Phantom) -> None:
    view = viewer.make_viewer(phantom[0], AFFINE)
    assert view is not None
    assert view.organs == ()
    assert view.labels == ""


def test_large_volumes_are_thinned_and_stay_in_place(monkeypatch: pytest.MonkeyPatch, phantom: Phantom) -> None:
    monkeypatch.setattr(viewer, "MOST_VOXELS", 7_000)
    view = made(phantom)
    image = image_of(view.image)
    assert image.shape == (20, 15, 20)
    np.testing.assert_allclose(np.diag(image.affine), [2, 4, 6, 1])
    np.testing.assert_allclose(image.affine[:3, 3], AFFINE[:3, 3])


def test_a_viewer_is_deterministic(phantom: Phantom) -> None:
    assert made(phantom) == made(phantom)


def test_without_the_package_there_is_no_viewer(monkeypatch: pytest.MonkeyPatch, phantom: Phantom) -> None:
    monkeypatch.setattr(viewer, "_module", lambda: None)
    assert viewer.make_viewer(phantom[0], AFFINE) is None


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_page_tells_the_viewer_what_was_answered(phantom: Phantom, scan_page: answers.AnswersPage) -> None:
    data = data_of(answers.render(dataclasses.replace(scan_page, viewer=made(phantom))))
    liver, spleen = data["organs"]
    assert liver["answers"] == ["Hepatic steatosis: 93\u00a0%"]
    assert spleen["answers"] == []
    assert data["shape"] == [20, 30, 40]


def test_names_cannot_leave_their_script(phantom: Phantom, scan_page: answers.AnswersPage) -> None:
    bad = "</script><script>alert(1)</script>"
    view = viewer.make_viewer(phantom[0], AFFINE, phantom[1], {bad: {1}})
    html = answers.render(dataclasses.replace(scan_page, title=bad, viewer=view))
    assert "<script>alert" not in html
    assert data_of(html)["organs"][0]["name"] == bad


def test_only_our_script_may_run(phantom: Phantom, scan_page: answers.AnswersPage) -> None:
    plain, viewed = answers.render(scan_page), answers.render(dataclasses.replace(scan_page, viewer=made(phantom)))
    assert "script-src" not in plain
    assert "<script" not in plain
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', viewed)
    assert policy is not None
    assert re.search(r"script-src &#39;sha256-[^;]+&#39; blob:$", policy[1])
    assert "unsafe" not in policy[1]
    assert not re.search(r"https?://", viewed)
