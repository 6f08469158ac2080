"""A report to the rows of ``findings.parquet``: every sentence gives at least one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ctglip.reports.ellipsis import announced, completed
from ctglip.reports.findings import NOT_SEEN, SentenceReading, StatedOrgan, read_sentence
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import members
from ctglip.reports.sections import short_runs, split_sections
from ctglip.reports.sentences import split_sentences
from ctglip.types import Finding, Laterality, Report, Status
from ctglip.vocabulary.abnormalities import AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs

_ITEM = re.compile(r"\d\s*(?:mm|cm)\b", re.IGNORECASE)
_HEADED = re.compile(r"^\W*([A-Za-z][A-Za-z /&,-]{2,40}):")
_BESIDE = re.compile(
    r"^\W*(?:(?:there (?:is|are)|an?|with|small|mild|moderate|minimal|some)\s+)*"
    r"(?:adjacent|underlying|overlying|associated|accompanying|ipsilateral|compressive)\b(?! to)",
    re.IGNORECASE,
)
_NOT_REPORTED = ("indication", "technique", "comparison")
"""Sections that tell why and how, not what is seen: nothing in them is affirmed."""


class ReportParser:
    """Reads reports against one pair of dictionaries. Build it once; ``parse`` keeps no state between reports.

    Args:
        organs: organ dictionary, the shipped one by default.
        abnormalities: abnormality dictionary, the shipped one by default.
        remember: how many distinct sentences are kept read (reports repeat themselves).

    Examples:
        >>> import ctglip
        >>> findings = ctglip.ReportParser().parse("The liver shows steatosis. No gallstones.")
        >>> [(one.organ, one.abnormality, str(one.status)) for one in findings]
        [('liver', 'hepatic_steatosis', 'affirmed'), ('gallbladder', 'gallstone', 'negated')]
    """

    def __init__(
        self,
        organs: OrganDictionary | None = None,
        abnormalities: AbnormalityDictionary | None = None,
        remember: int = 20_000,
    ) -> None:
        organs = organs or load_organs()
        self.lexicon = Lexicon(organs, abnormalities or load_abnormalities(organs=organs))
        self._read = lru_cache(maxsize=remember)(self._read_sentence)

    def _read_sentence(self, text: str) -> SentenceReading:
        reading = read_sentence(text, self.lexicon)
        heading = self._heading(text) if ":" in text else None
        return reading._replace(heading=heading) if heading else reading

    def parse(self, report: Report | str) -> tuple[Finding, ...]:
        """Findings of a report in reading order; empty only for a report without a letter or digit.

        ``sentence_index`` counts through all sections. A text is split into its sections first.

        Raises:
            ReportError: ``too_large``, see ``sections.clean``.
        """
        if isinstance(report, str):
            report = split_sections(report)
        found: list[Finding] = []
        index = 0
        for section, text in report.sections().items():
            topic: str | None = None
            head: str | None = None
            last: StatedOrgan | None = None
            heading: str | None = None
            of_organ, reported = False, section not in _NOT_REPORTED
            for sentence in split_sentences(short_runs(text)):
                reading = self._read(completed(sentence, topic, last, heading, self.lexicon, of_organ))
                head = reading.heading or head
                rows = self._in_context(reading, topic, head)
                if last is not None and last.laterality and _BESIDE.match(sentence):
                    rows = [self._beside(row, last.laterality) for row in rows]
                for row in rows if reported else _unreported(rows):
                    status = row.status if reported else _as_told(row.status)
                    found.append(Finding(index, section, sentence, row.organ, row.abnormality, status, row.laterality,
                                         row.level, row.reason))  # fmt: skip
                    topic, last = row.organ or topic, row if row.abnormality else last
                topic, of_organ = reading.topic or topic, reading.of_organ
                heading = announced(sentence, reading.rows) or (heading if heading and _ITEM.search(sentence) else None)
                index += 1
        return tuple(found)

    def _heading(self, sentence: str) -> str | None:
        """The organ that a sentence is headed by: "BONES: ..."."""
        match = _HEADED.match(sentence)
        if match is None:
            return None
        organs = self.lexicon.find_locations(self.lexicon.read(match.group(1))[0])
        return organs[0].value.organ if len(organs) == 1 else None

    def _in_context(
        self, reading: SentenceReading, topic: str | None, head: str | None = None
    ) -> Iterator[StatedOrgan]:
        """The rows of a sentence, those without an organ read with the topic, else what it named before.

        What is denied under a heading is denied of the heading's organ, not of its part that was named last.
        """
        named: str | None = None
        for row in reading.rows:
            if row.organ is not None:
                named = row.organ
                yield row
            elif row.open_to is not None:
                container = head if head and topic in self.lexicon.organs.parts_of(head) else None
                order = (container if row.status == "negated" else None, topic, named)
                found = (self.lexicon.resolve(row.open_to.kind, row.open_to.name, organ) for organ in order if organ)
                resolved = next((pair for pair in found if pair), None)
                if resolved is not None:
                    for organ, side in self._on_sides(resolved[1], row.sides):
                        yield StatedOrgan(organ, resolved[0], row.status, side, row.level)
                else:
                    yield from row.otherwise or (row,)
            elif reading.points_back and topic:
                yield StatedOrgan(topic, None, row.status, self.lexicon.organs[topic].side)
            else:
                yield row

    def _beside(self, row: StatedOrgan, side: Laterality) -> StatedOrgan:
        """What is adjacent to or underlies the finding before is on its side, unless it says another."""
        if row.laterality or row.status == "negated" or row.organ is None:
            return row
        sided = self._on_sides(row.organ, frozenset({side}))
        return next((row._replace(organ=organ, laterality=side) for organ, side in sided), row)

    def _on_sides(self, organ: str, sides: frozenset[str]) -> Iterator[tuple[str, Laterality | None]]:
        """The topic's organ, or its like on the sides that the sentence itself names."""
        pair = self.lexicon.pair_of(self.lexicon.term_of(organ)) if sides else None
        for name, side in members(pair, sides) if pair else ((organ, None),):
            if name:
                yield name, side or self.lexicon.side_of(name)


def _as_told(status: Status) -> Status:
    """The status of a row in a section that reports nothing."""
    return "historical" if status in ("affirmed", "normal") else status


def _unreported(rows: Iterable[StatedOrgan]) -> list[StatedOrgan]:
    """The rows of a sentence, without what is only asked, scanned or compared with: such sections find nothing."""
    return [row for row in rows if row.abnormality is None] or [NOT_SEEN]


@lru_cache(maxsize=4)
def get_parser(
    organs: OrganDictionary | None = None, abnormalities: AbnormalityDictionary | None = None
) -> ReportParser:
    """The parser over two dictionaries, by default the shipped ones, built once for each pair."""
    return ReportParser(organs, abnormalities)
