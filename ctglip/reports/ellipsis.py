"""Sentences that leave out what the one before named: "Left: normal.", "The right shows a cyst.", "Right - none."

What is left out is put back in words, and the sentence is read as if it had been written so.
"""

from __future__ import annotations

import re

from ctglip.reports.findings import StatedOrgan
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import SIDES

_LED = re.compile(
    r"^\W*(?:the\s+)?(?P<side>left|right|lt|rt|l|r)\b\s*(?:side|one)?\s*(?P<rest>(?::|(?<=\s)[–—-]).*|"
    r"(?:is|are|was|shows?|has|contains?|demonstrates?|measures?|appears?|normal|unremarkable|clear|none|no|not|also)\b.*)$",
    re.IGNORECASE | re.DOTALL,
)
_ABSENT = re.compile(r"^[\s:–—-]*(?:is\s+)?(?P<answer>none|no|nil|absent|negative|not seen)[\s.]*$", re.IGNORECASE)
_PRESENT = re.compile(
    r"^[\s:–—-]*(?:is\s+)?(?P<answer>yes|present|positive|mild|moderate|severe|small|large|trace|minimal|massive)[\s.]*$",
    re.IGNORECASE,
)
_ON_A_SIDE = re.compile(r"^\W*on the (?:left|right)\b[^a-z]*(?:side\b)?.*\d.*$", re.IGNORECASE | re.DOTALL)
_DASHES = " :–—-."
_MEASURED = re.compile(r"\d\s*(?:mm|cm)\b", re.IGNORECASE)


def completed(text: str, topic: str | None, last: StatedOrgan | None, heading: str | None, lexicon: Lexicon) -> str:
    """The sentence with what it leaves out.

    Args:
        text: the sentence.
        topic: the organ spoken of before.
        last: the finding read last.
        heading: the finding that a line of its own announced ("Lung nodules:").
        lexicon: for sides and names.
    """
    if (
        " the " in text[:8]
        and _ON_A_SIDE.match(text)
        and last is not None
        and last.abnormality
        and not lexicon.find_concepts(lexicon.read(text)[0])
    ):
        return f"{lexicon.abnormalities[last.abnormality].display} {text}"  # "On the right 18 mm, on the left 8 mm."
    led = _LED.match(text)
    if led is None:
        return f"{text} {lexicon.abnormalities[heading].display}" if heading and _MEASURED.search(text) else text
    side, rest = SIDES.get(led.group("side").lower(), led.group("side").lower()), led.group("rest")
    side = {"l": "left", "r": "right"}.get(side, side)
    if side not in ("left", "right"):
        return text
    short = _ABSENT.match(rest) or _PRESENT.match(rest)
    if short and last is not None and last.abnormality:
        name = lexicon.abnormalities[last.abnormality].display
        answer = short.group("answer").lower()
        return (
            f"No {side} {name}." if _ABSENT.match(rest) else f"{answer if short.re is _PRESENT else ''} {side} {name}."
        )
    if topic is None or lexicon.pair_of(lexicon.term_of(topic)) is None:
        return f"{rest.strip(_DASHES)} on the {side}." if rest[0] in _DASHES else text
    organ = lexicon.organs[lexicon.organs.on_side(topic, side)]
    return f"{organ.display} {rest}" if organ.side == side else text


def announced(text: str, rows: tuple[StatedOrgan, ...]) -> str | None:
    """The finding that a heading alone on its line names: what follows are its locations."""
    if not text.endswith(":"):
        return None
    names = {row.abnormality for row in rows if row.abnormality}
    return next(iter(names)) if len(names) == 1 else None
