"""Films asked by their observations (PLACE): the best one answers, its query's attention is the map, all of it from the
released model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from ctglip.api import load_model
from ctglip.data.film_input import film_input
from ctglip.errors import ModelError
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.film.io import Film
from ctglip.film.standardize import standardize_film
from ctglip.inference.film_maps import laid_on
from ctglip.inference.film_page import film_answer_page
from ctglip.inference.films import FilmPipeline
from ctglip.inference.observations import observation_maps
from ctglip.inference.scoring import Calibration, Scorer
from ctglip.models.encoders import ViTSettings
from ctglip.models.observations import ObservationSettings
from ctglip.models.release import Release
from ctglip.pages.scan import render
from tests.inference.tiny_films import FILMS, RECIPE, draw_film, film_release, saved, truth_of, write_film_store
from tests.training.tiny import write_word_bert

PAIRS = [("pleura_left", "pleural_effusion"), ("pleura_right", "pleural_effusion")]
QUESTIONS = [f"{organ}: {name}" for organ, name in PAIRS]
OBSERVING = {
    "encoder": ViTSettings(spatial_dims=2, patch=6, image_size=48, dim=32, depth=1, heads=4),
    "observations": ObservationSettings(queries=4, layers=1, heads=2, dim=32),
}


def trained(bert: Path) -> Release:
    """A model whose observations were taught on drawn films what the prompts say of both sides."""
    release = film_release(bert, **OBSERVING)
    scorer, model, rng = Scorer(release), release.model.train(), np.random.default_rng(0)
    truths = [truth_of(rng) for _ in range(192)]
    images = torch.from_numpy(np.stack([_window(draw_film(rng, truth)) for truth in truths]))
    labels = torch.tensor([[float(truth[":".join(pair)]) for pair in PAIRS] for truth in truths])
    raw = [[release.embed(side) for side in scorer.prompts(pair)] for pair in PAIRS]
    optimizer = torch.optim.AdamW(model.observer.parameters(), lr=3e-3)
    optimizer.add_param_group({"params": model.encoder.parameters()})
    for step in range(300):
        rows = torch.arange(32) + step % 6 * 32
        vectors = model.observer.visual(model.observe(images[rows]).found)
        sides = [[F.normalize(model.observer.textual(side).mean(0), dim=0) for side in pair] for pair in raw]
        yes, no = ((vectors @ torch.stack([pair[n] for pair in sides]).T).amax(1) for n in (0, 1))
        loss = F.binary_cross_entropy_with_logits(10 * (yes - no), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    release.calibration = Calibration(
        scale=1.0, observations=Calibration(scale=10.0, learned_scale=10.0, fitted_on="a test")
    ).model_dump(mode="json")
    return release


def _window(pixels: np.ndarray) -> np.ndarray:
    made, _ = standardize_film(Film(pixels.astype(np.float32)), RECIPE, None, ())
    return film_input(made.image, FILMS).image


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def run(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("run"), trained(bert))


def test_the_best_observation_answers_and_its_map_lies_on_the_finding(run: Path) -> None:
    """Held-out films; by hand from what the released folder holds; the answer's map peaks on the effusion."""
    model = load_model(run, "observations")
    assert isinstance(model, FilmPipeline)
    rng = np.random.default_rng(7)
    scores, labels, on_place, area = [], [], [], []
    for _ in range(40):
        truth = truth_of(rng)
        pixels = draw_film(rng, truth)
        asked = model.query(Film(pixels.astype(np.float32)), QUESTIONS)
        assert {answer.read_from for answer in asked.answers} == {"the film's observations"}
        assert asked.film is not None
        scores += [answer.probability for answer in asked.answers]
        labels += [truth[":".join(pair)] for pair in PAIRS]
        for found, columns in zip(model.heat_maps(asked), (slice(76, 90), slice(10, 24)), strict=True):
            if truth[f"{found.organ}:{found.abnormality}"]:
                laid = laid_on(found.values, found.to_file, (120, 100))
                where = np.zeros(laid.shape, bool)
                where[70:94, max(columns.start - 6, 0) : columns.stop + 6] = True
                on_place.append(where.flat[np.nanargmax(laid)])
                area.append(where[np.isfinite(laid)].mean())
    assert roc_auc_score(labels, scores) > 0.95
    assert np.mean(on_place) > 3 * np.mean(area)
    assert np.mean(on_place) > 0.5


def test_the_answer_by_hand(run: Path) -> None:
    model = load_model(run, "observations")
    assert isinstance(model, FilmPipeline)
    pixels = draw_film(np.random.default_rng(3), truth_of(np.random.default_rng(3)))
    asked, net = model.query(Film(pixels.astype(np.float32)), QUESTIONS), model.release.model
    with torch.no_grad():
        seen = net.observe(torch.from_numpy(_window(pixels)[None]))
        vectors = net.observer.visual(seen.found)[0]
        for answer, pair in zip(asked.answers, PAIRS, strict=True):
            sides = [net.observer.textual(model.release.embed(side)).mean(0) for side in model.scorer.prompts(pair)]
            yes, no = (vectors @ F.normalize(side, dim=0) for side in sides)
            expected = torch.sigmoid(10 * (yes.max() - no.max())).item()
            assert answer.probability == pytest.approx(expected, abs=1e-5)
            drawn = observation_maps(net, film_input(asked.standardized.image, FILMS), model.scorer.sides([pair])[0])
            attention = seen.where[0][0, yes.argmax()].numpy()
            assert drawn[0].mean() == pytest.approx(1, abs=0.1)
            coarse = drawn[0].reshape(8, 6, 8, 6).mean((1, 3))
            assert np.corrcoef(coarse.ravel(), attention.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(("read", "what"), [("observations", "Attention"), ("whole", "Similarity")])
def test_a_map_says_what_its_numbers_are(run: Path, read: str, what: str) -> None:
    model = load_model(run, read)
    assert isinstance(model, FilmPipeline)
    rng = np.random.default_rng(3)
    asked = model.query(Film(draw_film(rng, truth_of(rng)).astype(np.float32)), QUESTIONS)
    shown = film_answer_page(asked, list(model.heat_maps(asked)))
    captions = [where.picture.caption for where in shown.where]
    assert len(captions) == len(QUESTIONS)
    assert all(caption.startswith(what) for caption in captions)
    assert ("where the observation that answers looked" in render(shown)) == (what == "Attention")


def test_an_evaluation_reads_them_too(run: Path, tmp_path: Path) -> None:
    store, truth = write_film_store(tmp_path / "store", 60)
    lesions = pl.DataFrame({"study_id": store.study_ids, "organ": "pleura_left", "abnormality": "pleural_effusion"})
    boxes = lesions.with_columns(row0=pl.lit(74), row1=pl.lit(90), column0=pl.lit(76), column1=pl.lit(90))
    boxes.write_csv(tmp_path / "lesions.csv")
    config = {"draws": 50, "min_positives": 2, "device": "cpu", "parts": ("retrieval", "map", "prompts"),
              "lesions": str(tmp_path / "lesions.csv")}  # fmt: skip
    found = {}
    for read in ("observations", "whole"):
        settings = EvaluateConfig.model_validate({**config, "films": {"read": read}})
        results = evaluate(run, store.path, tmp_path / read, labels=truth, config=settings)
        found[read] = {(one.organ, one.abnormality): one.auroc.value for one in results.pairs}
        assert {"film_retrieval", "map", "prompts", "film_pointing"} <= results.parts.keys()
        if read == "observations":
            pointed = {one.abnormality: one for one in results.parts["film_pointing"]}
            assert pointed["pleural_effusion"].near.value > 2 * pointed["pleural_effusion"].near_chance
    for pair in PAIRS:
        assert found["observations"][pair] > 0.95
        assert found["whole"][pair] < 0.9, "the head for whole films was never taught"
    scores = pl.read_parquet(tmp_path / "observations" / "scores.parquet")
    assert scores["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-10 * scores["difference"].to_numpy())))


def test_models_without_observations_say_so(bert: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path, film_release(bert))
    with pytest.raises(ModelError, match="no queries that observe") as refused:
        load_model(folder, "observations")
    assert refused.value.code == "no_observations"


def test_the_command_reads_them(run: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ctglip.cli.main import app

    rng = np.random.default_rng(5)
    truth = {"heart:cardiomegaly": 0, "pleura_left:pleural_effusion": 1, "pleura_right:pleural_effusion": 0}
    Image.fromarray(draw_film(rng, truth)).save(tmp_path / "film.png")
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
        app, ["query", str(run), str(tmp_path / "film.png"), *out, "--read", "observations", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert done.output.count("the film's observations") == 2
    assert list((tmp_path / "maps").rglob("*.npy"))
