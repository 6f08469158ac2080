"""Fine-tuning from a run to a page: what is learned, what is kept, what goes on after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ctglip.api import load_model
from ctglip.config import validate
from ctglip.errors import ConfigError
from ctglip.evaluation.encoded import SplitEncoder
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.inference.scoring import Scorer
from ctglip.models.lora import add_lora, merged
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization
from ctglip.tasks.classification import Classification
from ctglip.tasks.inputs import cached_features, image_inputs
from ctglip.tasks.network import build_network
from ctglip.tasks.release import FinetunedModel
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.studies import TEST, VAL, join
from ctglip.tasks.targets import read_targets
from ctglip.tasks.tuning import finetune
from ctglip.training.callbacks import Callbacks

Tiny = tuple[Store, Path]


def config(**more) -> FinetuneConfig:
    tree = {
        "fit": {"epochs": 6, "batch": 12, "device": "cpu", "threads": 1},
        "scratch_fit": {"epochs": 2, "batch": 12, "device": "cpu", "threads": 1},
        "evaluate": {"draws": 50, "min_positives": 1},
        **more,
    }
    return validate(FinetuneConfig, tree, "test")


def probe(**more) -> FinetuneConfig:
    fit = {"epochs": 120, "batch": 12, "device": "cpu", "threads": 1}
    return config(fit=fit, optim={"lr": 0.02, "warmup": 0}, **more)


@pytest.fixture(scope="module")
def probed(run: Path, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory):
    """A linear probe beside a start from random weights, at two shares of the labels, with two seeds."""
    out = tmp_path_factory.mktemp("probed")
    settings = probe(fractions=(0.3, 1.0), seeds=(0, 1), baselines=("scratch",))
    return finetune(run, tiny[0].path, out, tiny[1], settings), out


def test_plain_findings_are_learned_from_labels(probed) -> None:
    results, _ = probed
    assert results.score.value is not None
    assert results.score.value > 0.85
    assert {pair.abnormality for pair in results.pairs} == {
        "liver:hepatic_steatosis", "spleen:splenomegaly", "kidney_left:renal_cyst"
    }  # fmt: skip


def test_the_files_agree_with_scikit_learn(probed) -> None:
    results, out = probed
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results.to_json()))
    scores = pl.read_parquet(out / "scores.parquet").filter(pl.col("split") == TEST)
    for pair in results.pairs:
        rows = scores.filter(pl.col("column") == pair.abnormality).drop_nulls("label")
        assert pair.auroc.value == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))
        assert (rows.height, rows["label"].sum()) == (pair.n, pair.positives)
    page = (out / "report.html").read_text()
    assert "linear probe" in page
    assert "Initialization: scratch" in page


def test_thresholds_come_from_validation(probed) -> None:
    results, out = probed
    scores = pl.read_parquet(out / "scores.parquet").filter(pl.col("split") == VAL)
    for pair in results.pairs:
        rows = scores.filter(pl.col("column") == pair.abnormality).drop_nulls("label")
        assert pair.at is not None
        assert rows["probability"].min() <= pair.at.threshold <= rows["probability"].max()  # type: ignore[operator]


def test_every_start_share_and_seed_is_there_with_paired_differences(probed) -> None:
    results, _ = probed
    points = {(point.initialization, point.fraction): point for point in results.points}
    assert set(points) == {("run", 0.3), ("run", 1.0), ("scratch", 0.3), ("scratch", 1.0)}
    assert [points["run", share].patients for share in (0.3, 1.0)] == [11, 36]
    for point in results.points:
        assert len(point.seeds) == 2
        assert point.score.value == pytest.approx(np.mean(point.seeds))
    assert {(d.fraction, d.other_fraction) for d in results.differences} == {(0.3, 0.3), (0.3, 1.0), (1.0, 1.0)}
    for d in results.differences:
        expected = points["run", d.fraction].score.value - points["scratch", d.other_fraction].score.value
        assert d.difference.value == pytest.approx(expected)
        assert d.difference.low <= d.difference.value <= d.difference.high
    assert "run at 30% minus scratch at 100%" in results.headline()


def test_the_tuned_model_answers_as_it_was_judged(probed, tiny: Tiny) -> None:
    results, out = probed
    scores = pl.read_parquet(out / "scores.parquet").filter(pl.col("split") == TEST)
    said = FinetunedModel(out).predict(tiny[0], sorted(set(scores["study_id"])))
    both = said.join(scores, on=["study_id", "column"], suffix="_judged")
    assert both.height == scores.height
    np.testing.assert_allclose(both["probability"], both["probability_judged"], atol=1e-5)
    at = {pair.abnormality: pair.at.threshold for pair in results.pairs}
    assert all(row["yes"] == (row["probability"] >= at[row["column"]]) for row in said.iter_rows(named=True))
    assert load_model(out).release.provenance["finetuned"]["mode"] == "probe"


def written(out: Path) -> dict[str, int]:
    """When each cell was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "runs").glob("*/run.json")}


@pytest.mark.slow
@pytest.mark.ci
def test_it_goes_on_where_it_was_stopped_and_ends_the_same(probed, run: Path, tiny: Tiny, tmp_path: Path) -> None:
    results, _ = probed
    settings = probe(fractions=(0.3, 1.0), seeds=(0, 1), baselines=("scratch",))

    class Killed(Exception):
        pass

    def kill(done: int, of: int) -> None:
        if done > 0.4 * of:
            raise Killed

    with pytest.raises(Killed):
        finetune(run, tiny[0].path, tmp_path, tiny[1], settings, callbacks=Callbacks(progress=kill))
    before = written(tmp_path)
    assert before
    with pytest.raises(ConfigError, match="already holds"):
        finetune(run, tiny[0].path, tmp_path, tiny[1], settings)
    with pytest.raises(ConfigError, match="seeds: "):
        finetune(run, tiny[0].path, tmp_path, tiny[1], settings.model_copy(update={"seeds": (5,)}), resume=True)
    again = finetune(run, tiny[0].path, tmp_path, tiny[1], settings, resume=True)
    assert again.to_json() == results.to_json()
    assert (
        before.items() <= {p.parent.name: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/run.json")}.items()
    )


def test_the_head_starts_as_the_zero_shot_answer(run: Path, tiny: Tiny) -> None:
    """Before its first step a head from text says what ``evaluate`` says."""
    store, truth = tiny
    release = load_release(run)
    scorer = Scorer(release)
    table = read_targets(truth, scorer.dictionaries, release.organs)
    studies = join(table, store)
    source = cached_features(store, release, studies, config())
    own = Initialization("run", release, False, "head")
    network = build_network(own, studies.targets, source.bags.organs, config())
    task = Classification(config(), studies, {own.name: source})
    logits = task.answer(network, own, studies.of(TEST), 8).logits
    labels = read_targets(truth, scorer.dictionaries, release.organs).labels
    split = SplitEncoder(store=store, scorer=scorer, config=EvaluateConfig(device="cpu"), table=labels).encode(TEST)
    for number, target in enumerate(studies.targets):
        pair = (target.organs[0], target.abnormality or "")
        expected = scorer.calibration.probabilities(split.differences[pair])
        np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, number])), expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["head", "lora", "full"])
def test_each_mode_trains_what_it_says(run: Path, tiny: Tiny, tmp_path: Path, mode: str) -> None:
    settings = config(mode=mode, fit={"epochs": 2, "patience": 0, "batch": 12, "device": "cpu", "threads": 1})
    results = finetune(run, tiny[0].path, tmp_path, tiny[1], settings)
    before, after = load_release(run).model.state_dict(), load_release(tmp_path).model.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    best = json.loads((tmp_path / "runs" / "run-1-0" / "run.json").read_text())["best"]
    trained = {"head": {"diagnosis_head"}, "lora": {"diagnosis_head", "encoder"}}
    expected = trained.get(mode, {"diagnosis_head", "encoder", "region_reader"})
    assert changed == (expected if best else set())
    assert results.mode == mode


def test_layers_further_down_are_trained_more_slowly(run: Path, tiny: Tiny) -> None:
    from ctglip.training.optim import OptimSettings, build_optimizer

    release = load_release(run)
    targets = join(read_targets(tiny[1], Scorer(release).dictionaries, release.organs), tiny[0]).targets
    network = build_network(
        Initialization("run", release, False, "full"), targets, ("liver", "spleen", "kidney_left"), config()
    )
    optimizer = build_optimizer(network, OptimSettings(layer_decay=0.5))
    scale = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(network.named_parameters())
    first = scale[id(named["model.encoder.stem.0.weight"])]
    last = scale[id(named["model.encoder.stages.1.0.first.weight"])]
    assert first < last <= scale[id(named["head.weight"])] == 1.0


def test_low_rank_updates_start_at_nothing_and_fold_into_the_weights(run: Path) -> None:
    encoder = load_release(run).model.encoder
    image = torch.randn(2, 3, 16, 16, 16)
    plain = encoder(image).pooled
    add_lora(encoder, 2)
    torch.testing.assert_close(encoder(image).pooled, plain)
    for name, value in encoder.named_parameters():
        if value.requires_grad:
            assert name.endswith(("up", "down.weight", "down"))
            torch.nn.init.normal_(value, std=0.1)
    moved = encoder(image).pooled
    assert not torch.allclose(moved, plain, atol=1e-3)
    folded = merged(encoder)
    torch.testing.assert_close(folded(image).pooled, moved, atol=1e-4, rtol=1e-4)
    assert set(folded.state_dict()) == set(load_release(run).model.encoder.state_dict())


def test_frozen_features_are_those_of_the_live_model(run: Path, tiny: Tiny) -> None:
    store, truth = tiny
    release = load_release(run)
    studies = join(read_targets(truth, Scorer(release).dictionaries, release.organs), store)
    kept, live = cached_features(store, release, studies, config()), image_inputs(store, release, studies, config())
    np.testing.assert_array_equal(kept.bags.study, live.bags.study)
    network = build_network(
        Initialization("run", release, False, "full"), studies.targets, kept.bags.organs, config()
    ).eval()
    rows = np.arange(10)
    with torch.no_grad():
        inputs = live.read(rows, None)
        torch.testing.assert_close(network.read(inputs), kept.features[:10], atol=1e-5, rtol=1e-5)
    changed = live.read(rows, np.random.default_rng(0))
    assert not isinstance(changed, torch.Tensor)
    assert not torch.equal(changed["images"], inputs["images"])  # type: ignore[index]


def test_a_study_level_column_is_read_where_the_truth_lies(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    """The label is the liver's, the column does not say so: attention finds the liver, and the page says it. Beside it
    a column of three classes, made of liver and spleen, with holes."""
    store, truth = tiny
    table = pl.read_csv(truth, schema_overrides={"study_id": pl.String})
    fat, large = table["liver:hepatic_steatosis"], table["spleen:splenomegaly"]
    grade = pl.Series(["none", "one", "both"])[(fat + large).to_list()]
    holes = pl.Series([None if number % 7 == 0 else value for number, value in enumerate(grade)])
    pl.DataFrame({"study_id": table["study_id"], "odd": fat, "grade": holes}).write_csv(tmp_path / "labels.csv")
    columns = {"odd": {"organs": ["all"]}, "grade": {"organs": ["liver", "spleen"], "classes": ["none", "one", "both"]}}
    results = finetune(run, store.path, tmp_path / "out", tmp_path / "labels.csv", probe(columns=columns))
    assert max(results.attention["odd"], key=results.attention["odd"].__getitem__) == "liver"
    assert sum(results.attention["odd"].values()) == pytest.approx(1.0)
    judged = {pair.abnormality: pair.auroc.value for pair in results.pairs}
    assert {"odd", "grade = none", "grade = one", "grade = both"} == {*judged, *results.left_out}
    assert judged["odd"] is not None
    assert judged["odd"] > 0.85
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet").filter(pl.col("column") == "grade")
    total = scores.group_by("study_id").agg(pl.col("probability").sum(), pl.col("label").sum())
    np.testing.assert_allclose(total["probability"], 1.0, atol=1e-6)
    assert "Attention over organs" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_permuted_labels_are_not_learned(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    """Over several permutations the macro AUROC on the test split is that of guessing."""
    store, truth = tiny
    table = pl.read_csv(truth, schema_overrides={"study_id": pl.String})
    found = []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(table.height)
        shuffled = table.select(pl.exclude("study_id"))[order.tolist()].insert_column(0, table["study_id"])
        shuffled.write_csv(tmp_path / f"{seed}.csv")
        settings = config(fit={"epochs": 25, "batch": 12, "device": "cpu", "threads": 1})
        found.append(finetune(run, store.path, tmp_path / str(seed), tmp_path / f"{seed}.csv", settings).score.value)
    assert abs(np.mean(found) - 0.5) < 0.15


def test_a_column_that_the_test_split_cannot_judge_is_listed(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    store, truth = tiny
    test = store.table("splits").filter(pl.col("split") == TEST)["study_id"].to_list()
    table = pl.read_csv(truth, infer_schema=False)
    cyst = pl.when(pl.col("study_id").is_in(test)).then(pl.lit("0")).otherwise(pl.col("kidney_left:renal_cyst"))
    table.with_columns(cyst.alias("kidney_left:renal_cyst")).write_csv(tmp_path / "labels.csv")
    results = finetune(run, store.path, tmp_path / "out", tmp_path / "labels.csv", config())
    assert results.left_out == ("kidney_left:renal_cyst",)
    assert [(problem.code, problem.subject) for problem in results.problems] == [("few_labels", results.left_out[0])]
    assert "few_labels" in (tmp_path / "out" / "problems.csv").read_text()
    assert "learned but not judged" in (tmp_path / "out" / "report.html").read_text()


def test_kept_features_are_fitted_on_one_thread_with_the_same_answer(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    before, seen, found = torch.get_num_threads(), [], []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        settings = probe(seeds=(0,))
        counted = lambda done, of: seen.append(torch.get_num_threads()) if 0 < done < of else None  # noqa: E731
        finetune(run, tiny[0].path, tmp_path / str(threads), tiny[1], settings, callbacks=Callbacks(progress=counted))
        assert torch.get_num_threads() == threads
        found.append((tmp_path / str(threads) / "metrics.jsonl").read_text())
    torch.set_num_threads(before)
    assert set(seen) == {1}
    assert found[0] == found[1]
