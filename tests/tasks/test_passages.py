"""Reports are cut into one passage an organ, from the first section that speaks of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctglip.ct.standardize import standardize
from ctglip.inference.scoring import Dictionaries
from ctglip.reports.parser import get_parser
from ctglip.store.format import StoreInfo
from ctglip.store.study import StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.tasks.passages import Passages, read_passages
from ctglip.types import Report
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.prompts import normal_prompts, positive_prompts
from tests.training.tiny import ORGANS, RECIPE, tiny_study

ABNORMALITIES = load_abnormalities()


def passages(folder: Path, reports: Sequence[Report], sections: Sequence[str] = ("findings", "impression")) -> Passages:
    """Of a store with these reports, which are s0, s1 ..."""
    store = create_store(
        folder,
        StoreInfo(
            recipe=RECIPE.model_dump(mode="json"), recipe_hash=RECIPE.hash, dictionaries={}, labels=ORGANS.label_names()
        ),
    )
    scan, labels, _, _ = tiny_study(np.random.default_rng(0))
    standardized = standardize(scan, labels, RECIPE, ORGANS)
    for number, report in enumerate(reports):
        name, findings = f"s{number}", get_parser().parse(report)
        write_study(folder, StudyRecord(name, name, standardized, name, RECIPE.hash, report=report, findings=findings))
    compact(store)
    store = Store.open(folder)
    organs = ("liver", "spleen", "kidney_left")
    return read_passages(
        store, store.study_ids, store.study_ids, organs, Dictionaries(ORGANS, ABNORMALITIES), sections, 1
    )


def test_a_sentence_about_one_organ_stands_as_it_is_and_others_in_the_words_of_the_dictionary(tmp_path: Path) -> None:
    text = (
        "The liver and spleen are unremarkable. Simple cyst in the left kidney. Splenomegaly and a stone in the left "
        "kidney."
    )
    doubtful = "Possible stones in the left kidney and fatty liver."
    found = passages(tmp_path / "store", [Report(findings=text), Report(findings=doubtful)])
    liver, spleen, kidney = (ORGANS[name] for name in ("liver", "spleen", "kidney_left"))
    assert found.texts == {
        ("s0", "liver"): normal_prompts(liver)[0],
        ("s0", "spleen"): f"{normal_prompts(spleen)[0]} {positive_prompts(ABNORMALITIES['splenomegaly'], spleen)[0]}",
        ("s0", "kidney_left"): "Simple cyst in the left kidney. "
        + positive_prompts(ABNORMALITIES["renal_stone"], kidney)[0],
    }
    assert found.affirming == {("s0", "spleen"), ("s0", "kidney_left")}
    assert {fact.status for fact in found.facts["s1"]} == {"uncertain"}
    assert found.references == {"s0": text, "s1": doubtful}


def test_an_organ_is_looked_for_in_one_section_after_the_other(tmp_path: Path) -> None:
    report = Report(findings="Simple cyst in the left kidney.", impression="Renal cyst on the left. Splenomegaly.")
    found = passages(tmp_path / "both", [report])
    assert found.texts == {("s0", "kidney_left"): report.findings, ("s0", "spleen"): "Splenomegaly."}
    assert found.organs == ("kidney_left", "spleen")
    assert found.references == {"s0": report.findings}
    impression = passages(tmp_path / "one", [report], ("impression",))
    assert impression.texts["s0", "kidney_left"] == "Renal cyst on the left."
    assert impression.references == {"s0": report.impression}
