"""Radiographs are tuned and embedded too: read from boxes of organs, or as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
import torch

from ctglip.config import load_settings, validate
from ctglip.data.cxr import cxr_input
from ctglip.errors import CTGLIPError
from ctglip.inference.encoding import read_organs
from ctglip.inference.feature_cache import organ_features_of
from ctglip.inference.scoring import Scorer
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization
from ctglip.tasks.embed import embed
from ctglip.tasks.inputs import cached_features, image_inputs
from ctglip.tasks.network import build_network
from ctglip.tasks.release import FinetunedModel
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.studies import join
from ctglip.tasks.targets import STUDY, read_targets
from ctglip.tasks.tuning import finetune
from tests.inference.tiny_cxr import FILMS, cxr_release, saved, write_cxr_store
from tests.training.tiny import write_word_bert

PAIRS = {"heart:cardiomegaly", "pleura_left:pleural_effusion", "pleura_right:pleural_effusion"}


def config(**more) -> FinetuneConfig:
    fit = {"epochs": 60, "batch": 16, "device": "cpu", "threads": 1}
    tree = {
        "fit": fit,
        "scratch_fit": {**fit, "epochs": 2},
        "optim": {"lr": 0.02, "warmup": 0},
        "evaluate": {"draws": 20, "min_positives": 1},
        **more,
    }
    return validate(FinetuneConfig, tree, "test")


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return write_cxr_store(tmp_path_factory.mktemp("radiographs") / "store", 60)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random radiograph models: one that reads boxes of organs, one of whole radiographs, one of their tokens, one that
    knows no texts."""
    folder = tmp_path_factory.mktemp("models")
    bert = write_word_bert(folder / "bert")
    boxes = cxr_release(bert, regions={"name": "box"}, image=None)
    whole = cxr_release(bert)
    deaf = cxr_release(bert, image=None)
    deaf.aligned = False
    tokens = cxr_release(bert, image={"name": "tokens", "levels": (-2, -1), "pooling": "mean_peak"})
    found = {"boxes": boxes, "whole": whole, "tokens": tokens, "deaf": deaf}
    return {name: saved(folder / name, release) for name, release in found.items()}


def studies_of(model: Path, radiographs: tuple[Store, Path], whole: bool):
    release = load_release(model)
    return release, join(
        read_targets(radiographs[1], Scorer(release).dictionaries, release.organs, global_image=whole), radiographs[0]
    )


def test_boxes_are_read_as_inference_reads_them(models, radiographs) -> None:
    release, studies = studies_of(models["boxes"], radiographs, whole=False)
    live = image_inputs(radiographs[0], release, studies, config())
    found = organ_features_of(radiographs[0], release, studies.study_ids, ["heart", "pleura_left", "pleura_right"])
    kept = cached_features(radiographs[0], release, studies, config())
    np.testing.assert_array_equal(kept.bags.organ, live.bags.organ)
    rows = np.arange(6, 15)
    with torch.no_grad():
        said = read_organs(release.model, live.read(rows, None))  # type: ignore[arg-type]
    torch.testing.assert_close(said, kept.features[6:15], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(kept.features, found.embeddings.features, atol=1e-6)
    changed = live.read(rows, np.random.default_rng(0))
    again = live.read(rows, np.random.default_rng(0))
    assert not torch.equal(changed["boxes"], live.read(rows, None)["boxes"])  # type: ignore[index]
    torch.testing.assert_close(changed["images"], again["images"])  # type: ignore[index]
    sides = changed["boxes"][:, 1::2] - changed["boxes"][:, ::2]  # type: ignore[index]
    assert bool((sides >= 1).all())


def test_a_whole_cxr_is_what_the_encoder_pools(models, radiographs) -> None:
    release, studies = studies_of(models["boxes"], radiographs, whole=True)
    assert {target.organs for target in studies.targets} == {(STUDY,)}
    kept = cached_features(radiographs[0], release, studies, config(read="whole"))
    assert len(kept.features) == len(studies.study_ids)
    image = cxr_input(radiographs[0].study(studies.study_ids[3]).image(), FILMS)
    with torch.no_grad():
        expected = release.model.encoder(torch.from_numpy(image.image)[None]).pooled[0]
    torch.testing.assert_close(kept.features[3], expected, atol=1e-5, rtol=1e-4)


def test_effusions_are_found_in_their_boxes(models, radiographs, tmp_path: Path) -> None:
    results = finetune(models["boxes"], radiographs[0].path, tmp_path, radiographs[1], config())
    assert {f"{pair.organ}:{pair.abnormality.partition(':')[2]}" for pair in results.pairs} == PAIRS
    assert results.score.value is not None
    assert results.score.value > 0.9
    said = FinetunedModel(tmp_path).predict(radiographs[0], radiographs[0].study_ids[:5])
    assert said.height == 15


@pytest.mark.parametrize(
    ("model", "mode"), [("whole", "head"), ("tokens", "head"), ("deaf", "probe"), ("boxes", "full")]
)
def test_whole_cxr_answer_any_column(model: str, mode: str, models, radiographs, tmp_path: Path) -> None:
    """A heading that no dictionary knows, a table for all models of radiographs; beside it a start from random
    weights."""
    table = pl.read_csv(radiographs[1], infer_schema=False)
    sick = table.select(pl.max_horizontal(pl.exclude("study_id")).alias("any finding"))
    table.hstack(sick).write_csv(tmp_path / "labels.csv")
    fit = {"epochs": 4, "batch": 16, "device": "cpu", "threads": 1}
    settings = config(read="whole", mode=mode, fit=fit, optim={"lr": 0.003, "warmup": 0}, baselines=("scratch",))
    results = finetune(models[model], radiographs[0].path, tmp_path / "out", tmp_path / "labels.csv", settings)
    judged = {pair.abnormality for pair in results.pairs}
    assert judged >= set(PAIRS)
    assert judged | set(results.left_out) == {*PAIRS, "any finding"}, "it may be true of all that are tested"
    assert {pair.organ for pair in results.pairs} == {STUDY}
    assert {point.initialization for point in results.points} == {models[model].parent.name, "scratch"}
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet").filter(pl.col("split") == "test")
    said = FinetunedModel(tmp_path / "out").predict(radiographs[0], sorted(set(scores["study_id"])))
    both = said.join(scores, on=["study_id", "column"], suffix="_judged")
    assert both.height == scores.height
    np.testing.assert_allclose(both["probability"], both["probability_judged"], atol=1e-5)
    assert load_release(tmp_path / "out").cxr is not None


@pytest.mark.parametrize("model", ["whole", "tokens"])
def test_a_model_of_whole_cxr_starts_from_its_own_zero_shot_answer(model: str, models, radiographs) -> None:
    release, studies = studies_of(models[model], radiographs, whole=True)
    kept = cached_features(radiographs[0], release, studies, config(mode="head"))
    network = build_network(
        Initialization("whole", release, False, "head"), studies.targets, kept.bags.organs, config()
    ).eval()
    scorer = Scorer(release)
    with torch.no_grad():
        read = {"features": kept.features[:4], "bag_organ": torch.zeros(4, dtype=torch.long)}
        said = network({**read, "bag_study": torch.arange(4)}, 4).numpy()
        whole = release.model.image_head(kept.features[:4]).numpy()
    for number, target in enumerate(studies.targets):
        organ, name = target.column.split(":")
        expected = scorer.calibration.scale * scorer.differences(whole, [(organ, name)])[:, 0]
        np.testing.assert_allclose(said[:, number], expected + scorer.calibration.bias, atol=1e-4)


def test_a_label_of_an_organ_without_a_box_is_listed(models, radiographs, tmp_path: Path) -> None:
    table = pl.read_csv(radiographs[1], infer_schema=False)
    table.select("study_id", pl.col("heart:cardiomegaly").alias("lung_left:consolidation")).write_csv(
        tmp_path / "labels.csv"
    )
    regions = radiographs[0].table("regions")
    lacking = regions.filter(~((pl.col("study_id") == "f003") & pl.col("region").str.starts_with("left_")))

    class Tampered:
        path, info, study_ids, study = (
            radiographs[0].path,
            radiographs[0].info,
            radiographs[0].study_ids,
            radiographs[0].study,
        )

        @staticmethod
        def table(name: str) -> pl.DataFrame:
            return lacking if name == "regions" else radiographs[0].table(name)

    from ctglip.tasks.studies import unanswerable

    release = load_release(models["boxes"])
    labels = read_targets(tmp_path / "labels.csv", Scorer(release).dictionaries, release.organs)
    studies = join(labels, Tampered)  # type: ignore[arg-type]
    live = image_inputs(Tampered, release, studies, config())  # type: ignore[arg-type]
    _, problems = unanswerable(studies, live.bags)
    assert [(problem.code, problem.subject) for problem in problems] == [("no_organ", "f003")]


@pytest.mark.parametrize(
    ("model", "rows", "organ"), [("boxes", 300, "heart"), ("whole", 60, STUDY), ("deaf", 60, STUDY)]
)
def test_cxr_are_embedded(model: str, rows: int, organ: str, models, radiographs, tmp_path: Path) -> None:
    found = embed(models[model], radiographs[0].path, tmp_path)
    table = pl.read_parquet(tmp_path / "embeddings.parquet")
    assert (found.rows, found.studies, table.height) == (rows, 60, rows)
    assert organ in set(table["organ"])
    assert np.isfinite(table.select(cs.matches(r"^f\d{4}$")).to_numpy()).all()
    if model == "deaf":
        with pytest.raises(CTGLIPError, match="without texts"):
            embed(models[model], radiographs[0].path, tmp_path / "texts", "diagnosis")
    else:
        embed(models[model], radiographs[0].path, tmp_path / "texts", "diagnosis")
        vectors = pl.read_parquet(tmp_path / "texts" / "embeddings.parquet").select(cs.matches(r"^f\d{4}$")).to_numpy()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)


def test_scans_and_cxr_are_told_apart(run: Path, models, radiographs, tiny: tuple[Store, Path], tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError, match="radiographs"):
        finetune(run, radiographs[0].path, tmp_path / "a", radiographs[1], config())
    with pytest.raises(CTGLIPError, match="trained on CT scans, which are read in one way"):
        finetune(run, tiny[0].path, tmp_path / "b", tiny[1], config(read="whole"))
    with pytest.raises(CTGLIPError, match="trained on radiographs"):
        finetune(models["whole"], tiny[0].path, tmp_path / "c", tiny[1], config())


def test_shipped_configs_of_cxr_are_what_they_say() -> None:
    probe = load_settings(FinetuneConfig, Path("finetune/cxr_probe"))
    assert (probe.mode, probe.read, probe.fit.batch, probe.optim.lr) == ("probe", "whole", 48, 0.0005)
    assert load_settings(FinetuneConfig, Path("finetune/cxr_full")).read == "whole"
    assert json.loads(probe.model_dump_json())["fractions"] == [0.01, 0.1, 1.0]
