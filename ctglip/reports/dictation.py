"""Reports as they are written down: spoken punctuation, table rows and empty boxes become plain sentences."""

from __future__ import annotations

import re

from ctglip.reports.tables import tabulated

_SPOKEN = re.compile(r"\b(?:period|full stop|comma|new (?:line|paragraph))(?=\s|$)", re.IGNORECASE)
_SIGNS = {"period": ".", "full stop": ".", "comma": ",", "new line": "\n", "new paragraph": "\n", "semicolon": ";"}
_SAID = re.compile(
    r"\s*\b(?P<sign>period|full stop|comma|semicolon|new line|new paragraph)(?:\s+(?=\n)|(?=\s|$)|(?=[.,;]))",
    re.IGNORECASE,
)
_COLON = re.compile(
    r"(?P<head>(?:^|[.\n])[ \t]*(?!(?:the|a|an|no|sigmoid|ascending|descending|transverse|right|left|whole|entire)\b)"
    r"[a-z]+(?:[ \t]+[a-z]+){0,2}?)[ \t]+colon\b(?![ \t]*(?:is|are|was|shows|has|with|,|\.|$))[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_NO_PERIOD = re.compile(
    r"(?:of|time|long|short|month|week|day|year|follow-up|same|this|that|waiting|over)\s+(?:a\s+)?$", re.IGNORECASE
)
_BOX = re.compile(r"[\[{(][ \t_]*[\]})]")
_TICKED = re.compile(r"[\[{(][ \t]*[xX✓][ \t]*[\]})]")
_UNTICKED = re.compile(r"[\[{(][ \t_]*[\]})][^\n\[{(]*")
_NUMBERED = re.compile(r"(?<=[^\s\d,:])[ \t]+(\d{1,2}\)[ \t]+(?=[A-Z]))")
_NUMBER = r"\d+(?:[.,]\d+)?|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b"
_SIDE = r"(?:right|left|bilateral)\b"
_UNIT = r"(?:[ \t]+(?:mm|cm|(?:milli|centi)met(?:er|re)s?))?"
_TAKEN_BACK = (
    r"[ \t]*,?[ \t]+(?:correction|scratch that|strike that|make that|i mean|sorry|or rather)[,:]?[ \t]+(?:the[ ])?"
)
_CORRECTED = re.compile(
    rf"\b(?:{_SIDE}{_TAKEN_BACK}(?P<side>{_SIDE}),?|{_SIDE}(?:[ ][a-z]+){{1,3}}?{_TAKEN_BACK}(?={_SIDE})|"
    rf"(?:{_NUMBER}){_UNIT}{_TAKEN_BACK}(?={_NUMBER}))",
    re.IGNORECASE,
)
"""A side, with what follows it, or a number taken back by the next; nothing else is: "attenuation correction"."""
_TAKING_BACK = ("correction", "scratch that", "strike that", "make that", "i mean", "sorry", "or rather")
_FRAME = re.compile(r"[\[{]([A-Za-z][^\[\]{}\n]{1,200})[\]}]")


def written(text: str) -> str:
    """The text with its punctuation as signs, its table rows as "first cell: second, third" and its boxes opened."""
    if "\\" in text:  # signs that an export wrote out
        text = text.replace("\\t", "\t").replace("\\n", "\n")
    text = tabulated(text)
    if "[" in text or "{" in text:
        text = _UNTICKED.sub(" ", text) if _TICKED.search(text) else _BOX.sub(" ", text)
        text = _FRAME.sub(r"\1", _TICKED.sub(" ", text))
    if ") " in text:
        text = _NUMBERED.sub(r"\n\1", text)
    lower = text.lower()
    if any(phrase in lower for phrase in _TAKING_BACK):
        text = _CORRECTED.sub(lambda m: m.group("side") or "", text)
    spoken = any(sign in lower for sign in _SIGNS)
    return _dictated(text) if spoken and _is_dictated(text) else text


def _is_dictated(text: str) -> bool:
    """Whether signs are spoken: often enough, or in place of the written ones."""
    spoken = [m for m in _SPOKEN.finditer(text) if not _NO_PERIOD.search(text[: m.start()])]
    return bool(spoken) and (len(spoken) > 1 or not text.rstrip().endswith("."))


def _dictated(text: str) -> str:
    text = _SAID.sub(_sign, text)
    return _COLON.sub(lambda m: f"{m.group('head')}: ", text)


def _sign(match: re.Match[str]) -> str:
    if match.group("sign").lower() == "period" and _NO_PERIOD.search(match.string[: match.start("sign")]):
        return match.group()
    return _SIGNS[match.group("sign").lower()]
