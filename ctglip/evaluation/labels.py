"""What is true of which organ: from a label table, or from what the reports' findings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int

from ctglip.data.cache import Place
from ctglip.errors import CohortError
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence, organ_evidence
from ctglip.vocabulary.organs import OrganDictionary

Pair = tuple[str, str]


@dataclass(frozen=True)
class PairLabels:
    """What is known of one (organ, abnormality).

    Attributes:
        rows: the places where it is known, by their number.
        labels: 0 or 1, one for each of them.
    """

    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]

    def both(self, least: int = 1) -> bool:
        """At least so many positives and so many negatives."""
        positives = int(self.labels.sum())
        return positives >= least and len(self.labels) - positives >= least


Labels = dict[Pair, PairLabels]


def columns_of(table: pl.DataFrame, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> dict[str, Pair]:
    """The columns of a label table that are about an (organ, abnormality): ``organ:abnormality`` as it says,
    ``abnormality`` alone (by name, display name or synonym) about the abnormality's default organ."""
    known = {f"{organ}:{name}": (organ, name) for organ in organs.names for name in abnormalities.names}
    known |= {name: (abnormalities[name].default_organ, name) for name in abnormalities.names}
    columns = {column: known[column] for column in table.columns if column in known}
    for column in table.columns:
        entry = abnormalities.find(column) if column not in columns and ":" not in column else None
        if entry is not None and (entry.default_organ, entry.name) not in columns.values():
            columns[column] = (entry.default_organ, entry.name)
    return columns


def labels_from_table(
    table: pl.DataFrame, places: Sequence[Place], organs: OrganDictionary, abnormalities: AbnormalityDictionary
) -> Labels:
    """Labels of places from a label table (``cohort.read_labels``), see ``columns_of``.

    Raises:
        CohortError: no column names an (organ, abnormality) of the dictionaries.
    """
    columns = columns_of(table, organs, abnormalities)
    if not columns:
        raise CohortError(
            f"No column of the label table names an abnormality of the dictionaries; it has {table.columns[1:6]}.",
            code="no_labels",
            fix="Name columns organ:abnormality, for example liver:hepatic_steatosis.",
        )
    by_study = {row["study_id"]: row for row in table.iter_rows(named=True)}
    found: dict[Pair, list[tuple[int, int]]] = {pair: [] for pair in columns.values()}
    by_organ: dict[str, list[tuple[str, Pair]]] = {}
    for column, pair in columns.items():
        by_organ.setdefault(pair[0], []).append((column, pair))
    for number, place in enumerate(places):
        row = by_study.get(place.study_id, {})
        for column, pair in by_organ.get(place.organ, ()):
            if row.get(column) is not None:
                found[pair].append((number, int(row[column])))
    return _arrays(found)


def labels_from_findings(
    findings: Mapping[str, Sequence[Finding]],
    places: Sequence[Place],
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
    silence_is_normal: bool = False,
) -> Labels:
    """Labels of places from reports, for every abnormality that a report affirms somewhere among them.

    Affirmed is 1. Not affirmed is 0 where the report speaks of the organ (or where silence means normal); what it
    leaves uncertain, and relatives of what it affirms or leaves uncertain, are not known.

    Args:
        findings: study id -> findings of its report; a study without a report has no entry and no labels.
    """
    evidence = {
        number: organ_evidence(findings[place.study_id], place.organ, organs, abnormalities)
        for number, place in enumerate(places)
        if place.study_id in findings
    }
    pairs = sorted({(e.organ, name) for e in evidence.values() for name in e.affirmed})
    found: dict[Pair, list[tuple[int, int]]] = {pair: [] for pair in pairs}
    by_organ: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_organ.setdefault(pair[0], []).append(pair)
    for number, said in evidence.items():
        for pair in by_organ.get(said.organ, ()):
            label = _label(said, pair[1], abnormalities, silence_is_normal)
            if label is not None:
                found[pair].append((number, label))
    return _arrays(found)


def _label(said: OrganEvidence, name: str, abnormalities: AbnormalityDictionary, silence_is_normal: bool) -> int | None:
    if name in said.affirmed:
        return 1
    related = abnormalities.related(name) if name in abnormalities else {name}
    if related & (said.affirmed.keys() | said.uncertain):
        return None
    return 0 if said.mentioned or silence_is_normal else None


def _arrays(found: Mapping[Pair, Sequence[tuple[int, int]]]) -> Labels:
    out: Labels = {}
    for pair, known in found.items():
        rows, labels = zip(*known, strict=True) if known else ((), ())
        out[pair] = PairLabels(np.array(rows, dtype=np.int64), np.array(labels, dtype=np.int64))
    return out
