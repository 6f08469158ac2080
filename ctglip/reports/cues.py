"""Words around what is seen (``cues.yaml``): its lists of small words, and its cues and measures as phrases."""

from __future__ import annotations

from typing import Any

from ctglip.reports.mentions import Concept
from ctglip.reports.trie import Trie
from ctglip.reports.words import phrase


def word_lists(data: dict[str, Any]) -> dict[str, frozenset[str]]:
    """The lists of small words by name, with those that are made of others."""
    lists = {name: frozenset(words) for name, words in data["words"].items()}
    lists["standing"] = lists["quantity"] | lists["pronoun"]
    lists["deciding"] = lists["quantity"] | {",", "and", ";", ":", "no", "there"}
    lists["perceiving"] = lists["being"] | {phrase(text)[0] for text in data["perception"]}
    ties = (text for name in ("explained", "tying", "causing") for text in lists[name])
    lists["begins_tie"] = frozenset(text.split()[0] for text in ties)
    return lists


def add_cues(data: dict[str, Any], cues: Trie, concepts: Trie) -> None:
    """Take the cues into their phrases, and the words for any pathology into those of concepts."""
    listed = [(kind, *entry) for kind in ("negation", "uncertainty", "history") for entry in data[kind].items()]
    for text in data["pathology"]:
        concepts.add(phrase(text), Concept("pathology", text))
    kinds = ("pseudo", "exception", "break", "normal", "abnormal_than", "unassessable")
    for kind, direction, texts in [*listed, *((kind, None, data[kind]) for kind in kinds)]:
        for text in texts:
            cues.add(phrase(text), (kind, direction))
    for text in data["normal"]:
        if phrase(text)[0] in ("no", "without", "nothing"):
            cues.add(phrase(text), ("normal", "before"), replace=True)


def add_measures(data: dict[str, Any], measures: Trie, levels: Trie) -> None:
    """Take attributes that are measured and what is said of them into their phrases, and words for parts of organs."""
    for name, entry in data["measures"].items():
        for text in entry["words"]:
            measures.add(phrase(text), ("measure", name))
    for change in ("up", "down", "limit"):
        for text in data[change]:
            measures.add(phrase(text), ("change", change))
    for text in data["normal"]:
        measures.add(phrase(text), ("change", "normal"))
    for text in data["unmeasured"]:
        measures.add(phrase(text), ("location", text))
    roots: dict[tuple[str, ...], frozenset[str]] = {}
    for organ, texts in data["levels"].items():
        for text in [*texts, *(f"{text}s" for text in texts)]:
            roots[phrase(text)] = roots.get(phrase(text), frozenset()) | {organ}
    for words, organs in (roots | {("segment",): frozenset({"liver", "lungs"})}).items():
        levels.add(words, organs)
