"""Several questions at once: one that is not understood, organs, everything, denials, sentences of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ctglip.cli.answers import answer_lines
from ctglip.cli.main import app
from ctglip.errors import VocabularyError
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.page import answers_page
from ctglip.inference.pipeline import Pipeline
from ctglip.inference.readers import InMemory
from ctglip.models.release import load_release
from ctglip.pages.answers import render
from ctglip.store.tables import Store
from ctglip.vocabulary.prompts import normal_prompts

Trained = tuple[Store, Path]
Files = tuple[Path, Path]


@pytest.fixture
def model(trained: Trained) -> Pipeline:
    return Pipeline(load_release(trained[1]))


def test_a_question_that_is_not_understood_does_not_stop_the_others(model: Pipeline, files: Files) -> None:
    answers = model.query(files[0], ["splenomegaly?", "flurb?", "galstones?"], files[1])
    good, bad, typo = answers.answers
    assert good.probability is not None
    assert good.understood
    assert (bad.understood, bad.probability, bad.organ) == (False, None, "")
    assert "'flurb' is not an organ or abnormality" in bad.reason
    assert "gallstones" in typo.reason
    assert "flurb?" in render(answers_page(answers))
    assert any(line.startswith("flurb?: no answer: 'flurb' is not") for line in answer_lines(answers))
    with pytest.raises(VocabularyError, match="flurb"):
        model.query(files[0], ["flurb?"], files[1])


def test_the_command_ends_with_1_where_one_was_not_understood(trained: Trained, files: Files, tmp_path: Path) -> None:
    base = ["query", str(trained[1]), str(files[0]), "--masks", str(files[1]), "--out", str(tmp_path)]
    one = CliRunner().invoke(app, [*base, "--ask", "splenomegaly?", "--ask", "flurb?"])
    assert one.exit_code == 1
    assert "splenomegaly?: 0." in one.stdout
    assert "flurb?: no answer" in one.stdout
    assert (tmp_path / "answers.json").is_file()
    assert CliRunner().invoke(app, [*base, "--ask", "splenomegaly?"]).exit_code == 0
    set_wrong = CliRunner().invoke(app, [*base, "--ask", "splenomegaly?", "--set", "cutoff=answer"])
    assert "did you mean 'cut_off'" in str(set_wrong.exception)


def test_an_organ_is_answered_ranked_and_in_one_line_where_it_is_not_there(model: Pipeline, files: Files) -> None:
    model.trained["liver"] = ("cirrhosis", "hepatic_steatosis", "liver_cyst")
    answers = model.query(files[0], ["liver", "pancreas"], files[1])
    liver = [answer for answer in answers.answers if answer.organ == "liver"]
    assert {answer.abnormality for answer in liver} == set(model.trained["liver"])
    shares = [answer.probability or 0 for answer in liver]
    assert shares == sorted(shares, reverse=True)
    assert sorted(answer.rank or 0 for answer in liver) == [1, 2, 3]
    (pancreas,) = [answer for answer in answers.answers if answer.organ == "pancreas"]
    assert "not trained on the pancreas" in pancreas.reason
    lines = answer_lines(answers)
    assert [line for line in lines if "pancreas" in line] == [f"pancreas: no answer: {pancreas.reason}"]
    assert any(line.startswith("liver: 3 abnormalities") for line in lines)
    model.trained["liver"] = ("cirrhosis",)
    (line,) = answer_lines(model.query(files[0], ["liver"], files[1]))[-1:]
    assert line.startswith("liver liver: liver cirrhosis: 0.")


def test_any_abnormality_asks_for_all_that_was_taught(model: Pipeline, files: Files) -> None:
    answers = model.query(files[0], ["any abnormality?"], files[1]).answers
    given = {(answer.organ, answer.abnormality) for answer in answers if answer.probability is not None}
    there = {row.organ for row in model.standardize(*files).rows}
    assert given == {(organ, name) for organ, names in model.trained.items() for name in names if organ in there}
    assert all(answer.question == "any abnormality?" for answer in answers)


def test_a_denial_is_asked_as_what_it_denies(model: Pipeline, files: Files) -> None:
    answers = model.query(files[0], ["spleen: splenomegaly", "no large splenomegaly"], files[1])
    plain, denied = answers.answers
    assert denied.denied
    assert not plain.denied
    assert denied.probability == plain.probability
    assert denied.unasked == ("large",)
    assert "asked as its absence, this is the probability of its presence" in answer_lines(answers)[-1]


def test_a_sentence_of_ones_own_is_compared_and_ranked_without_a_probability(model: Pipeline, files: Files) -> None:
    organ = model.dictionaries.organs["liver"]
    known = normal_prompts(organ, model.scorer.templates)[0]
    answers = model.query(files[0], ["splenomegaly?"], files[1], prompts=[f"liver: {known}", "It is dark."])
    _, own, bad = answers.answers
    vector = model.query(files[0], ["liver: fatty liver"], files[1])
    standardized = model.standardize(*files)
    row = next(row for row in standardized.rows if row.organ == "liver")
    crops = model.reader.prepare(InMemory(standardized), [row])
    seen = model.reader.encode(crops, [[row]]).diagnosis[0]
    expected = float(seen @ model.scorer.directions([(known,)])[0])
    assert own.similarity == pytest.approx(expected, abs=1e-4)
    assert own.probability is None
    assert not own.calibrated
    assert own.similar == vector.answers[0].similar
    assert own.rank is not None
    assert own.of is not None
    assert 1 <= own.rank <= own.of
    assert not bad.understood
    assert list(model.heat_maps(answers, {("liver", "")})) == []
    assert "no probability" in next(line for line in answer_lines(answers) if line.startswith("liver: "))


def test_a_map_without_evidence_is_words_not_a_blank(model: Pipeline, files: Files) -> None:
    answers = model.query(files[0], ["splenomegaly?"], files[1])
    (found,) = model.heat_maps(answers)
    silent = HeatMap(found.organ, found.abnormality, -np.abs(found.values), found.affine)
    loud = HeatMap(found.organ, found.abnormality, np.abs(found.values), found.affine)
    assert loud.speaks
    assert not silent.speaks
    quiet, shown = (answers_page(answers, organs=model.dictionaries.organs, maps=[one]) for one in (silent, loud))
    assert quiet.where[0].heat is None
    assert "No heat map: no place in the spleen adds to this answer" in render(quiet)
    assert shown.where[0].heat is not None
    assert "No heat map:" not in render(shown)
    if quiet.viewer is not None and shown.viewer is not None:
        assert (len(quiet.viewer.maps), len(shown.viewer.maps)) == (0, 1)
