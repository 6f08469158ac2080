"""Sentences that leave out what the one before named: "Left: normal.", "The right shows a cyst.", "Right - none."

What is left out is put back in words, and the sentence is read as if it had been written so.
"""

from __future__ import annotations

import re

from ctglip.reports.findings import StatedOrgan
from ctglip.reports.lexicon import Lexicon
from ctglip.vocabulary.organs import Side

_LED = re.compile(
    r"^\W*(?:the\s+)?(?P<side>left|right|lt|rt|l|r)\b\s*(?:side|one)?\s*(?P<rest>(?::|(?<=\s)[–—-]).*|"
    r"(?:['’]s|is|are|was|shows?|has|contains?|demonstrates?|measures?|appears?|normal|unremarkable|clear|none|no|not|also|with|resolved|moderate|small|large|trace|tiny|minimal)\b.*)$",
    re.IGNORECASE | re.DOTALL,
)
_TOLD = re.compile(
    r"^[\s:–—-]*(?:(?:is|are|was|has|appears|remains)\s+)?(?:(?:now|also|only|still|slightly|much|a)\s+)?"
    r"(?P<answer>none|no|nil|absent|negative|not seen|resolved|gone|yes|present|positive|mild|moderate|severe|smaller|"
    r"small|larger|large|bigger|trace|tiny|minimal|massive|new|stable|unchanged|loculated)\b(?P<more>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_ON_A_SIDE = re.compile(
    r"^\W*(?:on the (?:left|right)\b[^a-z]*(?:side\b)?.*(?:\d|\bone\b|\btwo\b|\bthree\b)|"
    r"(?:there is )?(?:an?\b|another)(?: \w+){0,2} one\b.* on the (?:left|right)\b)",
    re.IGNORECASE | re.DOTALL,
)
_ABSENT = frozenset({"none", "no", "nil", "absent", "negative", "not seen", "resolved", "gone"})
_SIZE = frozenset({"small", "smaller", "large", "larger", "bigger", "tiny", "stable", "unchanged"})
"""What an organ can be too."""
_DASHES = " :–—-."
_MEASURED = re.compile(r"\d\s*(?:mm|cm)\b", re.IGNORECASE)


def completed(
    text: str, topic: str | None, last: StatedOrgan | None, heading: str | None, lexicon: Lexicon, of_organ: bool
) -> str:
    """The sentence with what it leaves out.

    Args:
        text: the sentence.
        topic: the organ spoken of before.
        last: the finding read last.
        heading: the finding that a line of its own announced ("Lung nodules:").
        lexicon: for sides and names.
        of_organ: whether the sentence before spoke of the organ on a side ("the left kidney is small").
    """
    if (
        "n the " in text
        and _ON_A_SIDE.match(text)
        and last is not None
        and last.abnormality
        and not lexicon.find_concepts(lexicon.read(text)[0])
    ):
        name = lexicon.abnormalities[last.abnormality].display  # "On the right 18 mm, on the left 8 mm."
        return re.sub(r"\bone\b", name, text, count=1) if " one" in text else f"{name} {text}"
    led = _LED.match(text)
    if led is None:
        return f"{text} {lexicon.abnormalities[heading].display}" if heading and _MEASURED.search(text) else text
    side: Side = "left" if led.group("side")[0] in "lL" else "right"
    rest = re.sub(r"^['’]s\b", "is", led.group("rest"))
    if last is not None and last.abnormality:
        answer = _of_finding(rest, side, last, lexicon, of_organ)
        if answer is not None:
            return answer
    if topic is None or lexicon.pair_of(lexicon.term_of(topic)) is None:
        return f"{rest.strip(_DASHES)} on the {side}." if rest[0] in _DASHES else text
    organ = lexicon.organs[lexicon.organs.on_side(topic, side)]
    return f"{organ.display} {rest}" if organ.side == side else text


def _of_finding(rest: str, side: Side, last: StatedOrgan, lexicon: Lexicon, of_organ: bool) -> str | None:
    """What is said of a side alone, where it tells how much of the finding before there is."""
    answer = _TOLD.match(rest)
    words = lexicon.read(answer.group("more"))[0] if answer else []
    if answer is None or lexicon.find_concepts(words) or lexicon.find_locations(words):
        return None
    if of_organ and answer.group("answer").lower() in _SIZE and rest[0] not in _DASHES:
        return None
    if words not in ([], ["."]) and last.laterality in (side, None):
        return None
    name = lexicon.abnormalities[last.abnormality or ""].display
    absent = answer.group("answer").lower() in _ABSENT
    return f"No {side} {name}." if absent else f"{side} {name} {rest.strip(_DASHES)}."


def announced(text: str, rows: tuple[StatedOrgan, ...]) -> str | None:
    """The finding that a heading alone on its line names: what follows are its locations."""
    if not text.endswith(":"):
        return None
    names = {row.abnormality for row in rows if row.abnormality}
    return next(iter(names)) if len(names) == 1 else None
