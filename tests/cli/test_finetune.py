"""Fine-tuning, embedding and export as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.cli.commands import good_here, here
from tests.inference.tiny_cxr import cxr_release, saved
from tests.tasks.test_segmentation import write_lungs
from tests.training.tiny import write_word_bert

QUICK = ("--set", "fit.epochs=5", "--set", "evaluate.draws=20", "--set", "evaluate.min_positives=1")


@pytest.mark.slow
def test_finetune_lists_what_it_could_not_use_and_resumes(walk: Path, tmp_path: Path) -> None:
    truth = pl.read_csv(walk / "cohort" / "truth.csv", infer_schema=False)
    labels = truth.select("study_id", "liver:hepatic_steatosis", "kidney_left:renal_cyst", "spleen:splenomegaly")
    stranger = labels.head(1).with_columns(study_id=pl.lit("stranger"))
    pl.concat([labels, stranger]).write_csv(tmp_path / "labels.csv")
    arguments = ("finetune", walk / "run", walk / "store", tmp_path / "out", "--labels", tmp_path / "labels.csv",
                 "--config", "finetune/probe", *QUICK, "--json")  # fmt: skip
    done = here(*arguments)
    assert done.code == 1, done.err
    results = json.loads(done.out)
    assert "stranger" in {problem["subject"] for problem in results["problems"]}
    assert "stranger" in done.err
    assert "stranger" in (tmp_path / "out" / "problems.csv").read_text()
    for name in ("config.resolved.yaml", "environment.json", "results.json", "scores.parquet", "report.html"):
        assert (tmp_path / "out" / name).is_file()
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    again = here(*arguments)
    assert again.code == 2
    assert "already holds" in again.err
    assert json.loads(here(*arguments, "--resume").out) == results


@pytest.mark.slow
def test_a_fault_in_the_labels_ends_with_2_and_says_what_to_do(walk: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("study_id,livr:hepatic_steatosis\nsim-00000,1\n")
    done = here("finetune", walk / "run", walk / "store", tmp_path / "out", "--labels", tmp_path / "labels.csv")
    assert done.code == 2
    assert "livr:hepatic_steatosis" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_embed_writes_a_table_that_polars_reads(walk: Path, tmp_path: Path) -> None:
    found = json.loads(good_here("embed", walk / "run", walk / "store", tmp_path, "--space", "diagnosis", "--json").out)
    table = pl.read_parquet(tmp_path / "embeddings.parquet")
    assert (table.height, table["study_id"].n_unique()) == (found["rows"], 24)
    assert {"study_id", "patient_id", "split", "organ", "volume_ml", "f0000"} <= set(table.columns)


@pytest.mark.slow
def test_export_names_what_an_encoder_cannot_become(walk: Path, tmp_path: Path) -> None:
    done = here("export", walk / "run", tmp_path / "out", "--also", "nnunet")
    assert done.code == 2
    assert "no place in a network of nnU-Net" in done.err
    good_here("export", walk / "run", tmp_path / "hub", "--also", "hub")
    assert (tmp_path / "hub" / "README.md").is_file()


@pytest.mark.slow
def test_cxr_are_segmented_without_a_label_table(tmp_path: Path) -> None:
    store = write_lungs(tmp_path / "store", 30)
    model = saved(tmp_path, cxr_release(write_word_bert(tmp_path / "bert")))
    arguments = ("finetune", model, store.path, tmp_path / "out", "--config", "finetune/cxr_segmentation_unet",
                 "--set", "fit.epochs=1", "--set", "seeds=[0]", "--set", "segmentation.width=8")  # fmt: skip
    done = here(*arguments, "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert results["metric"] == "dice_all"
    assert {"dice_pos", "mdice"} <= set(results["points"][0]["more"])
    assert "f008" in done.err
    assert "f008" in (tmp_path / "out" / "problems.csv").read_text()
    (tmp_path / "labels.csv").write_text("study_id,lungs:emphysema\nf000,1\n")
    refused = here(*arguments, "--resume", "--labels", tmp_path / "labels.csv")
    assert (refused.code, "Leave --labels out" in refused.err) == (2, True)
    nothing = here("finetune", model, store.path, tmp_path / "other")
    assert (nothing.code, "--labels labels.csv" in nothing.err) == (2, True)
