"""Entity-centred context: what is said of each entity in one short sentence; kept; put between a report's sentences."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ctglip.reports.entities import EntityContext, EntitySettings, entity_entries, entity_words, with_context
from ctglip.reports.llm import LLMSettings
from ctglip.reports.parser import get_parser

REPORT = (
    "Small bilateral pleural effusions, larger than before. No pneumothorax. Possible mild opacity at the right base. "
    "New patchy consolidation in the right lower lobe. The cardiac silhouette is normal. The heart is enlarged."
)
SENTENCES = {
    "cardiomegaly": "There is cardiomegaly.",
    "consolidation": "There is patchy consolidation in the right lower lobe, new.",
    "effusion": "There is small bilateral effusion, increased.",
    "opacity": "There may be mild opacity in the right base.",
    "pneumothorax": "There is no evidence of pneumothorax.",
    "silhouette": "The silhouette is normal.",
}


@pytest.fixture(scope="module")
def context() -> EntityContext:
    return EntityContext()


def test_presence_location_severity_and_change(context):
    assert context([REPORT]) == [SENTENCES]
    (said,) = EntityContext(EntitySettings(entities="ct"))(
        ["Small stone in the left kidney, unchanged. No hydronephrosis. A cyst in the liver."]
    )
    assert said == {
        "cyst": "There is cyst in the liver.",
        "hydronephrosis": "There is no evidence of hydronephrosis.",
        "stone": "There is small stone in the left kidney, unchanged.",
    }


def test_what_is_there_overrides_what_is_not_and_denials_of_a_kind_deny_no_more(context):
    (said,) = context(["No effusion on the right. There is a large left pleural effusion. No consolidation."])
    assert said["effusion"] == "There is large left effusion."
    assert "opacity" not in said


def test_nothing_said_gives_nothing_and_history_is_no_finding(context):
    assert context(["Comparison is made.", "INDICATION: pneumonia. FINDINGS: The bones are intact."]) == [{}, {}]


def test_lists_are_whole():
    assert len(entity_entries("cxr")) == 44
    known = get_parser().lexicon.abnormalities
    named = {name for entry in entity_entries("ct").values() for name in entry.abnormalities}
    assert all(name in known for name in named)
    assert {"effusion", "atelectatic"} <= entity_words("cxr")
    assert not any(" " in word for word in entity_words("ct"))


def test_sentences_are_kept_by_text_and_reader(tmp_path, monkeypatch):
    first = EntityContext(folder=tmp_path)
    first([REPORT, "No pneumothorax."])
    assert all(json.loads(path.read_text()) for path in tmp_path.iterdir())
    again = EntityContext(folder=tmp_path)
    monkeypatch.setattr(again, "_distilled", lambda text: pytest.fail(f"{text} was read twice"))
    assert again([REPORT]) == [SENTENCES]
    other = EntityContext(EntitySettings(llm=LLMSettings(model="some")), tmp_path)
    assert other.identity != first.identity
    assert EntityContext(EntitySettings(entities="ct"), tmp_path)(["No pneumothorax."])


def test_a_language_model_reads_through_the_same_door(tmp_path, monkeypatch):
    asked = EntityContext(EntitySettings(llm=LLMSettings(model="some", attempts=1)), tmp_path)
    answer = {"findings": [{"sentence": 0, "organ": "pleura_left", "abnormality": "pleural_effusion",
                            "status": "affirmed", "laterality": "left"}]}  # fmt: skip
    monkeypatch.setattr("ctglip.reports.llm.LLMParser._call", lambda self, messages: json.dumps(answer))
    assert asked(["Fluid."]) == [{"effusion": "There is left effusion."}]


def test_a_model_that_fails_leaves_the_rules_answer_and_nothing_is_kept(tmp_path):
    settings = EntitySettings(llm=LLMSettings(model="none", url="http://127.0.0.1:9/v1", attempts=1))
    assert EntityContext(settings, tmp_path)(["No pneumothorax."]) == [
        {"pneumothorax": "There is no evidence of pneumothorax."}
    ]
    assert not list(tmp_path.iterdir())


def test_the_context_stands_between_sentences_four_times_of_five():
    report = "One is here. Two is there. Three is nowhere."
    made = [with_context(report, ["There is no X."], np.random.default_rng(seed)) for seed in range(400)]
    assert 0.74 < np.mean([text != report for text in made]) < 0.86
    locations = {
        "There is no X. One is here. Two is there. Three is nowhere.",
        "One is here. There is no X. Two is there. Three is nowhere.",
        "One is here. Two is there. There is no X. Three is nowhere.",
        "One is here. Two is there. Three is nowhere. There is no X.",
    }
    assert set(made) == locations | {report}
    assert with_context(report, [], np.random.default_rng(0)) == report
