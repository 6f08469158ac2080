"""Reports are written organ by organ: they say what is in the images, better than templates, and nothing without
images; settings, baselines and folders do what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ctglip.config import validate
from ctglip.errors import CohortError, ModelError
from ctglip.evaluation.bootstrap import draw_patients
from ctglip.inference.scoring import Dictionaries, dictionaries_of
from ctglip.models.release import load_release
from ctglip.reports.parser import get_parser
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization
from ctglip.tasks.passages import Passages, read_passages
from ctglip.tasks.report_baselines import PassageBaselines
from ctglip.tasks.report_generation import ReportGeneration
from ctglip.tasks.report_scores import PassageJudge
from ctglip.tasks.report_settings import ReportTaskSettings, WritingSettings
from ctglip.tasks.report_writer import build_writer, load_writer, pieces_for, save_writer
from ctglip.tasks.results import BootstrapPatients, TaskRun
from ctglip.tasks.runs import train_run
from ctglip.tasks.settings import FinetuneConfig, ReportConfig
from ctglip.tasks.studies import Studies
from ctglip.tasks.tuning import finetune
from ctglip.training.callbacks import Callbacks, Stopped
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.training.tiny import write_tiny_store


def config(**more) -> ReportConfig:
    fit = {"epochs": 14, "patience": 0, "batch": 4, "device": "cpu"}
    tree = {
        "task": "report",
        "report": {"language": {"width": 32, "layers": 1, "heads": 2, "vocabulary": 300}, **more.pop("report", {})},
        "optim": {"lr": 0.01, "warmup": 0},
        "fit": {**fit, **more.pop("fit", {})},
        "evaluate": {"draws": 20},
        **more,
    }
    return validate(FinetuneConfig, tree, "test")


def opened(store: Store, run: Path, settings: ReportConfig) -> tuple[ReportGeneration, Initialization]:
    start = Initialization("run", load_release(run), False, "probe")
    return ReportGeneration.open(store, [start], settings, None, Callbacks()), start


@pytest.fixture(scope="module")
def tuned(run: Path, tiny: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report task that is trained."""
    out = tmp_path_factory.mktemp("report") / "out"
    finetune(run, tiny[0].path, out, None, config())
    return out


def test_reports_say_what_the_images_show(tuned: Path) -> None:
    results = json.loads((tuned / "results.json").read_text())
    points = {one["initialization"]: one for one in results["points"]}
    assert points.keys() == {"run", "normal", "neighbour", "classifier", "zero_shot"}
    assert points["normal"]["more"]["affirmed_f1"]["value"] == 0
    assert points["run"]["score"]["value"] > points["normal"]["score"]["value"] + 0.2
    assert points["run"]["more"]["affirmed_f1"]["value"] > 0.6
    more = points["run"]["more"]
    assert {"hallucination_rate", "omission_rate", "bleu4", "rouge_l"} <= more.keys()
    assert results["metric"] == "clinical_f1"
    assert {one["other"] for one in results["differences"]} == {"normal", "neighbour", "classifier", "zero_shot"}
    scores = pl.read_parquet(tuned / "scores.parquet")
    assert set(scores["organ"]) == {"liver", "spleen", "kidney_left"}
    assert load_release(tuned).provenance["finetuned"]["task"] == "report"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_images_of_other_patients_give_the_prior(
    run: Path, tiny: tuple[Store, Path], tmp_path: Path, seed: int
) -> None:
    """The same writer learns from its patients' own images, and nothing from those of others."""
    task, start = opened(tiny[0], run, config(report={"baselines": []}))
    inputs = task.inputs["run"]
    rng, order = np.random.default_rng(seed), np.arange(len(inputs.bags.organ))
    for organ in range(len(inputs.bags.organs)):
        rows = np.flatnonzero(inputs.bags.organ == organ)
        order[rows] = rng.permutation(rows)
    permuted = replace(inputs, features=inputs.features[torch.from_numpy(order)])
    patients = BootstrapPatients.of(task.studies, task.config.evaluate)
    found = {}
    for name, read in (("own", inputs), ("others", permuted)):
        one = ReportGeneration(task.config, task.studies, task.passages, {"run": read}, task.dictionaries)
        done = train_run(one, TaskRun("run", 1.0, seed), start, tmp_path / name, Callbacks())
        found[name] = {metric: draws[0] for metric, draws in one._draws(done, patients).items()}
    normal = task.judge.draws(task.baselines(task.studies.of("train")).written("normal"), patients)
    assert found["own"]["clinical_f1"] > normal["clinical_f1"][0]
    assert found["own"]["clinical_f1"] > found["others"]["clinical_f1"] + 0.2
    assert found["own"]["affirmed_f1"] > 0.8 > found["others"]["affirmed_f1"] + 0.1


@pytest.mark.parametrize("condition", ["prefix", "cross_attention"])
def test_a_training_goes_on_to_the_last_bit(
    run: Path, tiny: tuple[Store, Path], tmp_path: Path, condition: str
) -> None:
    settings = config(fit={"epochs": 3}, seeds=[0, 1], report={"condition": condition, "baselines": ["normal"]})
    done: list[int] = []
    stopping = Callbacks(progress=lambda epochs, _: done.append(epochs), stop=lambda: bool(done) and done[-1] >= 3)
    with pytest.raises(Stopped):
        finetune(run, tiny[0].path, tmp_path / "cut", None, settings, callbacks=stopping)
    told: list[str] = []
    again = finetune(run, tiny[0].path, tmp_path / "cut", None, settings, True, Callbacks(message=told.append))
    assert told[0] == "run-1-0 is done and skipped."
    assert again == finetune(run, tiny[0].path, tmp_path / "whole", None, settings)


def test_the_encoder_learns_too(run: Path, tiny: tuple[Store, Path], tmp_path: Path) -> None:
    settings = config(mode="full", baselines=["scratch"], fit={"epochs": 1}, report={"baselines": []},
                      scratch_fit={"epochs": 1, "batch": 8, "device": "cpu"}, augment={"shift_hu": 5.0})  # fmt: skip
    results = finetune(run, tiny[0].path, tmp_path / "out", None, settings)
    assert [(one.initialization, one.mode) for one in results.points] == [("run", "full"), ("scratch", "full")]
    before, after = (load_release(path).model.state_dict() for path in (run, tmp_path / "out"))
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert "encoder" in changed
    assert "diagnosis_head" not in changed
    assert load_release(tmp_path / "out").calibration == {}


def writer(tmp_path: Path, **more):
    settings = ReportTaskSettings.model_validate(
        {"language": {"width": 16, "layers": 1, "heads": 2, "vocabulary": 200}, "length": 24, **more}
    )
    texts = ["The liver is normal.", "A cyst of 1.5 cm in segment 4, post-op; L2 (new).", "No ascites."]
    torch.manual_seed(0)
    return build_writer(5, ("liver", "spleen"), pieces_for(settings, texts), settings), texts


@pytest.mark.parametrize("condition", ["prefix", "cross_attention"])
def test_passages_of_any_length_have_the_likelihood_they_have_alone(tmp_path: Path, condition: str) -> None:
    """Padding and neighbours in a batch change nothing."""
    made, texts = writer(tmp_path, condition=condition)
    made.eval()
    texts = [*texts, "", texts[0], ""]
    features, organ = torch.randn(len(texts), 5), torch.tensor([0, 1, 0, 1, 0, 1])
    together = made(features, organ, made.pieces.encode(texts, 24)[0])
    alone = [made(features[n : n + 1], organ[n : n + 1], made.pieces.encode([text], 24)[0])[0] for n, text in
             enumerate(texts)]  # fmt: skip
    assert torch.allclose(together, torch.stack(alone), atol=1e-4)


@pytest.mark.parametrize("condition", ["prefix", "cross_attention"])
def test_what_is_written_is_what_is_likeliest(tmp_path: Path, condition: str) -> None:
    """A writer that learned passages by heart writes them, with beams and without; what is saved writes the same."""
    made, texts = writer(tmp_path, condition=condition, length=48)
    features, organ = torch.eye(5)[:3], torch.tensor([0, 1, 0])
    ids, lengths = made.pieces.encode(texts, 48)
    assert lengths.tolist() == [(row != made.pieces.pad).sum().item() - 1 for row in ids]
    optimizer = torch.optim.Adam(made.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        made(features, organ, ids).sum().backward()
        optimizer.step()
    for writing in (WritingSettings(), WritingSettings(beams=3)):
        assert made.write(features[:1], organ[:1], writing) == [[texts[0]]]
    written = made.write(features, organ, WritingSettings())
    assert written[2] == [texts[2]]
    assert "1.5 cm" in written[1][0]
    assert "post-op" in written[1][0]
    assert "L2 (new" in written[1][0]
    several = made.write(features, organ, WritingSettings(constrain="dictionary", candidates=3))
    assert several[0][0] == texts[0]
    drawn = [made.write(features, organ, WritingSettings(temperature=3.0, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    save_writer(made, tmp_path / "head")
    assert load_writer(tmp_path / "head").write(features, organ, WritingSettings()) == written
    (tmp_path / "head" / "report.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="is damaged"):
        load_writer(tmp_path / "head")


def test_a_language_model_of_a_folder_writes(tmp_path: Path) -> None:
    """One whose beginning, end and padding are the same token, with tied weights, as GPT-2's."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["<end>", "the", "liver", "is", "normal", "."])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(tmp_path / "gpt")
    small = GPT2Config(vocab_size=6, n_positions=40, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "gpt")
    settings = ReportTaskSettings.model_validate(
        {"language": {"name": str(tmp_path / "gpt"), "train": "frozen"}, "length": 16}
    )
    made = build_writer(3, ("liver",), pieces_for(settings, ()), settings)
    assert {name.split(".")[0] for name, value in made.named_parameters() if value.requires_grad} == {"organ", "read"}
    features, organ, text = torch.randn(2, 3), torch.zeros(2, dtype=torch.long), ["the liver is normal .", ""]
    ids, lengths = made.pieces.encode(text, 16)
    assert ids[1].tolist() == [0] * 7
    assert lengths.tolist() == [6, 1]
    optimizer = torch.optim.Adam([value for value in made.parameters() if value.requires_grad], 0.05)
    first = made(features, organ, ids).sum().item()
    for _ in range(30):
        optimizer.zero_grad()
        lost = made(features, organ, ids).sum()
        lost.backward()
        optimizer.step()
    assert lost.item() < first
    save_writer(made, tmp_path / "head")
    assert load_writer(tmp_path / "head").write(features, organ, WritingSettings()) == made.write(
        features, organ, WritingSettings()
    )
    with pytest.raises(ModelError, match="has no cross-attention"):
        build_writer(3, ("liver",), made.pieces, settings.model_copy(update={"condition": "cross_attention"}))
    other = settings.model_copy(update={"language": settings.language.model_copy(update={"name": "no/model"})})
    with pytest.raises(ModelError, match="'no/model' cannot be loaded"):
        pieces_for(other, ())


def test_a_report_is_right_about_itself(tiny: tuple[Store, Path], run: Path) -> None:
    store, dictionaries = tiny[0], dictionaries_of(load_release(run))
    organs = ("liver", "spleen", "kidney_left")
    found = read_passages(store, store.study_ids, store.study_ids, organs, dictionaries, ("findings",), 1)
    judge = PassageJudge.of(found, get_parser(dictionaries.organs, dictionaries.abnormalities))
    rows = [{"study_id": name, "organ": organ, "text": text} for (name, organ), text in found.texts.items()]
    names = tuple(store.study_ids)
    patients = BootstrapPatients(np.arange(len(names)), draw_patients(len(names), 20, np.random.default_rng(0)), names)
    draws = judge.draws(pl.DataFrame(rows), patients)
    assert (draws["clinical_f1"] == 1).all()
    assert (draws["affirmed_f1"] == 1).all()
    assert (draws["hallucination_rate"] == 0).all()
    assert (draws["omission_rate"] == 0).all()


def test_the_nearest_study_is_that_whose_organs_are_most_alike_on_average() -> None:
    """Over the organs that both have: the second training study has no spleen."""
    names, splits = ("a", "b", "c", "x", "y"), ("train", "train", "train", "test", "test")
    studies = Studies((), names, np.zeros((5, 0), np.float32), names, splits, ())
    texts = {(name, organ): f"{organ} of {name}" for name in names for organ in ("liver", "spleen")}
    passages = Passages(("liver", "spleen"), texts, frozenset(), {}, {})
    study, organ = np.array([0, 0, 1, 2, 2, 3, 3, 4]), np.array(["liver", "spleen"], object)[[0, 1, 0, 0, 1, 0, 1, 0]]
    raw = np.array([[2, 0], [0, 1], [-1, 2], [-1, -2], [0, -1], [1, -3], [0, -1], [-1, 3]], np.float32)
    dictionaries = Dictionaries(load_organs(), load_abnormalities())
    made = PassageBaselines(passages, studies, np.arange(3), study, organ, raw, dictionaries, 1)
    found = {(name, organ): text for name, organ, text in made.written("neighbour").iter_rows()}
    assert found == {
        ("x", "liver"): "liver of c", ("x", "spleen"): "spleen of c", ("y", "liver"): "liver of b",
    }  # fmt: skip


def test_a_store_without_reports_is_named(run: Path, tmp_path: Path) -> None:
    store, _ = write_tiny_store(tmp_path / "store", 12, masks=True)
    settings = config(report={"least": 100})
    with pytest.raises(CohortError, match="has a report that speaks of an organ that can be read"):
        opened(store, run, settings)
