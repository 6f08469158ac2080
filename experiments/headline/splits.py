"""Who is trained on, and who is asked: folds by their names.

``obese``: every patient of that anatomy is asked, and one in five of the others.
``phase=arterial``: the same with a phase, a kernel or a scanner in the place of an anatomy (a patient who has studies
of both kinds is ``unused``).
``90:phase=portal:liver:hepatic_steatosis``: among patients of training, 90 % of those with the finding are portal and
10 % of those without it; patients too many for that are ``unused``. ``50:...`` is the same number of patients with and
without the finding, half of either portal: what the first is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

TRAIN, VALIDATION = 0.7, 0.1
"""Shares of the patients who are not left out; the rest is the in-domain test."""
UNUSED = "unused"


def split_of(fold: str, cohort: pl.DataFrame, truth: pl.DataFrame) -> dict[str, str]:
    """Each patient's split.

    Args:
        fold: its name.
        cohort: patient_id, anatomy and what else folds are named by, one row a study.
        truth: study_id and a column of each ``organ:abnormality``.
    """
    share, (column, value), finding = parsed(fold)
    inside = (pl.col(column) == value).alias("of")
    both = (
        truth.select("study_id", (pl.col(finding) == 1).alias("ill"))
        if finding
        else truth.select("study_id", ill=False)
    )
    patients = (
        cohort.join(both, on="study_id")
        .group_by("patient_id")
        .agg(pl.col("anatomy").first(), inside.all().alias("all"), inside.any().alias("any"), pl.col("ill").max())
        .sort("patient_id")
    )
    dealt = _dealt(patients)
    if share is not None:
        return _confounded(dealt, patients, share)
    split: dict[str, str] = {}
    for patient, every, some in patients.select("patient_id", "all", "any").iter_rows():
        split[patient] = "test" if every else UNUSED if some else dealt[patient]
    return split


def parsed(fold: str) -> tuple[float | None, tuple[str, str], str]:
    """Share of confounding (None: the group is left out), column and value of the group, and the finding."""
    parts = fold.split(":", 2)
    group = parts[1] if len(parts) == 3 else fold
    column, _, value = group.rpartition("=")
    if len(parts) < 3:
        return None, (column or "anatomy", value), ""
    return float(parts[0]) / 100, (column, value), parts[2]


def _dealt(patients: pl.DataFrame) -> dict[str, str]:
    """Patients of each anatomy dealt out: each has the same place in all folds."""
    rng, split = np.random.default_rng(0), {}
    for anatomy in sorted(patients["anatomy"].unique()):
        names = rng.permutation(patients.filter(pl.col("anatomy") == anatomy)["patient_id"].to_numpy())
        ends = [round(part * len(names)) for part in (TRAIN, TRAIN + VALIDATION)]
        for number, name in enumerate(names):
            split[str(name)] = "train" if number < ends[0] else "val" if number < ends[1] else "test"
    return split


def _confounded(dealt: Mapping[str, str], patients: pl.DataFrame, share: float) -> dict[str, str]:
    """The dealt split with patients of training left out, so that such a share of the ill are of the group."""
    rng, split = np.random.default_rng(1), dict(dealt)
    cells: dict[tuple[bool, bool], list[str]] = {(ill, of): [] for ill in (True, False) for of in (True, False)}
    for name, every, some, ill in patients.select("patient_id", "all", "any", "ill").iter_rows():
        if split[name] == "test":
            continue
        if every != some or ill is None:
            split[name] = UNUSED
        else:
            cells[bool(ill), every].append(name)
    for ill in (True, False):
        aligned, other = cells[ill, ill], cells[ill, not ill]
        count = min(len(aligned) / 0.9, len(other) / 0.5)  # so that 90:10 and 50:50 train on as many patients
        for names, part in ((aligned, share), (other, 1 - share)):
            shuffled = rng.permutation(np.array(names, dtype=object))
            split |= dict.fromkeys(map(str, shuffled[round(count * part) :]), UNUSED)
    return split
