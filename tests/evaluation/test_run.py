"""An evaluation: its files agree with each other and with scikit-learn, and the test split chooses nothing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from ctglip.data.crops import OrganCrop
from ctglip.data.organ_crops import cut_study
from ctglip.errors import CohortError, ConfigError, CTGLIPError, ModelError, StoreError
from ctglip.evaluation.bootstrap import draw_patients
from ctglip.evaluation.context import Context
from ctglip.evaluation.labels import PairLabels, labels_from_findings, labels_from_table
from ctglip.evaluation.parts import PARTS
from ctglip.evaluation.parts.protocol import load_protocol, protocol_names, protocol_scorer
from ctglip.evaluation.results import PartResult, Results
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import CxrEvaluation, EvaluateConfig
from ctglip.evaluation.zero_shot import evaluate_pairs
from ctglip.inference.scoring import Dictionaries
from ctglip.labels import read_labels
from ctglip.models.release import load_release
from ctglip.pages.parts import Table
from ctglip.reports.parser import ReportParser
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import OrganRow
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

CONFIG = EvaluateConfig(draws=100, min_positives=2, device="cpu")
Tiny = tuple[Store, Path, Path]


@pytest.fixture(scope="module")
def done(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    store, truth, run = tiny
    out = tmp_path_factory.mktemp("out")
    return evaluate(run, store.path, out, labels=truth, config=CONFIG), out


def test_the_files_agree_with_each_other_and_with_scikit_learn(done: tuple[Results, Path]) -> None:
    results, out = done
    written = json.loads((out / "results.json").read_text())
    assert written == json.loads(json.dumps(results.to_json()))
    scores = pl.read_parquet(out / "scores.parquet")
    each = []
    for pair in results.pairs:
        rows = scores.filter((pl.col("organ") == pair.organ) & (pl.col("abnormality") == pair.abnormality))
        assert (rows.height, rows["label"].sum()) == (pair.n, pair.positives)
        each.append(roc_auc_score(rows["label"], rows["probability"]))
        assert pair.auroc.value == pytest.approx(each[-1])
    assert results.macro_auroc.value == pytest.approx(np.mean(each))
    page = (out / "report.html").read_text()
    assert "Mask only" in page
    assert "Volume only" in page
    assert "splenomegaly" in page.lower()


def test_the_controls_are_measured_on_the_same_answers(done: tuple[Results, Path]) -> None:
    results, _ = done
    names = [control.name for control in results.controls if control.name != "Negative prompts in full"]
    assert names == ["Mask only", "Volume only", "Hand features"]
    volume = results.controls[1]
    assert (volume.pairs["spleen:splenomegaly"] or 0) > 0.95
    assert abs((volume.pairs["liver:hepatic_steatosis"] or 0) - 0.5) < 0.5
    for control in results.controls:
        assert set(control.pairs) == {f"{pair.organ}:{pair.abnormality}" for pair in results.pairs}
        assert results.macro_auroc.value is not None
        assert control.macro_auroc.value is not None
        expected = results.macro_auroc.value - control.macro_auroc.value
        assert control.difference.value == pytest.approx(expected)


def test_thresholds_come_from_the_validation_split(tiny: Tiny, done: tuple[Results, Path], tmp_path: Path) -> None:
    """Turning the test split's labels round changes no threshold, and turns every AUROC round."""
    store, truth, run = tiny
    test = store.table("splits").filter(pl.col("split") == "test")["study_id"].to_list()
    table = pl.read_csv(truth)
    names = [name for name in table.columns if name != "study_id"]
    turned = table.with_columns(
        pl.when(pl.col("study_id").is_in(test)).then(1 - pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in names
    )
    turned.write_csv(tmp_path / "turned.csv")
    other = evaluate(run, store.path, tmp_path, labels=tmp_path / "turned.csv", config=CONFIG)
    for before, after in zip(done[0].pairs, other.pairs, strict=True):
        assert before.at is not None
        assert after.at is not None
        assert before.at.threshold == after.at.threshold
        assert (before.auroc.value or 0) + (after.auroc.value or 0) == pytest.approx(1)


def test_kept_crops_change_nothing_and_serve_the_next_model_and_the_control(
    tiny: Tiny, done: tuple[Results, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, truth, run = tiny
    cut: list[str] = []

    def counted(study: StudyReader, *rest: Any) -> list[OrganCrop]:
        cut.append(study.study_id)
        return cut_study(study, *rest)

    monkeypatch.setattr("ctglip.data.organ_crops.cut_study", counted)
    for number in (0, 1):  # as for another model: its features are not there yet
        kept = CONFIG.model_copy(update={"crops": str(tmp_path / "crops"), "cache": str(tmp_path / f"{number}")})
        again = evaluate(run, store.path, tmp_path / f"out{number}", labels=truth, config=kept)
        assert again.macro_auroc == done[0].macro_auroc
        assert again.controls == done[0].controls
    assert len(cut) == len(set(cut)) > 0


def test_without_a_table_the_reports_are_the_labels_and_the_result_says_so(tiny: Tiny, tmp_path: Path) -> None:
    store, _, run = tiny
    results = evaluate(run, store.path, tmp_path, config=CONFIG)
    assert results.label_source == "findings of the store's reports"
    assert {pair.abnormality for pair in results.pairs} == {"hepatic_steatosis", "splenomegaly", "renal_cyst"}
    assert "findings of the store" in results.headline()


def test_faults_are_named(tiny: Tiny, tmp_path: Path) -> None:
    store, truth, run = tiny
    with pytest.raises(ModelError):
        evaluate(tmp_path, store.path, tmp_path, config=CONFIG)
    with pytest.raises(StoreError, match="split 'holdout'"):
        evaluate(run, store.path, tmp_path, split="holdout", config=CONFIG)
    with pytest.raises(CTGLIPError, match="No \\(organ, abnormality\\)"):
        evaluate(run, store.path, tmp_path, labels=truth, config=CONFIG.model_copy(update={"min_positives": 500}))
    pl.DataFrame({"study_id": ["s000"], "liver:purple": [1]}).write_csv(tmp_path / "odd.csv")
    with pytest.raises(CohortError, match="there is no abnormality 'purple'"):
        evaluate(run, store.path, tmp_path, labels=tmp_path / "odd.csv", config=CONFIG)
    read = CONFIG.model_copy(update={"cxr": CxrEvaluation(read="whole")})
    with pytest.raises(ConfigError, match=r"cxr\.\* are for radiographs"):
        evaluate(run, store.path, tmp_path, labels=truth, config=read)


def test_label_tables_are_checked_against_the_store(tiny: Tiny, tmp_path: Path) -> None:
    """Ids that match nothing are listed, or stop where none matches; so do another split and another patient."""
    store, truth, run = tiny
    table, path = pl.read_csv(truth, infer_schema=False), tmp_path / "labels.csv"

    def evaluate_on(frame: pl.DataFrame) -> Results:
        frame.write_csv(path, separator=";")
        return evaluate(run, store.path, tmp_path, labels=path, config=CONFIG.model_copy(update={"controls": False}))

    strangers = table.head(2).with_columns(study_id="x" + pl.col("study_id"))
    found = evaluate_on(pl.concat([table, strangers]))
    assert len(found.problems) == 1
    assert "2 studies of labels.csv are not in the store" in found.problems[0]
    known = {f"{pair.organ}:{pair.abnormality}" for pair in found.pairs} | set(found.left_out)
    assert known == set(table.columns[1:])
    with pytest.raises(CohortError, match=r"None of the 60 studies of .* is in .*store: it names 'xs0"):
        evaluate_on(table.with_columns(study_id="x" + pl.col("study_id")))
    train = store.table("splits").filter(pl.col("split") == "train")["study_id"]
    with pytest.raises(CohortError, match="is in the split 'test'"):
        evaluate_on(table.filter(pl.col("study_id").is_in(train.to_list())))
    with pytest.raises(CohortError, match="gives 60 studies to another patient"):
        evaluate_on(table.with_columns(patient_id=pl.lit("p")))
    with pytest.raises(CohortError, match="studies to another split"):
        evaluate_on(table.with_columns(split=pl.lit("test")))
    name = table.columns[1]
    with pytest.raises(CohortError, match="ask the same"):
        evaluate_on(table.with_columns(pl.col(name).alias(name.upper())))
    empty = evaluate_on(table.with_columns(pl.lit(None, dtype=pl.String).alias(name)))
    assert name in empty.left_out
    assert name in empty.headline()


def test_random_scores_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    labels, scores = {}, {}
    for number in range(12):
        known = PairLabels(np.arange(100), (rng.random(100) < 0.3).astype(int))
        labels["liver", f"a{number}"], scores["liver", f"a{number}"] = known, rng.random(100)
    weights = draw_patients(100, 400, rng)
    pairs, macro = evaluate_pairs(labels, scores, np.arange(100), weights, {})
    low, high = np.quantile(macro[1:], [0.025, 0.975])
    assert low < 0.5 < high
    assert high - low < 0.15
    assert sum((p.auroc.low or 0) <= 0.5 <= (p.auroc.high or 1) for p in pairs) >= 10


def instance(study: str, organ: str):
    from ctglip.data.samples import OrganInstance

    return OrganInstance(study, OrganRow(organ, (0, 1, 0, 1, 0, 1), 1.0, 0.0, False))


def test_labels_of_a_table_keep_unknown_cells_unknown(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("study_id,liver:liver_cyst,splenomegaly\na,1,0\nb,,1\nc,0,\n")
    table = read_labels(tmp_path / "labels.csv", load_organs(), load_abnormalities())
    instances = [instance(study, organ) for study in "abcd" for organ in ("liver", "spleen")]
    found = labels_from_table(table, instances, load_abnormalities())
    cyst, large = found["liver", "liver_cyst"], found["spleen", "splenomegaly"]
    assert (cyst.rows.tolist(), cyst.labels.tolist()) == ([0, 4], [1, 0])
    assert (large.rows.tolist(), large.labels.tolist()) == ([1, 3], [0, 1])


def test_labels_of_reports_know_affirmed_denied_uncertain_and_silent() -> None:
    parser = ReportParser()
    reports = {
        "a": "There is a liver cyst.",
        "b": "The liver is unremarkable.",
        "c": "Possible liver cyst.",
        "d": "The spleen is normal.",
        "e": "Hepatic steatosis.",
    }
    findings = {name: list(parser.parse(f"FINDINGS: {text}")) for name, text in reports.items()}
    instances = [instance(study, "liver") for study in reports]
    both = load_organs(), load_abnormalities()
    known = labels_from_findings(findings, instances, *both)["liver", "liver_cyst"]
    assert dict(zip(known.rows.tolist(), known.labels.tolist(), strict=True)) == {0: 1, 1: 0, 4: 0}
    lenient = labels_from_findings(findings, instances, *both, unmentioned_as_negative=True)["liver", "liver_cyst"]
    assert dict(zip(lenient.rows.tolist(), lenient.labels.tolist(), strict=True)) == {0: 1, 1: 0, 3: 0, 4: 0}


def test_every_part_answers(tiny: Tiny, tmp_path: Path) -> None:
    store, truth, run = tiny
    config = CONFIG.model_copy(update={"parts": tuple(PARTS), "controls": False})
    results = evaluate(run, store.path, tmp_path, labels=truth, config=config)
    written = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert list(written) == [name for name in PARTS if name not in ("localization", "protocol", "five_by_200", "tags")]
    names = [one["name"] for one in written["retrieval"]["directions"]]
    assert names[:2] == ["organ: image to text", "organ: text to image"]
    assert results.parts["swap"].n == len(store.table("splits").filter(pl.col("split") == "test"))
    assert set(results.parts["erasure"].pairs) == {f"{p.organ}:{p.abnormality}" for p in results.pairs}
    assert results.parts["prompts"].ensemble == pytest.approx(results.macro_auroc.value)


@dataclass(frozen=True)
class OrganCount(PartResult):
    """A part of one's own."""

    organs: int

    def tables(self, _: Dictionaries, /) -> tuple[Table, ...]:
        return (Table("count", "How many organs", "As told.", ("What", "Organs"), (("All", f"{self.organs}"),)),)


def test_a_part_of_ones_own_is_in_the_json_on_the_page_and_in_the_terminal(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(context: Context) -> OrganCount:
        return OrganCount(len(context.split.instances))

    monkeypatch.setitem(PARTS, "count", ("Counting", count))
    store, truth, run = tiny
    config = CONFIG.model_copy(update={"parts": ("count", "probe", "erasure"), "controls": False, "pictures": False})
    results = evaluate(run, store.path, tmp_path, labels=truth, config=config)
    assert json.loads((tmp_path / "results.json").read_text())["parts"]["count"] == {"organs": results.crops}
    assert "How many organs" in (tmp_path / "report.html").read_text()
    assert re.search(rf"How many organs\nWhat +Organs\nAll +{results.crops}", results.headline())
    changed = next(table for table in results.tables if table.key == "changed")
    assert [row[0] for row in changed.rows] == ["Linear probe", "Organ erased"]


def test_a_public_protocol_measures_whole_studies(tiny: Tiny, tmp_path: Path) -> None:
    store, truth, run = tiny
    table = pl.read_csv(truth).rename({"liver:hepatic_steatosis": "hepatic_steatosis"})
    table.write_csv(tmp_path / "table.csv")
    config = CONFIG.model_copy(update={"protocol": "merlin_30", "parts": (), "controls": False})
    found = evaluate(run, store.path, tmp_path, labels=tmp_path / "table.csv", config=config).parts["protocol"]
    assert [one.finding for one in found.findings] == ["splenomegaly", "hepatic_steatosis", "renal_cyst"]
    assert found.left_out["ascites"] == "the model knows none of its organs here"
    assert found.published[0]["model"] == "RADAR"
    assert all(one.at is not None for one in found.findings)
    with pytest.raises(ConfigError, match="no protocol 'imagenet'"):
        evaluate(run, store.path, tmp_path, labels=truth, config=CONFIG.model_copy(update={"protocol": "imagenet"}))


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_names_what_the_dictionaries_hold(name: str) -> None:
    organs, abnormalities = load_organs(), load_abnormalities()
    protocol = load_protocol(name)
    for finding in protocol.findings.values():
        assert finding.abnormality in abnormalities
        assert all(organ in organs.names for organ in finding.organs)
    assert all(0.5 < one.macro_auroc < 1 and one.source for one in protocol.published)
    findings = {"ct_rate_18": 18, "merlin_30": 30, "ct_rate_four_organs": 16, "fvlm_16": 16}
    assert len(protocol.findings) == findings.get(name, len(protocol.findings))


def test_a_protocol_may_ask_in_words_of_its_own(tiny: Tiny) -> None:
    protocol = load_protocol("fvlm_16")
    atelectasis = protocol.findings["Atelectasis"]
    assert (atelectasis.positive, atelectasis.negative) == (("Atelectatic.",), ("Not Atelectatic.",))
    scorer = protocol_scorer(load_release(tiny[2]), protocol)
    for organ in atelectasis.organs:
        assert scorer.prompts((organ, "atelectasis")) == (("Atelectatic.",), ("Not Atelectatic.",))


def test_own_prompts_and_public_rules_are_named(tiny: Tiny, tmp_path: Path) -> None:
    store, truth, run = tiny
    (tmp_path / "prompts.yaml").write_text("liver:hepatic_steatosis: {positive: [Fatty liver.], negative: [Dense.]}")
    own = CONFIG.model_copy(update={"prompts": str(tmp_path / "prompts.yaml"), "parts": (), "controls": False})
    assert "own prompts for 1 of" in evaluate(run, store.path, tmp_path, labels=truth, config=own).prompts
    public = CONFIG.model_copy(
        update={"wording": "single", "threshold": "test_roc_corner", "parts": (), "controls": False}
    )
    results = evaluate(run, store.path, tmp_path, labels=truth, config=public)
    assert results.prompts.startswith("single prompts")
    assert "on the evaluated labels themselves" in results.threshold_source
    with pytest.raises(ConfigError, match="no part 'magic'"):
        evaluate(run, store.path, tmp_path, labels=truth, config=CONFIG.model_copy(update={"parts": ("magic",)}))


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_a_fitted_weight_of_negative_prompts_stands_beside_a_weight_of_one(
    tiny: Tiny, tmp_path: Path, weight: float
) -> None:
    store, truth, run = tiny
    config = CONFIG.model_copy(update={"parts": (), "pictures": False, "cache": str(tmp_path / "cache")})
    plain, fitted = tmp_path / "one", tmp_path / "fitted"
    for folder, value in ((plain, 1.0), (fitted, weight)):
        shutil.copytree(run / "model", folder)
        calibration = json.loads((folder / "calibration.json").read_text())
        (folder / "calibration.json").write_text(json.dumps({**calibration, "negative_weight": value}))
    results = evaluate(fitted, store.path, tmp_path / "out", labels=truth, config=config)
    in_full = [control for control in results.controls if control.name == "Negative prompts in full"]
    if weight == 1:
        assert not in_full
        return
    other = evaluate(plain, store.path, tmp_path / "other", labels=truth, config=config)
    assert in_full[0].macro_auroc == other.macro_auroc
    assert "0.25 was fitted" in in_full[0].explanation


def test_every_stage_is_named_before_it_is_counted(tiny: Tiny, tmp_path: Path) -> None:
    store, truth, run = tiny
    seen: list[tuple[str, list[tuple[int, int]]]] = []
    evaluate(
        run,
        store.path,
        tmp_path,
        labels=truth,
        config=CONFIG.model_copy(update={"parts": ("retrieval", "probe", "erasure"), "cache": str(tmp_path / "cache")}),
        progress=lambda done, of: seen[-1][1].append((done, of)),
        stage=lambda name: seen.append((name, [])),
    )
    names = [name for name, _ in seen]
    assert names == [
        "Prompts", "Encoding the split test", "Encoding the split val", "Intervals", "Controls", "Hand features",
        "Retrieval",
        "Linear probe", "Encoding the split train", "Linear probe", "Erased organs", "Recognition and calibration",
        "Tables and page",
    ]  # fmt: skip
    counted = dict(seen)
    for name in ("Encoding the split test", "Encoding the split train", "Retrieval", "Linear probe", "Erased organs"):
        assert counted[name][-1][0] == counted[name][-1][1], name


def test_a_probe_answers_alike_on_any_number_of_threads(tiny: Tiny, tmp_path: Path) -> None:
    store, truth, run = tiny
    settings = CONFIG.model_copy(update={"parts": ("probe", "map")})
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            found.append(evaluate(run, store.path, tmp_path / str(threads), labels=truth, config=settings).parts)
    torch.set_num_threads(before)
    assert found[0] == found[1]
