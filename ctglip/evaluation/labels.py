"""What is true of which organ: from a label table, or from the findings of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ctglip.data.samples import OrganInstance
from ctglip.errors import CohortError
from ctglip.inference.scoring import Pair
from ctglip.labels import LabelTable
from ctglip.store.tables import Store
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence, organ_evidence
from ctglip.vocabulary.organs import OrganDictionary

_LISTED = 5


@dataclass(frozen=True)
class PairLabels:
    """The labels of one (organ, abnormality): the numbers of the organ instances that have one, and 0 or 1 for each."""

    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]

    def both(self, least: int = 1) -> bool:
        """At least so many positives and so many negatives."""
        positives = int(self.labels.sum())
        return positives >= least and len(self.labels) - positives >= least


Labels = dict[Pair, PairLabels]


def pairs_of(table: LabelTable, abnormalities: AbnormalityDictionary) -> tuple[Pair | None, ...]:
    """The (organ, abnormality) of each column; a column about the study is about the abnormality's default organ. None
    for columns of a protocol's own.

    Raises:
        CohortError: code ``bad_labels``: two columns are about the same.
    """
    found: list[Pair | None] = []
    for column in table.columns:
        if column.abnormality is None:
            found.append(None)
            continue
        pair = (column.organ or abnormalities[column.abnormality].default_organ, column.abnormality)
        if pair in found:
            first = table.columns[found.index(pair)].heading
            raise CohortError(
                f"{table.path}: columns {first!r} and {column.heading!r} ask the same ({':'.join(pair)}).",
                code="bad_labels",
                fix="Leave one of them out, or ignore it (ignore).",
            )
        found.append(pair)
    return tuple(found)


def check_studies(table: LabelTable, store: Store, split: str) -> tuple[str, ...]:
    """Check a label table against a store.

    Returns:
        What cannot be used: studies of the table that the store does not have.

    Raises:
        CohortError: ``unknown_study``: the store has none of its studies, or the split none; ``other_patient``,
            ``other_split``: it gives studies to other patients or splits than the store.
    """
    splits = dict(store.table("splits").select("study_id", "split").iter_rows())
    patients = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    unknown = [study for study in table.study_ids if study not in patients]
    if len(unknown) == len(table.study_ids) or not any(splits.get(study) == split for study in table.study_ids):
        where = store.path if len(unknown) == len(table.study_ids) else f"the split {split!r} of {store.path}"
        raise CohortError(
            f"None of the {len(table.study_ids)} studies of {table.path} is in {where}: it names "
            f"{_some(table.study_ids)}, the store has {_some(store.study_ids)}.",
            code="unknown_study",
            fix="Write study ids as the cohort table has them.",
        )
    for what, given, known in (("patient", table.patients, patients), ("split", table.splits, splits)):
        other = [study for study, value in given.items() if known.get(study, value) != value]
        if other:
            raise CohortError(
                f"{table.path} gives {len(other)} studies to another {what} than the store: {_some(other)}.",
                code=f"other_{what}",
                fix=f"Correct the column, or leave it out: the store's {what}s count.",
            )
    if not unknown:
        return ()
    return (f"{len(unknown)} studies of {table.path.name} are not in the store: {_some(unknown)}.",)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more


def labels_from_table(
    table: LabelTable, instances: Sequence[OrganInstance], abnormalities: AbnormalityDictionary
) -> Labels:
    """Labels of organ instances from a label table, see ``pairs_of``.

    Raises:
        CohortError: no column is about an (organ, abnormality), or two are about the same.
    """
    pairs = pairs_of(table, abnormalities)
    if not any(pairs):
        raise CohortError(
            f"No column of {table.path} names an abnormality of the dictionaries.",
            code="no_labels",
            fix="Name columns organ:abnormality, for example liver:hepatic_steatosis.",
        )
    values = table.of_studies([instance.study_id for instance in instances])
    organs = np.array([instance.organ for instance in instances])
    found: Labels = {}
    for number, pair in enumerate(pairs):
        if pair is not None:
            rows = np.flatnonzero((organs == pair[0]) & np.isfinite(values[:, number]))
            found[pair] = PairLabels(rows, values[rows, number].astype(np.int64))
    return found


def labels_from_findings(
    findings: Mapping[str, Sequence[Finding]],
    instances: Sequence[OrganInstance],
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
    unmentioned_as_negative: bool = False,
) -> Labels:
    """Labels of organ instances from reports, for every abnormality that a report affirms somewhere among them.

    Affirmed is 1. Not affirmed is 0 where the report mentions the organ (with ``unmentioned_as_negative`` everywhere);
    what it leaves uncertain, and relatives of what it affirms or leaves uncertain, have no label.

    Args:
        findings: study id -> findings of its report; a study without a report has no entry and no labels.
    """
    evidence = {
        number: organ_evidence(findings[instance.study_id], instance.organ, organs, abnormalities)
        for number, instance in enumerate(instances)
        if instance.study_id in findings
    }
    pairs = sorted({(e.organ, name) for e in evidence.values() for name in e.affirmed})
    by_organ: dict[str, dict[int, OrganEvidence]] = {}
    for number, one in evidence.items():
        by_organ.setdefault(one.organ, {})[number] = one
    found: Labels = {}
    for organ, name in pairs:
        labels = {
            number: _label(one, name, abnormalities, unmentioned_as_negative) for number, one in by_organ[organ].items()
        }
        known = {number: label for number, label in labels.items() if label is not None}
        found[organ, name] = PairLabels(
            np.array(list(known), dtype=np.int64), np.array([*known.values()], dtype=np.int64)
        )
    return found


def _label(
    evidence: OrganEvidence, name: str, abnormalities: AbnormalityDictionary, unmentioned_as_negative: bool
) -> int | None:
    if name in evidence.affirmed:
        return 1
    related = abnormalities.related(name) if name in abnormalities else {name}
    if related & (evidence.affirmed.keys() | evidence.uncertain):
        return None
    return 0 if evidence.mentioned or unmentioned_as_negative else None
