"""Findings for a person to read: each sentence, and under it what was understood, in rich's markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.markup import escape

from ctglip.types import Finding, Status
from ctglip.vocabulary.abnormalities import AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs

STYLES: dict[Status, str] = {
    "affirmed": "bold red",
    "uncertain": "yellow",
    "historical": "blue",
    "negated": "green",
    "normal": "green",
}
"""Colour of each status; the status also stands there as a word."""


def readable(
    findings: Sequence[Finding],
    organs: OrganDictionary | None = None,
    abnormalities: AbnormalityDictionary | None = None,
) -> str:
    """Markup text: a heading a section, a line a sentence, an indented line a finding.

    ``rich.print(readable(findings))`` shows it in colour; square brackets of the report are escaped.

    Args:
        findings: rows of one report in reading order.
        organs: for the display names; the shipped dictionary by default.
        abnormalities: likewise.
    """
    organs = organs or load_organs()
    return "\n".join(_lines(findings, organs, abnormalities or load_abnormalities(organs=organs)))


def _lines(findings: Sequence[Finding], organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> Iterator[str]:
    for section, in_section in groupby(findings, key=lambda row: row.section):
        yield f"[bold underline]{escape(section.capitalize())}[/]"
        for _, rows in groupby(in_section, key=lambda row: row.sentence_index):
            listed = list(rows)
            yield escape(listed[0].sentence)
            yield from (f"    {_finding(row, organs, abnormalities)}" for row in listed)


def _finding(row: Finding, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> str:
    what = abnormalities[row.abnormality].display if row.abnormality else None
    if row.organ is None:
        named = f"{escape(what)}: " if what else ""
        return f"[dim]- {named}not placed ({escape(row.reason or 'no reason given')})[/]"
    location = escape(organs[row.organ].display)
    details = ", ".join(escape(part) for part in (row.laterality, row.level) if part and part not in location)
    text = f"{location}: {escape(what)}" if what else location
    style = STYLES[row.status]
    return f"[{style}]→ {text}, {row.status}[/]" + (f" [dim]({details})[/]" if details else "")
