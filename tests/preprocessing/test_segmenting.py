"""Studies without masks: one TotalSegmentator for all of a worker's studies, and each of its failures a row."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
from ctglip_preprocessing.driver import preprocess_cohort, store_info
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import Cohort, read_cohort
from ctglip.config import load_settings
from ctglip.ct import segmentation
from ctglip.ct.segmentation import SegmentationSettings
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.errors import StoreError
from ctglip.store.tables import Store
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.ct.conftest import stand_in_weights  # noqa: F401  (a fixture)
from tests.preprocessing.conftest import write_table

SCRIPT = """
import json, os, sys, time
import numpy as np
folder = os.environ["CTGLIP_WORKER_FOLDER"]
for line in sys.stdin:
    request = json.loads(line)
    labels = np.zeros(np.load(folder + "/scan.npy").shape, np.uint8)
    labels[13:20, 8:16, 4:12] = 5
    with open(os.environ["ASKED"], "a") as stream:
        stream.write(f"{os.getpid()} {request['mode']}\\n")
    turn = len(open(os.environ["ASKED"]).readlines())
    answer = dict(error="", message="", fix="")
BODY
    np.save(folder + "/labels.npy", labels)
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the scripted process notes who was asked; weights are folders that are there."""
    monkeypatch.setenv("ASKED", str(tmp_path / "asked.txt"))
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    for mode in ("fast", "fastest"):
        for name in segmentation.missing_weights(mode):
            (tmp_path / "weights" / name).mkdir(parents=True)
    return tmp_path / "asked.txt"


@pytest.fixture
def scripted(asked: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a scripted process in TotalSegmentator's place; ``turn`` counts what it is asked."""

    def install(body: str) -> None:
        code = SCRIPT.replace("BODY", "\n".join(f"    {line}" for line in body.splitlines()))
        monkeypatch.setattr(segmentation._Worker, "command", (sys.executable, "-c", code))

    return install


@pytest.fixture
def without_masks(make_cohort) -> Callable[[int], Cohort]:
    def make(studies: int) -> Cohort:
        table, rows = make_cohort(studies)
        for row in rows:
            del row["masks"]
        return read_cohort(write_table(table, rows))

    return make


def segmenting(config: PreprocessConfig, **settings: object) -> PreprocessConfig:
    chosen = SegmentationSettings.model_validate({"device": "cpu", "threads": 1, **settings})
    return config.model_copy(update={"ct": config.ct.model_copy(update={"segmentation": chosen})})


def test_one_process_serves_all_studies_and_ends_with_the_run(
    without_masks, scripted, asked: Path, config, tmp_path: Path
) -> None:
    scripted("")
    summary = preprocess_cohort(without_masks(3), tmp_path / "store", segmenting(config))
    assert (summary.written, summary.failed) == (3, ())
    (process,) = {int(line.split()[0]) for line in asked.read_text().splitlines()}
    assert len(asked.read_text().splitlines()) == 3
    assert not psutil.pid_exists(process)
    assert "liver" in set(Store.open(tmp_path / "store").table("organs")["organ"])


def test_every_failure_is_a_row_and_the_next_study_is_made(
    without_masks, scripted, asked: Path, config, tmp_path: Path
) -> None:
    scripted(
        "if turn == 1: os.kill(os.getpid(), 9)\n"
        "if turn == 3: answer = dict(error='segmentation_licence', message='A licence is needed.', fix='')\n"
        "if turn == 4: labels[:] = 0\n"
        "if turn == 5: os._exit(3)"
    )
    summary = preprocess_cohort(without_masks(5), tmp_path / "store", segmenting(config))
    assert [(failure.study_id, failure.stage, failure.code) for failure in summary.failed] == [
        ("00001", "segment", "segmentation_licence"),
        ("00002", "segment", "segmentation_empty"),
        ("00003", "segment", "segmentation_failed"),
    ]
    assert [line.split()[1] for line in asked.read_text().splitlines()] == ["fast", "fastest", *["fast"] * 4]
    store = Store.open(tmp_path / "store")
    assert store.study_ids == ["00000", "00004"]
    checks = json.loads(store.study("00000").rows("studies")[0]["checks"])
    assert "segmentation_smaller" in {check["code"] for check in checks}


def test_a_segmentation_that_hangs_is_a_row(without_masks, scripted, config, tmp_path: Path) -> None:
    scripted("time.sleep(600)")
    settings = segmenting(config, timeout_s=1.0)
    assert preprocess_cohort(without_masks(1), tmp_path / "store", settings).reasons == {"segmentation_timeout": 1}
    late = settings.model_copy(update={"study_timeout_s": 1.0})
    late = segmenting(late, timeout_s=600)
    assert preprocess_cohort(without_masks(1), tmp_path / "other", late).reasons == {"timeout": 1}


@pytest.mark.parametrize("recipe", ["organ_crops", "whole_scan_1x1x3", "whole_scan_1.5x1.5x3"])
def test_shipped_recipes_segment_what_has_no_masks(recipe: str, without_masks, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "nowhere"))
    config = load_settings(PreprocessConfig, f"preprocess/{recipe}", ["ct.spacing_mm=[4.0, 4.0, 4.0]"])
    summary = preprocess_cohort(without_masks(2), tmp_path / "store", config)
    assert [(failure.stage, failure.code) for failure in summary.failed] == [("segment", "weights_missing")] * 2
    message = summary.failed[0].message
    assert str(tmp_path / "nowhere") in message
    assert "totalseg_download_weights -t total_fast" in message
    assert "TOTALSEG_WEIGHTS_PATH" in message
    assert "\n" not in message
    none = load_settings(PreprocessConfig, f"preprocess/{recipe}", ["ct.segmentation=null"])
    assert none.ct.segmentation is None


def test_a_failure_tells_what_was_noticed_of_the_scan_before(without_masks, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "nowhere"))
    cohort, path = without_masks(1), tmp_path / "ct00000.nii.gz"
    image = nib.load(path)
    values = np.asanyarray(image.dataobj).copy()
    values[:2] = -2000
    nib.save(nib.Nifti1Image(values, image.affine), path)
    config = load_settings(PreprocessConfig, "preprocess/organ_crops")
    (failure,) = preprocess_cohort(cohort, tmp_path / "store", config).failed
    assert failure.code == "weights_missing"
    assert "Noticed before: " in failure.message
    assert "padding" in failure.message


def test_the_demos_recipe_needs_no_totalsegmentator(without_masks, config, tmp_path: Path) -> None:
    summary = preprocess_cohort(without_masks(2), tmp_path / "store", config)
    assert (summary.written, summary.failed, len(summary.without_masks)) == (2, (), 2)
    store = Store.open(tmp_path / "store")
    with pytest.raises(StoreError, match="None of the 2 studies") as caught:
        OrganDataset(store, store.table("splits")["split"][0], load_organs(), load_abnormalities(), CropDataSettings())
    assert caught.value.code == "no_masks"
    assert "ct.segmentation=null" in str(caught.value)


def test_where_it_runs_makes_no_study_anew(config) -> None:
    one = store_info(segmenting(config))
    assert one.recipe_hash == store_info(segmenting(config, timeout_s=5, memory_gb=1, threads=2)).recipe_hash
    assert one.recipe_hash != store_info(segmenting(config, mode="fastest")).recipe_hash
    assert one.recipe_hash != store_info(config).recipe_hash


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited on Linux alone")
def test_the_studys_memory_limit_does_not_bind_totalsegmentator() -> None:
    code = (
        "import resource as r; from ctglip_preprocessing.limits import limits\n"
        "from ctglip.ct.segmentation_worker import _memory_without_limit\n"
        "with limits(60, 0.5, False):\n"
        "    bound = r.getrlimit(r.RLIMIT_DATA)[0]; _memory_without_limit()\n"
        "    print(bound != r.RLIM_INFINITY, r.getrlimit(r.RLIMIT_DATA)[0] == r.getrlimit(r.RLIMIT_DATA)[1])\n"
        "    print(open('/proc/self/oom_score_adj').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "1000"]


@pytest.mark.slow
@pytest.mark.ci
def test_real_inference_under_a_small_memory_limit(
    without_masks,
    stand_in_weights: Path,  # noqa: F811
    config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(stand_in_weights))
    small = segmenting(config).model_copy(update={"study_memory_gb": 0.5})
    summary = preprocess_cohort(without_masks(2), tmp_path / "store", small)
    assert (summary.written, summary.failed) == (2, ())
    assert "liver" in set(Store.open(tmp_path / "store").table("organs")["organ"])
