"""What is affirmed and not true is hallucinated, what is true and not affirmed is omitted; doubt is neither."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ctglip.reports.facts import ReportFact
from ctglip.reports.parser import get_parser
from ctglip.tasks.passages import Passages
from ctglip.tasks.report_scores import PassageJudge, clinical_f1
from ctglip.tasks.results import BootstrapPatients


def test_rates_are_those_counted_by_hand() -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    steatosis = ReportFact("liver", "hepatic_steatosis", "affirmed", None)
    facts = {
        "s0": frozenset({steatosis, ReportFact("spleen", "", "normal", None)}),
        "s1": frozenset({ReportFact("kidney_left", "renal_cyst", "affirmed", "left"),
                         steatosis._replace(status="uncertain")}),
    }  # fmt: skip
    judge = PassageJudge.of(Passages(("liver", "spleen", "kidney_left"), {}, frozenset(), facts, {}), get_parser())
    rows = [
        ("s0", "liver", "Hepatic steatosis."),
        ("s0", "spleen", "The spleen is enlarged."),
        ("s1", "liver", "Hepatic steatosis."),
        ("s1", "kidney_left", "The left kidney is unremarkable."),
    ]
    table = pl.DataFrame(rows, schema=["study_id", "organ", "text"], orient="row")
    patients = BootstrapPatients(np.arange(2), np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]), ("s0", "s1"))
    found = judge.draws(table, patients)
    assert found["clinical_f1"].tolist() == [0.25, 0.5, 0.0]
    assert found["affirmed_f1"].tolist() == [0.5, pytest.approx(2 / 3), 0.0]
    assert found["hallucination_rate"][:2].tolist() == [0.5, 0.5]
    assert np.isnan(found["hallucination_rate"][2]), "nothing that can be judged is affirmed"
    assert found["omission_rate"].tolist() == [0.5, 0.0, 1.0]
    assert clinical_f1(judge.counts(table, ("s0", "s1"))) == 0.25
