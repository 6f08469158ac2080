"""Labels and store brought together: which labelled studies there are, whose they are, in which split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from ctglip.errors import CohortError
from ctglip.labels import LabelTable
from ctglip.store.tables import Store
from ctglip.tasks.targets import Target, TargetTable, UnusedInput

TRAIN, VAL, TEST = "train", "val", "test"
_LEAST = 2
_LISTED = 5


@dataclass(frozen=True)
class Studies:
    """The labelled studies of a store.

    Attributes:
        targets: the columns that can be learned.
        study_ids: sorted.
        values: 0 or 1, the number of the class, or NaN where it is not known.
        patients: of each study.
        splits: of each study.
        problems: what could not be used.
    """

    targets: tuple[Target, ...]
    study_ids: tuple[str, ...]
    values: Float[np.ndarray, "s t"]
    patients: tuple[str, ...]
    splits: tuple[str, ...]
    problems: tuple[UnusedInput, ...]

    def of(self, split: str) -> Int[np.ndarray, " n"]:
        """The rows of a split."""
        return np.flatnonzero(np.array(self.splits) == split)

    def with_problems(self, more: tuple[UnusedInput, ...]) -> Studies:
        """The same with more problems."""
        return replace(self, problems=(*self.problems, *more))

    def subset(self, fraction: float, seed: int) -> Int[np.ndarray, " n"]:
        """Training rows of a share of the training patients, at least two of them.

        Patients are in an order that the seed alone decides, and a smaller share is a beginning of a larger one.
        """
        rows = self.of(TRAIN)
        patients = {self.patients[row] for row in rows}
        order = sorted(patients, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
        chosen = set(order[: max(math.ceil(fraction * len(order) - 1e-9), _LEAST)])
        return np.array([row for row in rows if self.patients[row] in chosen], dtype=np.int64)


def join(targets: TargetTable, store: Store) -> Studies:
    """Lay a label table on a store.

    Raises:
        CohortError: ``patient_in_two_splits``; ``other_patient``: the table gives a study to another patient than the
            store; ``empty_split``: no labelled study to train or to judge on; ``no_labels``: nothing can be learned.
    """
    table = targets.labels
    patients = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    splits = dict(store.table("splits").select("study_id", "split").iter_rows()) | dict(table.splits)
    _check_patients(table, patients, splits)
    problems: list[UnusedInput] = []
    usable: list[int] = []
    for row, study_id in enumerate(table.study_ids):
        known = bool(np.isfinite(table.values[row]).any())
        if study_id not in patients:
            problems.append(UnusedInput("unknown_study", study_id, "It has a row of labels, but is not in the store."))
        elif not known:
            problems.append(UnusedInput("no_labels", study_id, "Its row of labels is empty."))
        elif study_id not in splits:
            problems.append(UnusedInput("no_split", study_id, "It has labels, but is in no split."))
        else:
            usable.append(row)
    listed = set(table.study_ids)
    problems += [
        UnusedInput("no_labels", name, "It is in the store, but has no row of labels.")
        for name in sorted(patients)
        if name not in listed
    ]
    usable.sort(key=lambda row: table.study_ids[row])
    names = tuple(table.study_ids[row] for row in usable)
    studies = Studies(
        targets.targets,
        names,
        table.values[usable],
        tuple(patients[name] for name in names),
        tuple(splits[name] for name in names),
        tuple(problems),
    )
    for split in (TRAIN, TEST):
        if not len(studies.of(split)):
            raise CohortError(
                f"No study of the split {split!r} has a label ({len(problems)} studies could not be used"
                f"{', first: ' + problems[0].subject + ': ' + problems[0].message if problems else ''}).",
                code="empty_split",
                fix="Label studies of each split, or give the table a column 'split'.",
            )
    return _learnable(studies)


def _check_patients(table: LabelTable, patients: dict[str, str], splits: dict[str, str]) -> None:
    others = [name for name, patient in table.patients.items() if patients.get(name, patient) != patient]
    if others:
        raise CohortError(
            f"The label table gives {len(others)} studies to other patients than the store does: "
            f"{', '.join(others[:_LISTED])}.",
            code="other_patient",
            fix="Correct the column patient_id, or leave it out.",
        )
    first_study: dict[str, tuple[str, str]] = {}
    faults: list[str] = []
    for study_id in sorted(splits):
        if study_id in patients:
            first, split = first_study.setdefault(patients[study_id], (study_id, splits[study_id]))
            if split != splits[study_id]:
                faults.append(f"{patients[study_id]} ({first}: {split}, {study_id}: {splits[study_id]})")
    if faults:
        raise CohortError(
            f"{len(faults)} patients are in two splits: {'; '.join(faults[:_LISTED])}.",
            code="patient_in_two_splits",
            fix="Give all studies of a patient the same split.",
        )


def _learnable(studies: Studies) -> Studies:
    """Without the columns of which the training split knows one answer alone; each becomes a problem."""
    train = studies.of(TRAIN)
    keep: list[int] = []
    problems: list[UnusedInput] = []
    for number, target in enumerate(studies.targets):
        found = studies.values[train, number]
        answers = np.unique(found[np.isfinite(found)])
        if len(answers) > 1:
            keep.append(number)
            continue
        what = f"knows one answer alone ({answers[0]:g})" if len(answers) else "knows no answer"
        problems.append(UnusedInput("one_class", target.column, f"The training split {what}, so it is not learned."))
    if not keep:
        raise CohortError(
            f"No column has two answers in the training split: {', '.join(p.subject for p in problems[:_LISTED])}.",
            code="no_labels",
            fix="Label more studies.",
        )
    return replace(
        studies,
        targets=tuple(studies.targets[number] for number in keep),
        values=studies.values[:, keep],
        problems=(*studies.problems, *problems),
    )


@dataclass(frozen=True)
class Bags:
    """The organs of some studies: N instances, each of one study.

    Attributes:
        study: the study's row of each.
        organ: the organ of each, by its number in ``organs``.
        organs: names.
    """

    study: Int[np.ndarray, " n"]
    organ: Int[np.ndarray, " n"]
    organs: tuple[str, ...]

    def rows(self, studies: Sequence[int] | np.ndarray) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        """The instances of some studies, and for each the place of its study among them."""
        chosen = np.asarray(studies, dtype=np.int64)
        position = np.full(max(self.study.max(initial=-1), chosen.max(initial=-1)) + 1, -1, dtype=np.int64)
        position[chosen] = np.arange(len(chosen))
        found = np.flatnonzero(position[self.study] >= 0)
        return found, position[self.study[found]]

    def answerable(self, targets: Sequence[Target], studies: int) -> Bool[np.ndarray, "s t"]:
        """Which studies have an organ that a target is read from."""
        out = np.zeros((studies, len(targets)), dtype=bool)
        for number, target in enumerate(targets):
            chosen = np.isin(self.organ, [self.organs.index(name) for name in target.organs])
            out[self.study[chosen], number] = True
        return out


def unanswerable(studies: Studies, bags: Bags) -> tuple[Studies, tuple[UnusedInput, ...]]:
    """Labels whose organs the study lacks become unknown, and are listed."""
    lacking = np.isfinite(studies.values) & ~bags.answerable(studies.targets, len(studies.study_ids))
    problems = []
    for row, column in zip(*np.nonzero(lacking), strict=True):
        target = studies.targets[column]
        organs = ", ".join(target.organs[:4])
        message = f"{target.column}: the store has none of its organs ({organs}) in this study."
        problems.append(UnusedInput("no_organ", studies.study_ids[row], message))
    values = np.where(lacking, np.nan, studies.values).astype(np.float32)
    return replace(studies, values=values), tuple(problems)
