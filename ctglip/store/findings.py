"""The findings of a store's studies that count: what the parser read, and what came in beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from ctglip.store.tables import Store
from ctglip.types import PARSER, Finding, FindingsFrom
from ctglip.vocabulary.evidence import POSSIBLE, organs_named
from ctglip.vocabulary.organs import OrganDictionary, load_organs

_FINDING = tuple(Finding.__dataclass_fields__)


def findings_by_study(
    store: Store, study_ids: set[str], choice: FindingsFrom | None = None
) -> dict[str, list[Finding]]:
    """The findings of some studies that count, in reading order; studies without any are left out.

    Args:
        choice: which count; the store's own (``store.json``) when None.
    """
    found: dict[str, list[Finding]] = {}
    table = store.scan("findings").filter(pl.col("study_id").is_in(list(study_ids))).collect()
    for columns in table.sort("study_id", maintain_order=True).iter_rows(named=True):
        finding = Finding(**{name: columns[name] for name in _FINDING})
        found.setdefault(columns["study_id"], []).append(finding)
    organs = load_organs()
    return {name: counting(rows, choice or store.info.findings_from, organs) for name, rows in found.items()}


def counting(findings: Sequence[Finding], choice: FindingsFrom, organs: OrganDictionary) -> list[Finding]:
    """The findings of one study that count, by ``sentence_index``.

    ``parser`` and ``both`` mean what they say. ``given``, the default, takes the parser's rows only for organs of which
    the given ones say nothing: whoever gave them had the organ in view, and two readings of one organ would let a
    caption affirm what its negatives deny. A given finding of an organ speaks of the organ's parts too. Yet many sets
    write down a part of what a report says, so that what the parser alone finds abnormal becomes ``uncertain``,
    neither taught nor drawn as false; it is dropped where the given findings name the same abnormality, or call the
    organ normal.

    Args:
        findings: all rows of the study.
        organs: says what is a part of what.
    """
    given = [row for row in findings if row.source != PARSER]
    if not given or choice == "both":
        return sorted(findings, key=lambda row: row.sentence_index)
    parsed = [row for row in findings if row.source == PARSER]
    if choice == "parser":
        return parsed
    stated: defaultdict[str, list[Finding]] = defaultdict(list)
    for row in given:
        for organ in organs_named(row, organs):
            for name in (organ, *organs.parts_of(organ)):
                stated[name].append(row)
    still_counting = [one for row in parsed if (one := _beside(row, stated, organs_named(row, organs)))]
    return sorted((*still_counting, *given), key=lambda row: row.sentence_index)


def _beside(row: Finding, stated: dict[str, list[Finding]], named: Sequence[str]) -> Finding | None:
    """What is left of a row of the parser beside what was given."""
    if not named or not all(organ in stated for organ in named):
        return row
    rivals = [one for organ in named for one in stated[organ]]
    settled = any(one.status == "normal" or one.abnormality == row.abnormality for one in rivals)
    if settled or row.abnormality is None or row.status not in POSSIBLE:
        return None
    return replace(row, status="uncertain")
