"""Clauses and the scope of cues, apart from organs."""

from __future__ import annotations

import pytest

from ctglip.reports.assertion import Scopes
from ctglip.reports.mentions import Span
from ctglip.reports.parser import get_parser
from ctglip.types import Status


def read(text: str, *mentions: str) -> tuple[Scopes, list[Status]]:
    lexicon = get_parser().lexicon
    words, _ = lexicon.read(text)
    spans = [Span(words.index(mention), words.index(mention) + 1) for mention in mentions]
    scopes = Scopes(words, lexicon.find_cues(words), spans, lexicon)
    return scopes, [scopes.assertion(*span) for span in spans]


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("no a1, a2 or a3", ["negated"] * 3),
        ("a1, a2 and a3 were not seen", ["negated"] * 3),
        ("no a1 but a2 and a3", ["negated", "affirmed", "affirmed"]),
        ("no a1 other than a2 or a3", ["negated", "affirmed", "affirmed"]),
        ("a1 is seen and a2 was not seen, a3 is seen", ["affirmed", "negated", "affirmed"]),
        ("a1 without a2, with a3", ["affirmed", "negated", "affirmed"]),
        ("a1 cannot be excluded; a2 was excluded; possible a3", ["uncertain", "negated", "uncertain"]),
        ("history of a1, now a2 (a3?)", ["historical", "affirmed", "uncertain"]),
        ("no change in a1, a2 and a3", ["affirmed"] * 3),
        ("not only a1 but also a2 and a3", ["affirmed"] * 3),
        ("a1 is not absent, a2 is absent, a3 has resolved", ["affirmed", "negated", "negated"]),
        (
            "a1 seen in the previous examination; a2 seen previously is stable; no a3",
            ["historical", "affirmed", "negated"],
        ),
        ("neither a1 nor a2 is seen, a3 is seen", ["negated", "negated", "affirmed"]),
        ("a1 may represent a2 or a3", ["affirmed", "uncertain", "uncertain"]),
    ],
)
def test_status(text: str, statuses: list[Status]) -> None:
    text = text.replace("a1", "alpha").replace("a2", "beta").replace("a3", "gamma")
    assert read(text, "alpha", "beta", "gamma")[1] == statuses


def test_clauses_part_where_both_sides_have_a_verb() -> None:
    scopes, _ = read("no effusion was seen and the heart is enlarged")
    assert len(scopes.bounds) == 2
    scopes, _ = read("no effusion, mass or nodule was seen")
    assert len(scopes.bounds) == 1


def test_clauses_cover_the_sentence_without_overlap() -> None:
    scopes, _ = read("when examined: a is seen, b is not; but c, d and e are, and f was")
    flat = [i for start, end in scopes.bounds for i in range(start, end)]
    assert flat == list(range(len(scopes.words)))


def test_a_denied_normal_is_not_normal() -> None:
    scopes, _ = read("it is not normal")
    assert not scopes.has("normal", 0, len(scopes.words))
    scopes, _ = read("it is normal")
    assert scopes.has("normal", 0, len(scopes.words))
