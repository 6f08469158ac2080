"""Sentences of a section: measurements, abbreviations, lists, semicolons and line breaks do not mislead it."""

from __future__ import annotations

import re

from ctglip.reports.dictation import written

LONGEST = 2000
"""Characters at most: what runs on without an end is cut at a comma or blank."""
_ABBR = "dr mr mrs ms prof st vs cf e.g i.e eg ie approx ca resp incl fig figs no nr ref ser img im seq min max"
_ABBR2 = "ant post lat sup inf seg r l rt lt bilat dept hosp pt"
_ABBREVIATIONS = frozenset(f"{_ABBR} {_ABBR2}".split())
_MEASURES = "mm cm m ml cc l hu kg mg sec s h hr yr yrs mo wk in"
_UNITS = frozenset(_MEASURES.split())
_INTRODUCTION = re.compile(
    r"^\W*(?:when\b|as far as\b|in (?:the )?(?:evaluation|assessment|examination|lung|section|upper|study)|"
    r"on (?:the )?(?:evaluation|examination)|after\b|within the limits\b|evaluation of\b|at the level\b)"
    r"[^;:]{0,140}$",
    re.IGNORECASE,
)
_OPEN_LINE = re.compile(r"(?:[,/(-]|\b(?:and|or|of|in|the|with|to|a|an|no|is|are|was|were|by))$", re.IGNORECASE)
_NEXT_ITEM = re.compile(r"\s*(?:[-*•>·–]|\(?\d{1,2}[.)](?=\s|[A-Za-z])|[A-Z][A-Za-z /&,-]{1,40}:)")
_BULLET = re.compile(r"^[\s\-*•>·–\"“”]*(?:\(?\d{1,2}[.)](?=\s|[A-Za-z]))?[\s\-*•>·–\"“”]*")
_STOP = re.compile(  # begins with one set of signs: what is none of them is passed over at once
    r"[.!?;\n•·\"“”](?:(?<=[.!?])[.!?]*[\"'”)\]]*|(?<=[;\n•·])|(?<=[^\S\n][\"“”])(?=\s*\S)|(?<=[\"”])(?=\s+[A-Z•]))"
)
_SHORT_ANSWER = re.compile(
    r"\s*(?:none|nil|no|absent|negative|normal|unremarkable|present|yes)[\s.]*(?:\n|$)", re.IGNORECASE
)
_LIST_GOES_ON = re.compile(r"\s*+(?:[^.;:\n]{0,60}+;\s*+)*(?:or|nor|and/or)\b", re.IGNORECASE)  # one way to match
_LAST_WORD = re.compile(r"([A-Za-z][A-Za-z.]*+|\d++)$")


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences of a section in order, white space collapsed; empty for a text without a letter or digit.

    Every letter and digit of the text is in exactly one sentence (list numbers and bullets are dropped).
    """
    text = written(text)
    found: list[str] = []
    start = 0
    for match in _STOP.finditer(text):
        if match.start() < start or not _ends(text, start, match):
            continue
        sign = match.group()
        end = match.end() if sign[0] in ".!?;" else match.start()
        _add(found, text[start:end])
        start = match.end()
    _add(found, text[start:])
    return tuple(found)


def _add(found: list[str], piece: str) -> None:
    while len(piece) > LONGEST:
        cut = max(piece.rfind(sign, 0, LONGEST) for sign in (", ", " ")) + 1 or LONGEST
        _add(found, piece[:cut])
        piece = piece[cut:]
    piece = " ".join(piece.split())
    if not piece[:1].isalpha():
        piece = _BULLET.sub("", piece, count=1)
    piece = piece.rstrip(' "“”')
    if piece[:1].isalnum() or any(c.isalnum() for c in piece):
        found.append(piece)


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the sign at ``match`` ends the sentence that began at ``start``."""
    sign = text[match.start()]
    if sign in ".!?":
        return _stop_ends(text, start, match)
    if sign == "\n":
        return _line_ends(text, start, match)
    if sign == ";":
        listed = _LIST_GOES_ON.match(text, match.end())
        return not listed and not _INTRODUCTION.match(text[start : match.start()])
    return True


def _stop_ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether ".", "!" or "?" ends the sentence."""
    following = text[match.end() : match.end() + 3]
    after = following.strip()[:1]
    if not after:
        return True
    spaced = following[0].isspace()
    if match.group()[0] in "!?":
        return spaced and not after.islower() and ")" not in match.group()
    return _period_ends(text, start, match, spaced, after)


def _period_ends(text: str, start: int, match: re.Match[str], spaced: bool, after: str) -> bool:
    before = _LAST_WORD.search(text[max(start, match.start() - 24) : match.start()])
    word = before.group(1) if before else ""
    lower = word.lower()
    if not spaced:
        return word.isalpha() and len(word) > 2 and word[-1].islower() and after.isupper()
    if word.isdecimal() and not text[start : match.start() - len(word)].strip(' \t\n-*•"“”('):
        return False  # the number of a list item
    if lower in _ABBREVIATIONS and (lower != "no" or after.isdecimal()):
        return lower in ("l", "r", "rt", "lt", "ca", "ref") and after.isupper()
    if len(word) == 1 and word.isupper():
        return not after.isupper() or after == "T"
    if lower in _UNITS or word.isdecimal():
        return not after.islower()
    return True


def _line_ends(text: str, start: int, match: re.Match[str]) -> bool:
    line_start = max(text.rfind("\n", 0, match.start()) + 1, start)
    line = text[line_start : match.start()].rstrip()
    rest = text[match.end() : match.end() + 60]
    if not line.strip() or not rest.split("\n", 1)[0].strip():
        return True
    if _NEXT_ITEM.match(rest):
        return True
    after = rest.lstrip()[:1]
    if line.endswith(":") and _SHORT_ANSWER.match(rest):
        return False
    if _OPEN_LINE.search(line):
        return False
    return after.isupper() and len(line) < 60
