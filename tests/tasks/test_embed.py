"""The table of embeddings: scikit-learn reads it, and it holds what the model says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ctglip.errors import CTGLIPError
from ctglip.inference.feature_cache import organ_features_of
from ctglip.models.release import load_release
from ctglip.store.format import read_info, write_info
from ctglip.store.tables import Store
from ctglip.tasks.embed import embed


def test_scikit_learn_fits_on_it(run: Path, tiny: tuple[Store, Path], tmp_path: Path) -> None:
    store, truth = tiny
    found = embed(run, store.path, tmp_path)
    table = pl.read_parquet(tmp_path / "embeddings.parquet")
    assert (table.height, found.studies) == (found.rows, len(store.study_ids))
    labels = pl.read_csv(truth, schema_overrides={"study_id": pl.String}).select("study_id", "liver:hepatic_steatosis")
    liver = table.filter(pl.col("organ") == "liver").join(labels, on="study_id")
    parts = {split: liver.filter(pl.col("split") == split) for split in ("train", "test")}
    x = {split: part.select(cs.matches(r"^f\d{4}$")).to_numpy() for split, part in parts.items()}
    model = LogisticRegression(max_iter=1000).fit(x["train"], parts["train"]["liver:hepatic_steatosis"])
    scores = model.decision_function(x["test"])
    assert roc_auc_score(parts["test"]["liver:hepatic_steatosis"], scores) > 0.9
    assert not liver["patient_id"].null_count()


@pytest.mark.parametrize("space", ["features", "diagnosis", "anatomy"])
def test_each_space_is_the_models(run: Path, tiny: tuple[Store, Path], tmp_path: Path, space) -> None:
    store, _ = tiny
    embed(run, store.path, tmp_path, space)
    table = pl.read_parquet(tmp_path / "embeddings.parquet")
    found = organ_features_of(store, load_release(run), store.study_ids[:3], ["spleen"])
    rows = table.filter((pl.col("organ") == "spleen") & pl.col("study_id").is_in(store.study_ids[:3]))
    expected = getattr(found.embeddings, space)
    np.testing.assert_allclose(rows.select(cs.matches(r"^f\d{4}$")).to_numpy(), expected, atol=1e-5)
    about = json.loads((tmp_path / "embeddings.json").read_text())
    assert (about["space"], about["dim"], about["recipe"]) == (space, expected.shape[1], store.info.recipe_hash)


def test_only_the_organs_asked_for_are_encoded(run: Path, tiny: tuple[Store, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    copied = Store.open(
        Path(shutil.copytree(tiny[0].path, tmp_path / "store", ignore=shutil.ignore_patterns("features")))
    )
    embed(run, copied.path, tmp_path, only=["Spleen"], progress=lambda done, of: seen.append((done, of)))
    table = pl.read_parquet(tmp_path / "embeddings.parquet")
    assert table["organ"].unique().to_list() == ["spleen"]
    spleens = copied.table("organs").filter(pl.col("organ") == "spleen").height
    assert table.height == spleens
    assert seen[-1] == (spleens, spleens)
    embed(run, copied.path, tmp_path / "all")
    every = pl.read_parquet(tmp_path / "all" / "embeddings.parquet").filter(pl.col("organ") == "spleen")
    numbers = cs.matches(r"^f\d{4}$")
    np.testing.assert_allclose(every.select(numbers).to_numpy(), table.select(numbers).to_numpy(), atol=1e-5)
    with pytest.raises(CTGLIPError, match="not trained on an organ 'prostate'"):
        embed(run, copied.path, tmp_path, only=["prostate"])


def test_another_recipe_is_refused(run: Path, tiny: tuple[Store, Path], tmp_path: Path) -> None:
    copied = shutil.copytree(tiny[0].path, tmp_path / "other")
    info = read_info(copied)
    write_info(copied, info.model_copy(update={"recipe": {**info.recipe, "spacing_mm": [3.0, 3.0, 3.0]}}))
    with pytest.raises(CTGLIPError, match="another recipe"):
        embed(run, copied, tmp_path / "out")
