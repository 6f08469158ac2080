"""What a user's faults lead to: a clear line and exit code 2, or failed rows, exit code 1, and the others finished."""

from __future__ import annotations

import errno
import json
import pickle
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest
import torch
from safetensors import SafetensorError

from ctglip.cli import main
from ctglip.errors import ConfigError
from ctglip.store.study import write_study
from ctglip.store.tables import compact, create_store
from tests.cli.commands import good_here, here
from tests.store.conftest import INFO, make_record
from tests.store.tables_of import as_before

REPORT = "FINDINGS: The liver is enlarged. No gallstones."


def volume(path: Path, shape: tuple[int, int, int] = (24, 24, 24), shift: float = 0.0, labels: bool = False) -> None:
    """A small body of soft tissue in air, or its masks with a liver and a spleen."""
    data = np.full(shape, 0 if labels else -1000, np.uint8 if labels else np.int16)
    data[4:-4, 4:-4, 4:-4] = 0 if labels else 40
    if labels:
        data[12:18, 8:16, 8:16], data[6:9, 8:12, 10:14] = 5, 1
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = shift
    nib.save(nib.Nifti1Image(data, affine), path)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of two good studies among broken ones."""
    folder = tmp_path_factory.mktemp("troubled")
    volume(folder / "ct.nii.gz")
    volume(folder / "masks.nii.gz", labels=True)
    volume(folder / "elsewhere.nii.gz", shift=5000.0, labels=True)
    whole = (folder / "ct.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "organs").mkdir()
    volume(folder / "organs" / "flux_capacitor.nii.gz", labels=True)
    rows = [
        ("00001", "p1", "ct.nii.gz", "masks.nii.gz", REPORT),
        ("good-2", "p2", "ct.nii.gz", "masks.nii.gz", REPORT),
        ("missing", "p3", "nowhere.nii.gz", "masks.nii.gz", REPORT),
        ("truncated", "p4", "cut.nii.gz", "masks.nii.gz", REPORT),
        ("othergrid", "p5", "ct.nii.gz", "elsewhere.nii.gz", REPORT),
        ("unknown-organ", "p6", "ct.nii.gz", "organs", REPORT),
        ("silent", "p7", "ct.nii.gz", "masks.nii.gz", "..."),
        ("twice", "p8", "ct.nii.gz", "masks.nii.gz", REPORT),
        ("twice", "p8", "ct.nii.gz", "masks.nii.gz", REPORT),
        ("../../x", "p9", "ct.nii.gz", "masks.nii.gz", REPORT),
    ]
    pl.DataFrame(rows, schema=["study_id", "patient_id", "image", "masks", "report"], orient="row").write_csv(
        folder / "cohort.csv"
    )
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_one_bad_study_never_stops_a_cohort(troubled: Path, tmp_path: Path, workers: int) -> None:
    store = tmp_path / "store"
    outcome = here("preprocess", troubled / "cohort.csv", store, "--config", "preprocess/demo_3mm",
                     "--workers", workers, "--json")  # fmt: skip
    assert outcome.code == 1, outcome.err
    assert sorted(pl.read_parquet(store / "studies.parquet")["study_id"]) == ["00001", "good-2"]
    assert sorted(p.name for p in (store / "studies").iterdir()) == ["00001.zarr", "good-2.zarr"]
    failed = {row["study_id"]: row for row in json.loads(outcome.out)["failed"]}
    assert set(failed) == {"missing", "truncated", "othergrid", "unknown-organ", "silent", "twice", "../../x"}
    assert failed["twice"]["code"] == "duplicate_id"
    assert failed["../../x"]["code"] == "bad_id"
    assert len({row["code"] for row in failed.values()}) == 7
    assert all(len(row["message"]) > 20 for row in failed.values())
    assert not list(tmp_path.glob("**/*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("preprocess", "no.csv", "store"), "There is no table no.csv"),
        (("preprocess", "bad.csv", "store"), "no column 'image'"),
        (("preprocess", "bad.csv", "store", "--config", "preprocess/demo_4mm"), "demo_3mm"),
        (("pretrain", "nostore", "run", "--config", "small/ctglip_cnn"), "nostore"),
        (
            ("pretrain", "nostore", "run", "--config", "small/ctglip_cnn", "--set", "loop.stepz=3"),
            "did you mean 'steps'",
        ),
        (("evaluate", "norun", "nostore", "out"), "norun"),
        (("query", "norun", "scan.nii.gz", "--ask", "liver: cyst", "--out", "out"), "norun"),
        (("query", "norun", "scan.nii.gz", "--out", "out"), "no question"),
        (("store", "info", "nostore"), "nostore"),
        (("export", "norun", "out"), "norun"),
        (("doctor", "nowhere.nii.gz"), "There is no file or folder nowhere.nii.gz"),
        (("parse", "nowhere.txt"), "nowhere.txt"),
        (("config", "validate", "nothing"), "Shipped configs"),
    ],
)
def test_faults_end_with_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text("study_id,patient_id\n1,2\n")
    outcome = here(*arguments)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["of the system", "of a library, in words"],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_line(
    error: Exception, wrapped: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        if not wrapped:
            raise error
        try:
            raise error
        finally:
            raise TypeError("while cleaning up")

    monkeypatch.setattr(main, "app", command)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 2
    assert "no space is left" in capsys.readouterr().err


FAULTS: list[tuple[BaseException, int, str]] = [
    (OSError(errno.EIO, "Input/output error", "a.nii"), 2, "a.nii: Input/output error."),
    (OSError("52384 requested and 28640 written"), 2, "no space is left"),
    (PermissionError(errno.EACCES, "Permission denied", "/x/store"), 2, "/x/store may not be read or written"),
    (FileNotFoundError(errno.ENOENT, "No such file", "labels.csv"), 2, "labels.csv is not there."),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "run"), 2, "run is a folder"),
    (MemoryError(), 2, "memory ran out"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 2, "a worker process was killed"),
    (BrokenProcessPool("A child process terminated abruptly"), 2, "a worker process was killed"),
    (SafetensorError("Error while deserializing header: HeaderTooLarge"), 2, "safetensors file is broken"),
    (pickle.UnpicklingError("pickle data was truncated"), 2, "a file is broken"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 2, "GPU's memory ran out"),
    (ConfigError("Two words.", fix="Do this."), 2, "Two words. Do this."),
    (KeyError("organs"), 70, "KeyError: 'organs'. This is a fault of ctglip"),
]


@pytest.mark.parametrize(("error", "code", "message"), FAULTS, ids=[type(one[0]).__name__ for one in FAULTS])
@pytest.mark.parametrize("wrapped", [False, True])
def test_whatever_goes_wrong_is_one_line(
    error: BaseException, code: int, message: str, wrapped: bool, monkeypatch, capsys, tmp_path: Path
) -> None:
    def command() -> None:
        if not wrapped or code == 70:
            raise error
        raise RuntimeError("The worker failed") from error

    monkeypatch.setattr(main, "app", command)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main.run()
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert message in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1
    kept = list(tmp_path.iterdir())
    assert len(kept) == (code == 70)
    if kept:
        assert str(kept[0]) in said
        assert "in command" in kept[0].read_text()


def test_what_fails_while_things_are_tidied_up_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Untidy:
        def __del__(self) -> None:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    def command() -> None:
        one = Untidy()
        del one
        raise ConfigError("Two words.")

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.delenv("CTGLIP_TRACEBACK", raising=False)
    monkeypatch.setattr(main, "app", command)
    with pytest.raises(SystemExit):
        main.run()
    assert capsys.readouterr().err.strip() == "ctglip: Two words."


def test_a_store_of_before_is_upgraded_once_and_checked_by_two(tmp_path: Path) -> None:
    store = create_store(tmp_path / "store", INFO)
    write_study(store.path, make_record("00123"))
    compact(store)
    as_before(store)
    assert json.loads(good_here("store", "upgrade", store.path, "--json").out) == {"upgraded": True}
    assert "already" in good_here("store", "upgrade", store.path).out
    assert "sound" in good_here("store", "verify", store.path, "--workers", 2).out
    assert json.loads(good_here("store", "info", store.path, "--workers", 2, "--json").out)["studies"] == 1
    refused = here("store", "verify", store.path, "--workers", 2, "--ray", "auto")
    assert (refused.code, "exclude each other" in refused.err) == (2, True)
