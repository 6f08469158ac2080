"""TotalSegmentator's real inference path with stand-in weights, and every way in which it can fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from ctglip.ct import segmentation, segmentation_worker
from ctglip.ct.segmentation import SegmentationSettings, Segmenter, missing_weights, segment
from ctglip.errors import MaskError
from ctglip.types import Scan
from ctglip.vocabulary.organs import OrganDictionary

SETTINGS = SegmentationSettings(device="cpu", threads=1, timeout_s=120)
FAKE = """
import json, os, sys, time
import numpy as np
folder = os.environ["CTGLIP_WORKER_FOLDER"]
for line in sys.stdin:
    request = json.loads(line)
    shape = np.load(folder + "/scan.npy").shape
    labels = np.zeros(shape, np.uint8)
{body}
    np.save(folder + "/labels.npy", labels)
    print(json.dumps(dict(error="", message="", fix="")), flush=True)
"""


@pytest.fixture
def weights(stand_in_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(stand_in_weights))
    return stand_in_weights


@pytest.fixture
def scan(phantom: Any) -> Scan:
    return Scan(phantom.hu, phantom.affine)


@pytest.fixture
def fake(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a scripted process in TotalSegmentator's place."""

    def install(body: str) -> None:
        lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
        code = FAKE.replace("{body}", lines)
        monkeypatch.setattr(segmentation._Worker, "command", (sys.executable, "-c", code))

    return install


def test_real_inference_keeps_place_and_model(scan: Scan, weights: Path, organs: OrganDictionary) -> None:
    with Segmenter(SETTINGS, organs) as segmenter:
        first, checks = segmenter.run(scan)
        worker = segmenter._worker
        segmenter.settings = SETTINGS.model_copy(update={"roi_subset": ("liver",)})
        liver, _ = segmenter.run(scan)
        segmenter.settings = SETTINGS.model_copy(update={"mode": "fastest"})
        coarse, _ = segmenter.run(scan)
        segmenter.settings = SETTINGS
        turned = Scan(scan.hu[::-1, :, ::-1], scan.affine)
        second, _ = segmenter.run(turned)
        assert segmenter._worker is worker, "the process and its model stay"
        assert worker is not None
        assert '"send_usage_stats": false' in (Path(worker._folder.name) / "config.json").read_text()
    assert not worker.alive
    assert checks == ()
    assert np.array_equal(first.affine, scan.affine)
    for label, low, high in ((5, 55, 65), (29, 390, 410)):
        wanted = (scan.hu >= low) & (scan.hu <= high)
        assert (first.labels[wanted] == label).mean() > 0.5
        assert not np.isin(first.labels[scan.hu < 0], label).any()
    assert set(np.unique(first.labels)) == {0, 5, 29, 51}
    assert set(np.unique(liver.labels)) == {0, 5}
    assert (coarse.labels == first.labels).mean() > 0.97
    assert not np.array_equal(coarse.labels, first.labels)
    assert (second.labels == first.labels[::-1, :, ::-1]).mean() > 0.99, "right stays right"


def test_missing_weights_say_where_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scan: Scan, organs: OrganDictionary
) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "none"))
    assert len(missing_weights("full")) == 5
    with pytest.raises(MaskError) as caught:
        segment(scan, SETTINGS, organs)
    assert caught.value.code == "weights_missing"
    assert "Dataset297" in str(caught.value)
    assert str(tmp_path / "none") in str(caught.value)


def test_subsets_need_the_crop_model_too(weights: Path, organs: OrganDictionary) -> None:
    assert missing_weights("fast", with_crop=True) == ()
    with pytest.raises(MaskError) as caught:
        Segmenter(SegmentationSettings(roi_subset=("liver", "phlogiston")), organs)
    assert caught.value.code == "unknown_class"


def test_time_out_then_a_new_process(scan: Scan, fake: Any, organs: OrganDictionary) -> None:
    fake("time.sleep(60)")
    with Segmenter(SegmentationSettings(timeout_s=0.5), organs) as segmenter:
        with pytest.raises(MaskError) as caught:
            segmenter.run(scan)
        assert caught.value.code == "segmentation_timeout"
        fake("labels[0] = 5")
        segmenter.settings = SETTINGS
        assert set(np.unique(segmenter.run(scan)[0].labels)) == {0, 5}


def test_an_interrupt_leaves_no_answer_for_the_next_scan(
    scan: Scan, fake: Any, organs: OrganDictionary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: float) -> str:
        raise KeyboardInterrupt

    fake("labels[0] = 5")
    with Segmenter(SETTINGS, organs) as segmenter:
        segmenter.run(scan)
        first = segmenter._worker
        assert first is not None
        monkeypatch.setattr(first._answers, "get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            segmenter.run(scan)
        assert not first.alive
        assert set(np.unique(segmenter.run(scan)[0].labels)) == {0, 5}
        assert segmenter._worker is not first


def test_want_of_memory_takes_a_smaller_mode(scan: Scan, fake: Any, organs: OrganDictionary) -> None:
    fake("if request['mode'] == 'fast': os.kill(os.getpid(), 9)\nlabels[0] = 5")
    with Segmenter(SETTINGS, organs) as segmenter:
        masks, checks = segmenter.run(scan)
    assert (masks.labels == 5).any()
    assert [check.code for check in checks] == ["segmentation_smaller"]
    with (
        Segmenter(SETTINGS.model_copy(update={"smaller_on_memory": False}), organs) as segmenter,
        pytest.raises(MaskError) as caught,
    ):
        segmenter.run(scan)
    assert caught.value.code == "segmentation_memory"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", "segmentation_empty"),
        ("labels = labels[1:]", "segmentation_failed"),
        ("print('lost a screw', file=sys.stderr, flush=True); os._exit(3)", "segmentation_failed"),
        ("print(json.dumps(dict(error='segmentation_licence', message='m', fix='f')), flush=True); continue",
         "segmentation_licence"),
    ],
)  # fmt: skip
def test_failures_are_errors_with_codes(body: str, code: str, scan: Scan, fake: Any, organs: OrganDictionary) -> None:
    fake(body)
    with Segmenter(SETTINGS, organs) as segmenter, pytest.raises(MaskError) as caught:
        segmenter.run(scan)
    assert caught.value.code == code
    if "screw" in body:
        assert "lost a screw" in str(caught.value)


class OutOfMemoryError(RuntimeError):
    pass


def test_a_process_that_ends_without_a_word_is_named(scan: Scan, fake: Any, organs: OrganDictionary) -> None:
    fake("os._exit(3)")
    with Segmenter(SETTINGS, organs) as segmenter, pytest.raises(MaskError) as caught:
        segmenter.run(scan)
    assert str(caught.value).startswith("TotalSegmentator ended with status 3: it said nothing.")


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (SystemExit(1), "segmentation_licence"),
        (MemoryError(), "segmentation_memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"), "segmentation_memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "segmentation_memory"),
        (ValueError("odd\ninput"), "segmentation_failed"),
        (requests.ConnectionError("no route to\nhost"), "weights_missing"),
    ],
)
def test_the_process_answers_whatever_happens(
    problem: BaseException, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(hu: Any, request: Any) -> None:
        raise problem

    monkeypatch.setattr(segmentation_worker, "_segment", fail)
    np.save(tmp_path / "scan.npy", np.zeros((2, 2, 2), np.int16))
    answer = segmentation_worker.answer({}, tmp_path)
    assert answer["error"] == code
    assert "\n" not in answer["message"]


def test_the_licence_number_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.json").write_text('{"license_number": "aca_1", "send_usage_stats": true}')
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "user"))
    segmentation._private_home(tmp_path)
    written = (tmp_path / "config.json").read_text()
    assert "aca_1" in written
    assert '"send_usage_stats": false' in written
