"""Radiographs asked by their observations (PLACE): the best one answers, its query's attention is the map, all of it
from the released model. The weights are written down (``tiny_observer``): where a trained query looks is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ctglip.api import load_model
from ctglip.cxr.picture import Radiograph
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.data.cxr import cxr_input
from ctglip.errors import ModelError
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.inference.cxr_maps import observation_maps
from ctglip.inference.maps import resample_map
from ctglip.inference.page import answers_page
from ctglip.inference.pipeline import Pipeline
from ctglip.inference.readers import Read
from ctglip.pages.answers import render
from tests.inference.tiny_cxr import FILMS, RECIPE, cxr_release, draw_radiograph, saved, truth_of, write_cxr_store
from tests.inference.tiny_observer import PAIRS, observing
from tests.training.tiny import write_word_bert

QUESTIONS = [f"{organ}: {name}" for organ, name in PAIRS]


def _window(pixels: np.ndarray) -> np.ndarray:
    made = standardize_radiograph(Radiograph(pixels.astype(np.float32)), RECIPE, None, ())
    return cxr_input(made.image, FILMS).image


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def run(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("run"), observing(bert))


@pytest.mark.parametrize("times", [1, 3])
def test_the_best_observation_answers_and_its_map_lies_where_its_query_looks(run: Path, times: int) -> None:
    """Every answer is right and every map of an effusion peaks in it, on radiographs of 120 x 100 pixels and of three
    times as many a side."""
    model = load_model(run, "observations")
    assert isinstance(model, Pipeline)
    rng = np.random.default_rng(7)
    shown = 0
    for _ in range(12):
        truth = truth_of(rng)
        pixels = draw_radiograph(rng, truth).repeat(times, 0).repeat(times, 1)
        asked = model.query(Radiograph(pixels.astype(np.float32)), QUESTIONS)
        assert {answer.read_from for answer in asked.answers} == {"the radiograph's observations"}
        present = [bool(truth[":".join(pair)]) for pair in PAIRS]
        assert [answer.probability > 0.5 for answer in asked.answers] == present
        for found, columns, there in zip(model.heat_maps(asked), ((76, 90), (10, 24)), present, strict=True):
            laid = resample_map(found.values, np.linalg.inv(asked.original.affine) @ found.affine, pixels.shape)
            row, column = np.unravel_index(np.nanargmax(laid), laid.shape)
            if there:
                assert 74 <= row / times <= 90
                assert columns[0] <= column / times <= columns[1]
                shown += 1
    assert shown >= 8


@pytest.mark.parametrize("there", [(1, 1), (0, 1), (1, 0), (0, 0)], ids=str)
def test_the_answer_by_hand(run: Path, there: tuple[int, int]) -> None:
    """The map is held against attention where a finding is there: else no observation is like its prompts, and which
    of them is the least unlike is a matter of rounding."""
    model = load_model(run, "observations")
    assert isinstance(model, Pipeline)
    truth = {"heart:cardiomegaly": 0} | {":".join(pair): one for pair, one in zip(PAIRS, there, strict=True)}
    pixels = draw_radiograph(np.random.default_rng(3), truth)
    asked, net = model.query(Radiograph(pixels.astype(np.float32)), QUESTIONS), model.release.model
    with torch.no_grad():
        seen = net.resampler(net.encode_image(torch.from_numpy(_window(pixels)[None])))
        vectors = net.resampler.visual(seen.tokens)[0]
        for answer, pair, found in zip(asked.answers, PAIRS, there, strict=True):
            sides = [net.resampler.textual(model.release.embed(side)).mean(0) for side in model.scorer.prompts(pair)]
            yes, no = (vectors @ F.normalize(side, dim=0) for side in sides)
            expected = torch.sigmoid(10 * (yes.max() - no.max())).item()
            assert answer.probability == pytest.approx(expected, abs=1e-5)
            drawn = observation_maps(
                net, cxr_input(asked.standardized.image, FILMS).image, model.scorer.sides([pair])[0]
            )
            attention = seen.attention[0][0, yes.argmax()].numpy()
            assert drawn[0].mean() == pytest.approx(1, abs=0.1)
            coarse = drawn[0].reshape(8, 6, 8, 6).mean((1, 3))
            assert (answer.probability > 0.5) == bool(found)
            assert not found or np.corrcoef(coarse.ravel(), attention.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(("read", "what"), [("observations", "Attention"), ("whole", "Similarity")])
def test_a_map_says_what_its_numbers_are(run: Path, read: str, what: str) -> None:
    model = load_model(run, read)
    assert isinstance(model, Pipeline)
    rng = np.random.default_rng(3)
    asked = model.query(Radiograph(draw_radiograph(rng, truth_of(rng)).astype(np.float32)), QUESTIONS)
    shown = answers_page(asked, maps=model.heat_maps(asked))
    captions = [where.picture.caption for where in shown.where]
    assert len(captions) == len(QUESTIONS)
    assert all(caption.startswith(what) for caption in captions)
    assert ("where the observation that answers looked" in render(shown)) == (what == "Attention")


def test_an_evaluation_reads_them_too(run: Path, tmp_path: Path) -> None:
    store, truth = write_cxr_store(tmp_path / "store", 60)
    lesions = pl.DataFrame({"study_id": store.study_ids, "organ": "pleura_left", "abnormality": "pleural_effusion"})
    boxes = lesions.with_columns(row0=pl.lit(74), row1=pl.lit(90), column0=pl.lit(76), column1=pl.lit(90))
    boxes.write_csv(tmp_path / "lesions.csv")
    config = {"draws": 50, "min_positives": 2, "device": "cpu", "parts": ("retrieval", "map", "prompts"),
              "lesions": str(tmp_path / "lesions.csv")}  # fmt: skip
    found = {}
    for read in ("observations", "whole"):
        settings = EvaluateConfig.model_validate({**config, "cxr": {"read": read}})
        results = evaluate(run, store.path, tmp_path / read, labels=truth, config=settings)
        found[read] = {(one.organ, one.abnormality): one.auroc.value for one in results.pairs}
        assert {"retrieval", "map", "prompts", "localization"} <= results.parts.keys()
        if read == "observations":
            pointed = {one.abnormality: one for one in results.parts["localization"].rows}
            assert pointed["pleural_effusion"].near.value == 1
            assert pointed["pleural_effusion"].near_chance < 0.5
    assert [found["observations"][pair] for pair in PAIRS] == [1, 1]
    for read in ("observations", "whole"):
        _answers_as_a_query_does(run, read, pl.read_parquet(tmp_path / read / "scores.parquet"))
    scores = pl.read_parquet(tmp_path / "observations" / "scores.parquet")
    assert scores["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-10 * scores["difference"].to_numpy())))


def _answers_as_a_query_does(run: Path, read: Read, scores: pl.DataFrame) -> None:
    """The first radiographs of the store, drawn again and asked one by one."""
    model, rng = load_model(run, read), np.random.default_rng(0)
    judged = {(row["study_id"], row["organ"]): row["probability"] for row in scores.iter_rows(named=True)}
    seen = 0
    for number in range(12):
        truth = truth_of(rng)
        asked = model.query(Radiograph(draw_radiograph(rng, truth).astype(np.float32)), QUESTIONS)
        for answer in asked.answers:
            if (name := (f"f{number:03d}", answer.organ)) in judged:
                assert answer.probability == pytest.approx(judged[name], abs=1e-4)
                seen += 1
    assert seen


def test_models_without_observations_say_so(bert: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path, cxr_release(bert))
    with pytest.raises(ModelError, match="no queries that observe") as refused:
        load_model(folder, "observations")
    assert refused.value.code == "no_observations"


def test_the_command_reads_them(run: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ctglip.cli.main import app

    rng = np.random.default_rng(5)
    truth = {"heart:cardiomegaly": 0, "pleura_left:pleural_effusion": 1, "pleura_right:pleural_effusion": 0}
    Image.fromarray(draw_radiograph(rng, truth)).save(tmp_path / "radiograph.png")
    out = [
        "--out",
        str(tmp_path / "out"),
        "--maps",
        str(tmp_path / "maps"),
        "--ask",
        QUESTIONS[0],
        "--ask",
        QUESTIONS[1],
    ]
    done = CliRunner().invoke(
        app, ["query", str(run), str(tmp_path / "radiograph.png"), *out, "--read", "observations", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert done.output.count("the radiograph's observations") == 2
    assert list((tmp_path / "maps").rglob("*.npy"))
