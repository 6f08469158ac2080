"""The checks that ``ctglip dictionary check`` runs: the shipped dictionaries pass, and each kind of fault is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctglip.types import Finding
from ctglip.vocabulary.check import Fault, check_dictionaries

Small = Callable[..., tuple[Path, Path]]
STONE = """
stone:
  display: stone
  organs: [kidneys]
  synonyms: [calculus]
  ct_appearance: Bright.
  positive: ["There is a stone in the {organ}.", "A calculus of the {organ}.", "Stone of the {side} kidney."]
  negative: ["No stone in the {organ}.", "There is no calculus.", "The {organ} {is} without a stone."]
"""

PHRASINGS = 'positive: ["Gas.", "Some gas.", "Much gas."], negative: ["No gas.", "There is no gas.", "Not any gas."]'


def _whats(problems: tuple[Fault, ...]) -> str:
    return "\n".join(f"{p.severity} {p.entry}: {p.what}" for p in problems)


def test_the_shipped_dictionaries_are_sound() -> None:
    assert _whats(check_dictionaries()) == ""


def test_a_sound_dictionary_has_no_problem(small: Small) -> None:
    assert check_dictionaries(*small(STONE)) == ()


FAULTS = {
    "belongs to the abnormality stone": STONE + "other: {display: calculus, organs: [kidneys]}",
    "is what the organ kidney_left is called": STONE.replace("[calculus]", "[calculus, left kidney]"),
    "Unknown placeholders ['place']": STONE.replace("No stone in the {organ}", "No stone in the {place}"),
    "holds neither the display name nor a synonym": STONE.replace("A calculus of", "A pebble of"),
    "stands among the positive phrasings": STONE.replace("There is a stone", "There is not a stone"),
    "stands among the negative phrasings": STONE.replace("There is no calculus", "There is a calculus"),
    "fewer than three": STONE.replace('"No stone in the {organ}.", ', ""),
    "does not describe its appearance": STONE.replace("ct_appearance: Bright.", 'ct_appearance: ""'),
    "kind of itself": STONE + "a: {display: a, organs: [kidneys], parent: a}",
    "which it is a kind of": STONE + "a: {display: a, organs: [kidneys], parent: stone, mutually_exclusive: [stone]}",
    "did you mean 'organs'": STONE.replace("organs:", "organ:"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault: str, small: Small) -> None:
    assert fault in _whats(check_dictionaries(*small(FAULTS[fault])))


ORGAN_FAULTS = {
    "belongs to the organ": (
        "  a: {display: a, label: 1, group: g}\n  b: {display: b, label: 2, group: g, synonyms: [a]}\n"
    ),
    "It has no group": "  a: {display: a, label: 1}\n",
    "does not say so": "  a: {display: kidney, side: left, label: 1, group: g}\n",
    "its part b on the right": (
        "  a: {display: left a, side: left, label: 1, group: g, parts: [b]}\n"
        "  b: {display: right b, side: right, label: 2, group: g}\n"
    ),
}


@pytest.mark.parametrize("fault", ORGAN_FAULTS)
def test_each_fault_of_an_organ_is_named(fault: str, small: Small) -> None:
    paths = small("s: {display: s, organs: [a]}", f"version: 1\norgans:\n{ORGAN_FAULTS[fault]}")
    assert fault in _whats(check_dictionaries(*paths))


def test_a_source_that_is_mapped_to_nothing_is_reported(small: Small) -> None:
    paths = small(STONE)
    sources = paths[1].parent / "sources.yaml"
    sources.write_text(
        "lists: {mine: {title: mine, maps: {calculus: stone, both: [kidneys, kidneys:stone], pearl: pearl}}}"
    )
    assert (
        _whats(check_dictionaries(*paths))
        == "error sources.yaml: mine: 'pearl' is mapped to 'pearl', which is not there."
    )
    sources.write_text("lists: {mine: {maps: {}}}")
    assert "title" in _whats(check_dictionaries(*paths))


def test_a_phrasing_that_is_read_as_something_else_is_reported(small: Small) -> None:
    def reader(sentence: str) -> list[Finding]:
        status = "negated" if " no " in f" {sentence.lower()}" else "affirmed"
        return [Finding(0, "findings", sentence, "kidneys", "stone", status)]

    problems = check_dictionaries(*small(STONE), reader=reader)
    assert [p.severity for p in problems] == ["error"]
    assert [p.entry for p in problems] == ["stone"]
    assert "'The kidneys are without a stone.' should be read as negated, it is read as affirmed." in problems[0].what


def test_a_phrasing_that_affirms_something_else_as_well_is_reported(small: Small) -> None:
    def reader(sentence: str) -> list[Finding]:
        status = "negated" if set(sentence.lower().split()) & {"no", "without"} else "affirmed"
        beside = [Finding(0, "findings", sentence, "kidneys", "gas", "affirmed")] if "side" in sentence else []
        return [Finding(0, "findings", sentence, "kidneys", "stone", status), *beside]

    entries = STONE.replace("Stone of the {side} kidney", "Stone with gas beside it")
    gas = "\ngas: {display: gas, organs: [kidneys], ct_appearance: Dark, " + PHRASINGS + "}"
    problems = check_dictionaries(*small(entries + gas), reader=reader)
    assert [p.what for p in problems if p.entry == "stone"] == ["'Stone with gas beside it.' also affirms gas."]
