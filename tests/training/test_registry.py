"""Every objective can be trained from a config: what it is fed with, what it is built of, and that inference reads what
training read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ctglip.api import load_model
from ctglip.config import merge, validate
from ctglip.data.scans import ScanSettings, cut_scan, render_scans
from ctglip.errors import ConfigError, ModelError
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.inference.model_readers import reader_of
from ctglip.models.release import load_release
from ctglip.objectives.base import total
from ctglip.objectives.contrast import ContrastSettings, key_findings
from ctglip.objectives.mixture import Mixture
from ctglip.objectives.text_contrast import OrganText
from ctglip.store.study import organ_row
from ctglip.store.tables import Store
from ctglip.training.assembly import Assembly, assemble
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.training.conftest import BOTH, SCANS, tiny_config
from tests.training.tiny import tiny_study, write_tiny_store

WHOLE: dict[str, Any] = {"data": SCANS}
KINDS: dict[str, dict[str, Any]] = {
    "organ_text": {},
    "organ_text, lora": {"text": {"train": "lora"}},
    "organ_text, full": {"text": {"train": "full"}},
    "organ_text, hierarchy": {"objective": {"name": "organ_text", "targets": "hierarchy"}},
    "organ_text, mask": {**WHOLE, "model": {"regions": {"name": "mask", "pooling": "attention"}}},
    "organ_query, mask": {
        **WHOLE,
        "model": {"regions": {"name": "mask"}},
        "objective": {"name": "organ_query", "negatives": "same_organ"},
    },
    "organ_query, box": {**WHOLE, "model": {"regions": {"name": "box"}}, "objective": {"name": "organ_query"}},
    "organ_query, query": {**WHOLE, "model": {"regions": {"name": "query"}}, "objective": {"name": "organ_query"}},
    "organ_query, crop": {"objective": {"name": "organ_query"}},
    "global_pair": {**WHOLE, "objective": {"name": "global_pair"}},
    "global_pair, sentence": {
        "data": {**SCANS, "text": "sentence"},
        "objective": {"name": "global_pair", "targets": "equal_key"},
    },
    "mixture": {
        "data": BOTH,
        "objective": {
            "name": "mixture",
            "parts": {"organs": {"name": "organ_text"}, "scans": {"name": "global_pair"}},
            "weights": {"organs": 1.0, "scans": [[0.0, 0.1], [0.5, 1.0]]},
        },
    },
}


@pytest.fixture
def assembled(tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path):
    def make(kind: str, **changes: Any) -> Assembly:
        return assemble(tiny[0], tmp_path / "run", tiny_config(word_bert, merge(KINDS[kind], changes)), "cpu")

    return make


def rows_of(samples: Any) -> list[Any]:
    return [one for part in samples.values() for one in part] if isinstance(samples, dict) else list(samples)


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_model_learns_from_the_first_batch(assembled, kind):
    parts = assembled(kind)
    losses, report = parts.objective(parts.batch(0))
    total(losses).backward()
    assert np.isfinite(total(losses).item())
    assert not [n for n, p in parts.objective.named_parameters() if p.requires_grad and p.grad is None]
    assert any(name.endswith("temperature") for name in report)
    assert parts.learned_scale() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "hierarchy" not in kind])
def test_batches_depend_on_the_step_alone_and_ranks_share_them(assembled, kind):
    one, other = assembled(kind), assembled(kind)
    other.samples(3)
    whole, again = rows_of(one.samples(1)), rows_of(other.samples(1))
    assert [np.asarray(s.text_id).tolist() for s in whole] == [np.asarray(s.text_id).tolist() for s in again]
    shared = []
    for rank in range(2):
        one.rank, one.world = rank, 2
        shared += rows_of(one.samples(1))
    prints = [sorted(float(np.abs(s.image).sum()) for s in samples) for samples in (whole, shared)]
    assert prints[0] == pytest.approx(prints[1], rel=1e-6)
    texts = [sorted(str(np.asarray(s.text_id).tolist()) for s in samples) for samples in (whole, shared)]
    assert texts[0] == texts[1]
    assert one.studies(1) == other.studies(1)


def test_every_scan_is_seen_once_before_any_is_seen_again(assembled):
    parts = assembled("global_pair")
    source = parts.sources["global_pair"]
    steps = len(source.study_ids) // 4
    seen = [name for step in range(steps) for name in parts.studies(step)]
    assert len(seen) == len(set(seen)) == 4 * steps
    assert [name for step in range(steps, 2 * steps) for name in parts.studies(step)] != seen


def test_reports_are_read_whole_or_by_the_sentence(assembled):
    whole, parts = assembled("global_pair"), assembled("global_pair, sentence")
    reports, sentences = whole.sources["global_pair"].texts, parts.sources["global_pair"].texts
    assert all(report.count(".") == 3 for report in reports)
    assert all(sentence.count(".") == 1 for sentence in sentences)
    assert {s for report in reports for s in report.split(". ")} <= {s.rstrip(".") for s in sentences} | set(sentences)
    drawn = {sample.report for step in range(30) for sample in parts.samples(step)}
    assert len(drawn) == len(sentences)


def test_a_scan_meets_its_own_report(assembled, tiny):
    parts = assembled("global_pair", data={"shift_hu": 0.0})
    table = tiny[0].table("findings")
    for name, sample in zip(parts.studies(2), parts.samples(2), strict=True):
        rows = table.filter(table["study_id"] == name)
        text = parts.objective.texts.bank.texts(torch.tensor([sample.report]))[0]
        assert text == " ".join(dict.fromkeys(rows["sentence"].to_list()))
        study = tiny[0].study(name)
        cut = cut_scan(study.image(), None, study.affine, ScanSettings.model_validate(parts.release.scans))
        shown = render_scans(cut.hu, ScanSettings.model_validate(parts.release.scans))
        np.testing.assert_array_equal(sample.image, shown)


@pytest.mark.parametrize("kind", ["organ_text", "organ_text, mask"])
@pytest.mark.parametrize("negatives", ["none", "batch", "random", "same_organ", "confusable"])
def test_negatives_are_chosen_by_the_config(assembled, kind, negatives):
    parts = assembled(kind, objective={"name": "organ_text", "negatives": negatives})
    batch = parts.batch(0)
    if negatives in ("none", "batch"):
        assert batch.negative_ids.shape[1] == 0
        return
    assert batch.negative_ids.shape[1] == 8
    bank = parts.objective.texts.bank
    organs = [parts.release.organs[i] for i in batch.organ_id]
    words = {"liver": ("steato", "fatty"), "spleen": ("splenomeg", "enlarg"), "kidney_left": ("cyst",)}
    strange = 0
    for organ, row in zip(organs, batch.negative_ids, strict=True):
        for text in bank.texts(row[row >= 0]):
            strange += not any(word in text.lower() for word in words[organ])
    assert (strange > 0) == (negatives == "random")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps", "least"), [("organ_text, mask", 240, 0.8), ("organ_query, query", 400, 0.7)])
def test_organs_are_learned_from_whole_scans(word_bert, tmp_path, kind, steps, least):
    """The median of three small trainings: single ones vary by what their batches hold."""
    store, _ = write_tiny_store(tmp_path / "store", 150, seed=3)
    scans = {"data": {"input": {"grid": [20, 20, 20]}, "batch": 12}}
    quiet = {"log_every": steps, "checkpoint_every": steps, "pairs": 0, "trackers": []}
    found = []
    for seed in range(3):
        run = tmp_path / f"run{seed}"
        pretrain(
            store.path, run, tiny_config(word_bert, merge(KINDS[kind], scans), {"seed": seed}, steps=steps, **quiet)
        )
        found.append(read_metrics(run)[-1]["val_macro_auroc"])
    assert sorted(found)[1] > least, found


def test_permuted_reports_belong_to_other_scans(assembled):
    plain, control = (assembled("global_pair", data={"permute_texts": flag}) for flag in (False, True))
    pairs = [
        {name: s.report for step in range(6) for name, s in zip(p.studies(step), p.samples(step), strict=True)}
        for p in (plain, control)
    ]
    same = np.mean([pairs[0][name] == pairs[1][name] for name in pairs[0]])
    assert same < 0.7
    assert sorted(map(len, plain.sources["global_pair"].texts)) == sorted(
        map(len, control.sources["global_pair"].texts)
    )


@pytest.mark.parametrize(
    "kind", ["organ_text, mask", "organ_query, mask", "organ_query, box", "organ_query, query", "global_pair"]
)
def test_inference_reads_what_training_read(assembled, tiny, kind):
    parts = assembled(kind, data={"shift_hu": 0.0})
    store = tiny[0]
    parts.release.model.eval()
    settings = ScanSettings.model_validate(parts.release.scans)
    batch, studies = parts.batch(0), parts.studies(0)
    with torch.no_grad():
        trained = parts.objective.encode(batch)
    for number, name in enumerate(studies):
        study = store.study(name)
        rows = {row["organ"]: organ_row(row) for row in study.rows("organs")}
        cut = cut_scan(study.image(), study.organs(), study.affine, settings)
        if kind == "global_pair":
            asked = [rows["liver"], rows["spleen"]]
            expected = trained["image"][[number, number]]
        else:
            mine = batch.study_index == number
            asked = [rows[parts.release.organs[i]] for i in batch.organ_id[mine].tolist()]
            expected = trained["organ"][mine]
        found = reader_of(parts.release).encode([cut], [asked])
        torch.testing.assert_close(torch.from_numpy(found.features), expected, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found.diagnosis, axis=1), 1, atol=1e-5)


def test_scans_without_masks_are_asked_for_the_organs_that_their_reports_speak_of(tiny, word_bert, tmp_path):
    copy = shutil.copytree(tiny[0].path, tmp_path / "store", ignore=shutil.ignore_patterns("derived"))
    store = Store.open(copy)
    plain, scanned = store.table, store.scan

    def table(name: str) -> Any:
        return plain(name).clear() if name == "organs" else plain(name)

    def scan(name: str) -> Any:
        return scanned(name).clear() if name == "organs" else scanned(name)

    store.table, store.scan = table, scan  # pyright: ignore[reportAttributeAccessIssue]
    config = tiny_config(word_bert, KINDS["organ_query, query"])
    parts = assemble(store, tmp_path / "run", config, "cpu")
    sample = parts.samples(0)[0]
    names = {parts.release.organs[i] for i in sample.organ_id}
    assert names <= {"liver", "spleen", "kidney_left"}
    assert (sample.text_id >= 0).any()
    assert not sample.size.any()


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("kind", ["organ_text, mask", "organ_query, query", "global_pair", "mixture"])
def test_a_run_ends_in_a_model_that_can_be_read(tiny, word_bert, tmp_path, kind):
    config = tiny_config(word_bert, KINDS[kind], validate_every=3)
    folder = pretrain(tiny[0].path, tmp_path / "run", config)
    release = load_release(folder)
    assert (release.scans is None) == (kind == "organ_text")
    assert release.provenance["trained"]["liver"] == ["hepatic_steatosis"]
    assert release.calibration["learned_scale"] == pytest.approx(1 / 0.07, rel=0.2)
    assert PretrainConfig.model_validate(config.model_dump(mode="json")) == config
    asked = EvaluateConfig(draws=20, min_positives=1, parts=(), pictures=False, device="cpu")
    results = evaluate(tmp_path / "run", tiny[0].path, tmp_path / "out", labels=tiny[1], config=asked)
    again = evaluate(tmp_path / "run", tiny[0].path, tmp_path / "again", labels=tiny[1], config=asked)
    assert again.macro_auroc == results.macro_auroc
    scan, labels, _, _ = tiny_study(np.random.default_rng(5))
    answers = load_model(tmp_path / "run").query(scan, ["liver: fatty liver", "spleen: splenomegaly"], labels).answers
    assert all(answer.probability is not None and 0 < answer.probability < 1 for answer in answers)


def test_an_organ_too_small_for_the_grid_is_not_asked_about(tiny, word_bert, tmp_path):
    coarse = {"data": {"input": {"grid": [4, 4, 4]}}, "model": {"encoder": {"stem_stride": 1}}}
    config = tiny_config(word_bert, merge(KINDS["organ_text, mask"], coarse))
    parts = assemble(tiny[0], tmp_path / "run", config, "cpu")
    study = tiny[0].study("s000")
    rows = [organ_row(row) for row in study.rows("organs") if row["organ"] in ("liver", "spleen", "kidney_left")]
    cut = cut_scan(study.image(), study.organs(), study.affine, config.data.input)
    assert cut.labels is not None
    organs = load_organs()
    reader = reader_of(parts.release)
    there = reader.visible(cut, rows, "mask")
    assert there == [bool(np.isin(cut.labels, list(organs.roi_labels(row.organ))).any()) for row in rows]
    gone = replace(cut, labels=np.zeros_like(cut.labels))
    assert reader.visible(gone, rows, "mask") == [False] * len(rows)


@pytest.mark.parametrize(
    "text",
    [
        {"train": {"name": "lora", "rank": 2}},
        {"train": "full"},
        {"train": {"name": "last", "layers": 1}},
        {"train": "norms"},
    ],
    ids=str,
)
def test_a_text_encoder_trained_along_travels_with_the_model(tiny, word_bert, tmp_path, text):
    config = tiny_config(word_bert, {"text": text}, steps=3)
    folder = pretrain(tiny[0].path, tmp_path / "run", config)
    release = load_release(folder)
    assert release.text_settings.train.name == "frozen"
    prompt = next(iter(release.prompts))
    again = release.encoder().encode([prompt, "a text that was never seen"])
    torch.testing.assert_close(again[0], release.prompts[prompt], atol=1e-5, rtol=1e-5)
    frozen = assemble(tiny[0], tmp_path / "other", tiny_config(word_bert, {}), "cpu").release
    assert not torch.allclose(release.prompts[prompt], frozen.prompts[prompt], atol=1e-6)


def test_an_image_encoder_can_come_from_another_kind_of_run(tiny, word_bert, tmp_path):
    before = pretrain(tiny[0].path, tmp_path / "clip", tiny_config(word_bert, KINDS["global_pair"], steps=2))
    config = tiny_config(word_bert, {"model": {"encoder": {"weights": str(tmp_path / "clip"), "partial": True}}})
    parts = assemble(tiny[0], tmp_path / "run", config, "cpu")
    trained = load_release(before).model.encoder.state_dict()
    mine = parts.release.model.encoder.state_dict()
    deep = [name for name in mine if not name.startswith("stem.0")]
    assert all(torch.equal(mine[name], trained[name]) for name in deep)
    with pytest.raises(ModelError, match="other crops or scans"):
        assemble(tiny[0], tmp_path / "odd", config.model_copy(update={"initial": str(tmp_path / "clip")}), "cpu")


def test_configs_without_a_name_are_organ_texts(word_bert):
    old = validate(PretrainConfig, {"objective": {"diagnosis_weight": 2.0}}, "old")
    assert old.objective.name == "organ_text"
    assert PretrainConfig().objective.name == "organ_text"
    with pytest.raises(ConfigError, match=r"objective.*organ_txt"):
        validate(PretrainConfig, {"objective": {"name": "organ_txt"}}, "new")
    with pytest.raises(ConfigError, match=r"did you mean 'within_organ'"):
        validate(PretrainConfig, {"objective": {"name": "organ_query", "within_organs": True}}, "new")


def test_models_that_do_not_suit_the_objective_are_named(tiny, word_bert, tmp_path):
    faults = {
        "trains no model.regions": merge(KINDS["global_pair"], {"model": {"regions": {"name": "crop"}}}),
        "compares whole reports": {**WHOLE, "objective": {"name": "global_pair", "negatives": "same_organ"}},
        "trains no model.image": {"model": {"image": {"name": "pooled"}}},
        "trains no model.resampler": {"model": {"resampler": {"queries": 4}}},
        "trains no model.tags": {"model": {"tags": {"layers": 1}}},
        "there are crops alone": merge(KINDS["mixture"], {"data": {"scans": None}}),
        "data.name is crops": {"objective": {"name": "global_pair"}},
        "data.scans is set, and nothing reads it": {"data": BOTH},
        "data.negatives is set, and nothing reads it": merge(KINDS["global_pair"], {"data": {"negatives": 3}}),
        "has weights for": {"data": BOTH, "objective": {**KINDS["mixture"]["objective"], "weights": {"organs": 1.0}}},
    }
    for message, change in faults.items():
        with pytest.raises(ConfigError, match=message):
            assemble(tiny[0], tmp_path / "run", tiny_config(word_bert, change), "cpu")


@pytest.mark.parametrize("name", ["in_channels", "text_dim", "organs", "anatomy", "sizes", "grounding"])
def test_what_follows_from_other_settings_cannot_be_set(name):
    with pytest.raises(ConfigError, match=rf"model\.{name}: unknown setting"):
        validate(PretrainConfig, {"model": {name: 1}}, "new")


def test_an_objective_decides_which_heads_there_are(assembled):
    models = [assembled(kind).release.model for kind in ("organ_text", "global_pair", "mixture")]
    assert [(m.anatomy_head is not None, m.image_head is not None, m.reading) for m in models] == [
        (True, False, "crop"),
        (False, True, "none"),
        (True, True, "crop"),
    ]
    assert isinstance(assembled("mixture").objective, Mixture)


def test_what_a_text_affirms_is_true_above_it_too(assembled):
    organs, abnormalities = load_organs(), load_abnormalities()
    child = next(e for e in abnormalities.abnormalities.values() if e.parent and "liver" in e.organs)
    assert child.parent
    keys = [("kidney_left", frozenset({"renal_cyst"})), ("kidneys", frozenset({"renal_cyst"}))]
    keys += [("kidney_right", frozenset({"renal_cyst"})), ("liver", frozenset({child.name}))]
    keys += [("liver", frozenset({child.parent})), ("liver", frozenset())]
    context: Any = SimpleNamespace(keys=keys, organs=organs, abnormalities=abnormalities)
    found = key_findings(context, ContrastSettings(targets="hierarchy"))
    assert found is not None
    assert found.table.sum(1).tolist() == [1, 1, 1, 1, 1, 0]
    column = [int(row.argmax()) for row in found.table]
    implied = [[bool(found.related[column[i], column[j]]) for j in range(5)] for i in range(5)]
    assert implied == [
        [True, True, False, False, False],
        [False, True, False, False, False],
        [False, True, True, False, False],
        [False, False, False, True, True],
        [False, False, False, False, True],
    ]


def test_hierarchy_reaches_the_contrast(assembled):
    objective = assembled("organ_text, hierarchy").objective
    assert isinstance(objective, OrganText)
    findings = objective.contrast.findings
    assert findings is not None
    assert findings.table.sum() > 0
