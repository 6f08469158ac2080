"""Sentences that tell of the patient and of the examination, not of what is seen, whatever heading they stand under."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Literal

from ctglip.files import read_yaml

Background = Literal["patient", "examination"]
_DATA = Path(__file__).with_name("background.yaml")


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    lists: dict[str, list[str]] = read_yaml(_DATA)
    part = {name: f"(?:{'|'.join(entries)})" for name, entries in lists.items()}
    anything = f"(?:{part['modality']}|{part['scanned']}|{part['around']})"
    title = (
        r"^\W*(?:(?:exam(?:ination)?|study|procedure|type of (?:exam|study))\s*:\s*)?"
        rf"(?:(?:{part['around']}|{part['scanned']})[\s,/+-]+){{0,6}}{part['modality']}\b"
        rf"(?:[\s,/+():&-]+{anything})*[\s.:;,)]*$"
    )
    texts = {
        "title": title,
        "made": rf"\b{part['made']}",
        "begun": rf"^\W*{part['begun']}",
        "seen": rf"\b{part['seen']}\b",
        "aged": part["aged"],
        "told": rf"^\W*{part['told']}",
        "now": rf"\b{part['now']}\b",
    }
    return {name: re.compile(text) for name, text in texts.items()}


@cache
def _hints() -> frozenset[str]:
    return frozenset(read_yaml(_DATA)["hint"])


def background(text: str, words: Collection[str]) -> Background | None:
    """What a sentence tells of, where it is not of what is seen.

    ``patient``: age, complaint, history, the question asked. ``examination``: its name, how it was made, what it is
    compared with.

    Args:
        text: the sentence.
        words: its normal forms.
    """
    known = _patterns()
    text = text.lower()
    if not _hints().isdisjoint(words):
        made = known["begun"].match(text) or known["made"].search(text)
        if known["title"].match(text) or (made and not known["seen"].search(text)):
            return "examination"
    if known["aged"].match(text):
        return "patient"
    return "patient" if known["told"].match(text) and not known["now"].search(text) else None
