"""What may be said of an organ, what may not, and that wording gives nothing away."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from ctglip.data.sayings import NO_TEXT, OrganSayings, Phrasebook, draw_negatives, draw_text
from ctglip.text.reports import ReportParser
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

ORGANS, ABNORMALITIES = load_organs(), load_abnormalities()
PARSER = ReportParser()


@pytest.fixture
def book() -> Phrasebook:
    return Phrasebook(ORGANS, ABNORMALITIES)


def said(book: Phrasebook, report: str, organ: str) -> OrganSayings:
    return book.add(PARSER.parse(f"FINDINGS: {report}"), organ)


def drawn(book: Phrasebook, sayings: OrganSayings, count: int = 60) -> set[str]:
    rng = np.random.default_rng(0)
    return {book.texts[draw_text(sayings, 0.5, rng, {})[0]] for _ in range(count)}


def negatives(
    book: Phrasebook, sayings: OrganSayings, count: int, report_wording: float = 0.5, seed: int = 0
) -> list[str]:
    wordings = {(sayings.organ, n): book.wordings(sayings.organ, n) for n in (*sayings.hard, *sayings.others)}
    found = draw_negatives(sayings, wordings, count, report_wording, np.random.default_rng(seed))
    return [book.texts[number] for number in found if number != NO_TEXT]


def test_an_affirmed_finding_is_said_in_both_wordings(book: Phrasebook) -> None:
    sayings = said(book, "A simple cyst is seen in the left lobe of the liver.", "liver")
    texts = drawn(book, sayings)
    assert sayings.kind == "abnormal"
    assert "A simple cyst is seen in the left lobe of the liver." in texts
    assert len(texts) > 1
    assert all("cyst" in text.lower() for text in texts)


def test_a_normal_organ_is_called_normal_and_free_of_what_it_could_have(book: Phrasebook) -> None:
    said(book, "There is splenomegaly.", "spleen")
    sayings = said(book, "The spleen is unremarkable. Gallstones are present.", "spleen")
    texts = drawn(book, sayings, 200)
    assert sayings.kind == "normal"
    assert "The spleen is unremarkable." in texts
    assert any("splenomegaly" in text.lower() or "enlarge" in text.lower() for text in texts)
    assert not any("gall" in text.lower() for text in texts)
    assert len({statement.key for statement in sayings.statements}) == 1


def test_silence_gives_no_text_unless_it_means_normal(book: Phrasebook) -> None:
    silent = said(book, "Gallstones are present.", "spleen")
    assert silent.kind == "silent"
    assert draw_text(silent, 0.5, np.random.default_rng(0), {}) == (NO_TEXT, NO_TEXT)
    lenient = Phrasebook(ORGANS, ABNORMALITIES, silence_is_normal=True)
    assert said(lenient, "Gallstones are present.", "spleen").kind == "normal"


def test_an_uncertain_organ_is_neither_normal_nor_abnormal(book: Phrasebook) -> None:
    assert said(book, "Possible small cyst in the liver.", "liver").kind == "silent"


def test_normal_texts_of_one_organ_share_a_key_and_those_of_two_organs_do_not(book: Phrasebook) -> None:
    first = said(book, "The spleen is unremarkable.", "spleen").statements[0].key
    second = said(book, "Normal spleen.", "spleen").statements[0].key
    liver = said(book, "The liver is unremarkable.", "liver").statements[0].key
    assert first == second != liver


def test_the_same_findings_share_a_key_and_others_do_not(book: Phrasebook) -> None:
    keys = [
        said(book, text, "kidney_left").statements[0].key
        for text in ("Cyst in the left kidney.", "There is a left renal cyst.", "Left renal stone.")
    ]
    assert keys[0] == keys[1] != keys[2]


def test_several_findings_are_said_one_by_one_and_together(book: Phrasebook) -> None:
    sayings = said(book, "There is a left renal cyst. Stone in the left kidney.", "kidney_left")
    assert set(sayings.affirmed) == {"renal_cyst", "renal_stone"}
    assert len({statement.key for statement in sayings.statements}) == 3
    assert "There is a left renal cyst. Stone in the left kidney." in drawn(book, sayings)


def test_negatives_are_never_true_and_denied_ones_come_first(book: Phrasebook) -> None:
    said(book, "Multiple calculi fill the left kidney.", "kidney_left")
    sayings = said(book, "There is a left renal cyst. No hydronephrosis of the left kidney.", "kidney_left")
    assert "hydronephrosis" in sayings.hard
    assert not {"renal_cyst", "cyst", "lesion"} & {*sayings.hard, *sayings.others}
    first = negatives(book, sayings, len(sayings.hard))
    assert all(any(word in text.lower() for word in ("hydro", "dilat", "collecting", "pelvi")) for text in first)
    everything = {text for seed in range(30) for text in negatives(book, sayings, 20, seed=seed)}
    assert not any("cyst" in text.lower() for text in everything)
    assert "Multiple calculi fill the left kidney." in everything
    assert "Multiple calculi fill the left kidney." not in negatives(book, sayings, 20, report_wording=0.0)


def test_missing_negatives_are_marked(book: Phrasebook) -> None:
    sayings = said(book, "The spleen is unremarkable.", "spleen")
    wordings = {("spleen", n): book.wordings("spleen", n) for n in (*sayings.hard, *sayings.others)}
    found = draw_negatives(sayings, wordings, 50, 0.0, np.random.default_rng(0))
    assert (found >= 0).sum() == len(sayings.hard) + len(sayings.others)


def test_a_text_that_is_taken_is_avoided_where_there_is_another(book: Phrasebook) -> None:
    sayings = said(book, "The spleen is unremarkable.", "spleen")
    rng = np.random.default_rng(0)
    taken: dict[int, int] = {}
    for _ in range(8):
        text, key = draw_text(sayings, 0.5, rng, taken)
        taken[text] = key
    assert len(taken) >= 7


def test_wording_alone_does_not_tell_true_from_false() -> None:
    """Positives and negatives of abnormal organs, told apart by their words: no better than AUROC 0.6."""
    book = Phrasebook(ORGANS, ABNORMALITIES)
    rng = np.random.default_rng(0)
    ways = {
        "renal_cyst": (
            "A cyst is present in the left kidney.",
            "Left renal cyst.",
            "Large cyst of the left kidney.",
        ),
        "renal_stone": ("Stone in the left kidney.", "Left nephrolithiasis.", "There is a left renal calculus."),
        "hydronephrosis": ("Left hydronephrosis.", "Hydronephrosis of the left kidney is present."),
    }
    names = list(ways)
    reports = []
    for _ in range(300):
        name = names[int(rng.integers(3))]
        reports.append(ways[name][int(rng.integers(len(ways[name])))])
    sayings = [said(book, report, "kidney_left") for report in reports]
    every = Counter(name for one in sayings for name in one.affirmed)
    assert set(every) == set(names)
    wordings = {("kidney_left", name): book.wordings("kidney_left", name) for name in names}
    true, false = [], []
    for one in sayings:
        true.append(book.texts[draw_text(one, 0.5, rng, {})[0]])
        others = [name for name in (*one.hard, *one.others) if name in names]
        only = OrganSayings(one.organ, one.kind, one.affirmed, one.statements, (), tuple(others))
        false.append(book.texts[int(draw_negatives(only, wordings, 1, 0.5, rng)[0])])
    texts, labels = true + false, np.array([1] * len(true) + [0] * len(false))
    words = TfidfVectorizer(ngram_range=(1, 2)).fit_transform(texts)
    said_true = cross_val_predict(LogisticRegression(), words, labels, cv=5, method="decision_function")
    assert roc_auc_score(labels, said_true) <= 0.6
