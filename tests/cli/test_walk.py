"""The contracts that outsiders build on, read back without ctglip: zarr, polars, safetensors and json alone."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import zarr
from safetensors import safe_open

from tests.cli.commands import good, good_here, here

NO_NETWORK = """
import socket
def refuse(*a, **k): raise OSError("no network in this test")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
"""


def test_the_cohort_and_its_truth(walk: Path) -> None:
    cohort = pl.read_csv(walk / "cohort" / "cohort.csv", infer_schema=False)
    assert {"study_id", "patient_id", "image", "masks", "report"} <= set(cohort.columns)
    truth = pl.read_csv(walk / "cohort" / "truth.csv")
    assert sorted(truth["study_id"]) == sorted(cohort["study_id"])
    assert all(":" in name for name in truth.columns[1:])
    assert truth.select(pl.exclude("study_id").drop_nulls().is_in([0, 1]).all()).row(0) == (True,) * (truth.width - 1)


def test_the_store_on_disk(walk: Path) -> None:
    store = walk / "store"
    info = json.loads((store / "store.json").read_text())
    assert info["format_version"] == 1
    studies = pl.read_parquet(store / "studies.parquet")
    assert studies.height == 24
    organs = pl.read_parquet(store / "organs.parquet")
    assert {"study_id", "organ", "volume_ml", "mean_hu", "touches_border"} <= set(organs.columns)
    findings = pl.read_parquet(store / "findings.parquet")
    assert set(findings["status"]) <= {"affirmed", "negated", "uncertain", "historical", "normal"}
    assert findings.filter(pl.col("organ").is_null() & pl.col("reason").is_null()).is_empty()
    assert set(pl.read_parquet(store / "reports.parquet").columns) == {"study_id", "section", "text"}
    splits = pl.read_parquet(store / "splits.parquet")
    assert splits.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1

    first = studies["study_id"][0]
    group = zarr.open_group(store / "studies" / f"{first}.zarr", mode="r")
    image, labels = np.asarray(group["image"]), np.asarray(group["organs"])
    assert image.dtype == np.int16
    assert labels.dtype == np.uint8
    assert image.shape == labels.shape
    liver = organs.filter((pl.col("study_id") == first) & (pl.col("organ") == "liver")).to_dicts()[0]
    (number,) = (int(key) for key, name in info["labels"].items() if name == "liver")
    inside = image[labels == number]
    spacing = np.prod(np.linalg.norm(np.asarray(group.attrs["affine"])[:3, :3], axis=0))
    assert np.isclose(len(inside) * spacing / 1000, liver["volume_ml"], rtol=1e-4)
    assert np.isclose(inside.mean(), liver["mean_hu"], atol=0.1)


def test_the_journal_knows_every_study(walk: Path) -> None:
    with sqlite3.connect(walk / "store" / "journal.sqlite") as journal:
        tables = [name for (name,) in journal.execute("select name from sqlite_master where type='table'")]
        counts = {name: journal.execute(f"select count(*) from {name}").fetchone()[0] for name in tables}
    assert 24 in counts.values()


def test_the_run_on_disk(walk: Path) -> None:
    run = walk / "run"
    assert (run / "config.resolved.yaml").is_file()
    assert json.loads((run / "environment.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    with safe_open(run / "model" / "model.safetensors", "np") as weights:
        assert all(np.isfinite(weights.get_tensor(key)).all() for key in weights.keys())  # noqa: SIM118
    assert not [p for p in (run / "model").rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin")]


def test_the_evaluation_on_disk(walk: Path) -> None:
    results = json.loads((walk / "evaluation" / "results.json").read_text())
    assert results["split"] == "test"
    assert "truth.csv" in json.dumps(results)
    scores = pl.read_parquet(walk / "evaluation" / "scores.parquet")
    assert scores.select(pl.col("probability").is_between(0, 1).all()).item()
    page = (walk / "evaluation" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_copied_model_answers_alone_and_offline(walk: Path, tmp_path: Path) -> None:
    """Only ``model/`` travels; the network is cut; the answer is that of the run."""
    shutil.copytree(walk / "run" / "model", tmp_path / "model")
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    cohort = pl.read_csv(walk / "cohort" / "cohort.csv", infer_schema=False).row(0, named=True)
    arguments = (walk / "cohort" / cohort["image"], "--masks", walk / "cohort" / cohort["masks"],
                 "--ask", "liver: fatty liver", "--ask", "gallstones?", "--json")  # fmt: skip
    alone = good("query", tmp_path / "model", *arguments, "--out", tmp_path / "a",
                 PYTHONPATH=str(tmp_path), HF_HOME=str(tmp_path / "empty"), HOME=str(tmp_path))  # fmt: skip
    beside = good_here("query", walk / "run", *arguments, "--out", tmp_path / "b")
    first, second = json.loads(alone.out)["answers"], json.loads(beside.out)["answers"]
    assert [answer["probability"] for answer in first] == [answer["probability"] for answer in second]
    assert all(0 <= answer["probability"] <= 1 for answer in first)
    assert (tmp_path / "a" / "scan.html").is_file()


def test_export_can_leave_the_text_weights_behind(walk: Path, tmp_path: Path) -> None:
    whole = json.loads(good_here("export", walk / "run", tmp_path / "whole", "--json").out)
    slim = json.loads(good_here("export", walk / "run", tmp_path / "slim", "--reference-text-encoder", "--json").out)
    assert slim["bytes"] < whole["bytes"] / 4
    cohort = pl.read_csv(walk / "cohort" / "cohort.csv", infer_schema=False).row(0, named=True)
    image, masks = walk / "cohort" / cohort["image"], walk / "cohort" / cohort["masks"]
    good_here("query", tmp_path / "slim", image, "--masks", masks,
              "--ask", "liver: fatty liver", "--out", tmp_path / "answers")  # fmt: skip


def test_a_second_preprocessing_does_nothing(walk: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (walk / "store" / "studies").rglob("*") if p.is_file()}
    good_here(
        "preprocess", walk / "cohort" / "cohort.csv", walk / "store", "--config", "preprocess/demo_3mm", "--workers", 1
    )
    assert before == {p: p.stat().st_mtime_ns for p in (walk / "store" / "studies").rglob("*") if p.is_file()}


def test_store_commands(walk: Path, tmp_path: Path) -> None:
    assert json.loads(good_here("store", "info", walk / "store", "--json").out)["studies"] == 24
    good_here("store", "verify", walk / "store")
    study = pl.read_parquet(walk / "store" / "studies.parquet")["study_id"][0]
    files = json.loads(good_here("store", "export", walk / "store", study, "--out", tmp_path, "--json").out)["files"]
    assert all(Path(file).is_file() for file in files)


def test_help_is_quick_and_imports_no_torch() -> None:
    code = """
import sys
from ctglip.cli.main import app
sys.argv = ["ctglip", "--help"]
try:
    app()
except SystemExit:
    print([name for name in ("torch", "monai", "ray", "transformers") if name in sys.modules])
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for command in (
        "simulate",
        "preprocess",
        "parse",
        "pretrain",
        "evaluate",
        "query",
        "export",
        "doctor",
        "store",
        "config",
    ):
        assert command in done.stdout
        assert here(command, "--help").code == 0
