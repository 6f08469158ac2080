"""Bad input: a clear result, never an exception, nothing lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctglip.reports.parser import get_parser
from ctglip.reports.sections import clean
from ctglip.reports.sentences import LONGEST
from ctglip.types import Report

WORDS = [
    *[
        "no",
        "not",
        "pleural",
        "effusion",
        "the",
        "left",
        "right",
        "kidney",
        "cyst",
        "(",
        ")",
        "?",
        ",",
        ";",
        ".",
        ":",
        "and",
        "or",
        "L1",
        "-",
        "5",
        "mm",
        "history",
        "of",
        "size",
        "normal",
    ],
    *[
        "increased",
        "both",
        "rib",
        "but",
        "cannot",
        "be",
        "excluded",
        "liver",
        "lobe",
        "segment",
        "4",
        "•",
        "XXXX",
        "___",
        "th",
    ],
    "\n",
    '"',
]


def letters(text: str) -> list[str]:
    return [c for c in text if c.isalnum()]


@pytest.mark.parametrize("text", ["", " ", "\n\n", "...", "!?;:", "\x00\x01", "(((", '"""', "•••"])
def test_nothing_to_read_is_no_finding(text: str) -> None:
    assert get_parser().parse(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "12 34 5.6",
        "<p>Liver&nbsp;cyst.<br/>No <b>ascites</b>.</p>",
        "XXXX XXXX. ___ year old with XXXX.",
        "Leber unauffällig. Keine Raumforderung der Niere.",
        "肝脏未见异常。双肾囊肿。",
        "Karaciğer normal boyuttadır.",
        "caf\u00c3\u00a9 \ufffd\ufffd liver â€™ cyst",
        "No" * 5000,
        "liver " * 3000,
        "no effusion, " * 2000,
        "(" * 500 + "cyst" + ")" * 500,
        "L1-" * 500,
        "\u202eliver\u202c \u200bcyst",
    ],
    ids=lambda text: text[:20],
)
def test_odd_text_is_read_and_kept(text: str) -> None:
    findings = get_parser().parse(Report(findings=text))
    assert findings
    kept = {row.sentence_index: row.sentence for row in findings}
    assert letters("".join(kept.values())) == letters(text)
    assert all(row.organ or row.reason for row in findings)


def test_html_is_read() -> None:
    findings = get_parser().parse("<p>Liver&nbsp;cyst.<br/>No <b>ascites</b>.</p>")
    assert {(row.organ, row.abnormality, row.status) for row in findings} == {
        ("liver", "liver_cyst", "affirmed"),
        ("peritoneum", "ascites", "negated"),
    }


def test_a_megabyte_is_read_in_seconds() -> None:
    sentence = "There is no pleural effusion and a 5 mm nodule is seen in the right upper lobe, unchanged "
    text = sentence * (1_000_000 // len(sentence))
    started = time.process_time()
    findings = get_parser().parse(text)
    assert time.process_time() - started < 60
    assert max(len(row.sentence) for row in findings) <= LONGEST
    assert letters("".join({row.sentence_index: row.sentence for row in findings}.values())) == letters(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_any_order_of_words_is_read(text: str) -> None:
    findings = get_parser().parse(Report(findings=text))
    assert bool(findings) == any(c.isalnum() for c in text)
    assert all(row.organ or row.reason for row in findings)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    findings = get_parser().parse(Report(findings=clean(text)))
    assert all(row.organ or row.reason for row in findings)
    get_parser().parse(text)
