"""An organ as its counterpart on the other side: what its report would say of a mirror image, if it can be said.

Only paired organs have a mirror image that is an organ (a mirrored liver is none), and only texts whose every organ
has a counterpart, or is a pair itself, can exchange sides. Whether a text survived is proved by reading it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from ctglip.reports.parser import ReportParser
from ctglip.types import Finding, Laterality
from ctglip.vocabulary.organs import OrganDictionary

_SIDE = re.compile(r"\b(left|right)(?=\b|ward|sided)", re.IGNORECASE)
_UNSWAPPABLE = re.compile(r"\b(?:lt|rt|[lr]|dextro\w*|levo\w*|sinistr\w*|clockwise|situs)\b", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}
_OTHER_LATERALITY: dict[str, Laterality] = {"left": "right", "right": "left"}
_Contents = frozenset[tuple[str | None, str | None, str]]


class Mirror:
    """Exchanges left and right in findings.

    Args:
        organs: says which organs have a counterpart.
        parser: reads texts again after their sides were exchanged.
    """

    def __init__(self, organs: OrganDictionary, parser: ReportParser) -> None:
        self.organs = organs
        self.parser = parser
        self.text = lru_cache(maxsize=None)(self._text)

    def findings(self, findings: Sequence[Finding], organ: str) -> tuple[Finding, ...] | None:
        """What concerns an organ, said of its mirror image.

        Args:
            findings: of the study's report.
            organ: a name.

        Returns:
            The sentences that speak of the organ, its parts or what it is a part of; None where the organ has no
            counterpart, or one of the sentences cannot exchange sides.
        """
        if self.organs.mirror(organ) == organ:
            return None
        family = {organ, *self.organs.parts_of(organ), *self.organs.containing(organ)}
        sentences = {finding.sentence for finding in findings if finding.organ in family}
        concerned = [finding for finding in findings if finding.sentence in sentences]
        swapped = {sentence: self.text(sentence) for sentence in sentences}
        if any(text is None for text in swapped.values()) or not self._paired(concerned, swapped):
            return None
        return tuple(
            replace(
                finding,
                sentence=swapped[finding.sentence] or "",
                organ=finding.organ and self.organs.mirror(finding.organ),
                laterality=_OTHER_LATERALITY.get(finding.laterality or "", finding.laterality),
            )
            for finding in concerned
        )

    def _paired(self, findings: Iterable[Finding], swapped: dict[str, str | None]) -> bool:
        """Whether all organs of the sentences whose words change have a counterpart."""
        return all(
            self._has_counterpart(finding.organ)
            for finding in findings
            if finding.organ and swapped[finding.sentence] != finding.sentence
        )

    def _text(self, text: str) -> str | None:
        """A text with left and right exchanged, or None where its meaning would not follow."""
        if _UNSWAPPABLE.search(text):
            return None
        swapped = _SIDE.sub(_exchanged, text)
        before, after = self._read(text), self._read(swapped)
        if swapped != text and not all(self._has_counterpart(organ) for organ, _, _ in before if organ):
            return None
        mirrored = frozenset((o and self.organs.mirror(o), name, status) for o, name, status in before)
        sided = [o for o, _, _ in before if o and self.organs[o].side and self.organs.mirror(o) == o]
        return swapped if after == mirrored and not sided else None

    def _read(self, text: str) -> _Contents:
        found = self.parser.parse(f"FINDINGS: {text}")
        return frozenset((finding.organ, finding.abnormality, finding.status) for finding in found)

    def _has_counterpart(self, organ: str) -> bool:
        """Whether it is an organ of one side with a counterpart, or a group of such organs (the kidneys)."""
        if self.organs[organ].side is not None:
            return self.organs.mirror(organ) != organ
        parts = self.organs[organ].parts
        return bool(parts) and all(self.organs.mirror(part) != part for part in parts)


def _exchanged(match: re.Match[str]) -> str:
    word = match[1]
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
