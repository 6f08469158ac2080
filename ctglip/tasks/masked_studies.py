"""The studies of a store that a segmentation learns from: those whose masks and split are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ctglip.errors import CohortError
from ctglip.store.tables import Store
from ctglip.tasks.studies import TEST, TRAIN, VAL, Studies
from ctglip.tasks.targets import UnusedInput
from ctglip.types import Failure


def masked_studies(
    store: Store,
    found: Mapping[str, frozenset[int] | None],
    failures: Sequence[Failure],
    targets: Sequence[str],
    image: str,
) -> Studies:
    """The studies with masks and a split.

    Args:
        found: numbers (from 1) of the targets that each readable study shows; None where its masks say nothing of them.
        failures: studies that cannot be read.
        targets: names of what is segmented.
        image: what errors call a study: a scan or a radiograph.

    Raises:
        CohortError: code ``empty_split``: no training study shows one of the targets; no study to validate or to test
            on shows any.
    """
    patients = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    splits = dict(store.table("splits").select("study_id", "split").iter_rows())
    masked = {name: numbers for name, numbers in found.items() if numbers is not None}
    problems = [UnusedInput("unreadable", failure.study_id, failure.message) for failure in failures]
    problems += [
        UnusedInput("no_mask", name, "It has no masks of the targets.") for name in found if name not in masked
    ]
    problems += [
        UnusedInput("no_split", name, "It has masks, but is in no split.") for name in masked if name not in splits
    ]
    names = tuple(name for name in masked if name in splits)
    for split in (TRAIN, VAL, TEST):
        present = frozenset().union(*(masked[name] for name in names if splits[name] == split))
        missing = [target for number, target in enumerate(targets, start=1) if number not in present]
        if len(missing) == len(targets) or (missing and split == TRAIN):
            raise CohortError(
                f"No {image} of the split {split!r} has a mask of {', '.join(missing)} ({len(problems)} {image}s could "
                "not be used).",
                code="empty_split",
                fix="Give the cohort masks before preprocessing, or set another target under segmentation.",
            )
    of = tuple(patients[name] for name in names), tuple(splits[name] for name in names)
    return Studies((), names, np.zeros((len(names), 0), np.float32), *of, tuple(problems))
