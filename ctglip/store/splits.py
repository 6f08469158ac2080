"""Which patient is in which split: drawn once from a seed, never changed behind the user's back."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import polars as pl
from pydantic import field_validator

from ctglip.config import Settings
from ctglip.errors import StoreError
from ctglip.store.findings import findings_by_study
from ctglip.store.format import SPLITS_SCHEMA
from ctglip.store.parts import table_path, write_parquet
from ctglip.store.tables import Store

NAMES: tuple[str, ...] = ("train", "val", "test")


class SplitSettings(Settings):
    """How patients without a given split are divided.

    Attributes:
        fractions: shares of train, val and test.
        seed: decides the order in which patients are dealt out.
        stratify: keep the share of each affirmed abnormality alike in all splits.
    """

    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seed: int = 0
    stratify: bool = False

    @field_validator("fractions")
    @classmethod
    def _shares(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("the fractions of train, val and test must be >= 0 and sum to 1")
        return value


def check_given(studies: Iterable[tuple[str, str, str | None]]) -> dict[str, str]:
    """The split that each patient was given, from (study_id, patient_id, split or None).

    Raises:
        StoreError: ``patient_in_two_splits``.
    """
    given: dict[str, tuple[str, str]] = {}
    for study_id, patient_id, split in studies:
        if split is None:
            continue
        first, chosen = given.setdefault(patient_id, (study_id, split))
        if chosen != split:
            raise StoreError(
                f"Patient {patient_id!r} is in two splits: study {first} in {chosen!r}, study {study_id} in {split!r}.",
                code="patient_in_two_splits",
                fix="Give all studies of a patient the same split in the cohort table.",
            )
    return {patient: split for patient, (_, split) in given.items()}


def assign_splits(
    store: Store, settings: SplitSettings | None = None, given: Mapping[str, str] | None = None
) -> dict[str, tuple[str, str]]:
    """Give every study of the store's tables a split, by patient, and write ``splits.parquet``.

    A patient who has a split keeps it; one whose split the cohort gives gets that; the others are dealt out by the
    seed so that the fractions come out right.

    Args:
        given: patient_id -> split as the cohort says; by default the ``split`` column of ``studies.parquet``.

    Returns:
        patient_id -> (old, new) for the patients whom the cohort moved.

    Raises:
        StoreError: ``patient_in_two_splits``.
    """
    settings = settings or SplitSettings()
    studies = store.scan("studies").select("study_id", "patient_id", "split").collect().sort("study_id")
    if given is None:
        given = check_given(studies.iter_rows())
    stored = store.all_splits()
    before = dict(stored.select("patient_id", "split").iter_rows())
    patients = studies["patient_id"].unique().to_list()
    chosen = {patient: split for patient in patients if (split := given.get(patient, before.get(patient)))}
    new = [patient for patient in patients if patient not in chosen]
    findings = _findings(store) if settings.stratify else {}
    chosen |= _deal(new, chosen, findings, settings)
    names = pl.Series("split", [chosen[p] for p in studies["patient_id"]], dtype=pl.String)
    table = studies.select("study_id", "patient_id").with_columns(names)
    gone = stored.filter(~pl.col("patient_id").is_in(patients)).join(studies, on="study_id", how="anti")
    table = pl.concat([table, gone]).cast(SPLITS_SCHEMA).sort("study_id")  # pyright: ignore[reportArgumentType]
    if not table.equals(stored):
        write_parquet(table, table_path(store.path, "splits"))
    return {p: (before[p], chosen[p]) for p in sorted(chosen) if before.get(p, chosen[p]) != chosen[p]}


def _findings(store: Store) -> dict[str, frozenset[str]]:
    patients = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    found: defaultdict[str, set[str]] = defaultdict(set)
    for study_id, rows in findings_by_study(store, set(patients)).items():
        found[patients[study_id]].update(r.abnormality for r in rows if r.abnormality and r.status == "affirmed")
    return {patient: frozenset(names) for patient, names in found.items()}


def _deal(
    new: list[str], fixed: Mapping[str, str], findings: Mapping[str, frozenset[str]], settings: SplitSettings
) -> dict[str, str]:
    """Deal patients out, each to the split that lacks most; the rarest findings first (iterative stratification)."""
    share: dict[str, float] = dict(zip(NAMES, settings.fractions, strict=True))
    patients: Counter[str] = Counter(fixed.values())
    with_finding = Counter((split, finding) for p, split in fixed.items() for finding in findings.get(p, ()))
    total = len(new) + len(fixed)
    counts: Counter[str] = Counter(f for p in (*new, *fixed) for f in findings.get(p, ()))

    def rarest(patient: str) -> str | None:
        return min(findings.get(patient, ()), key=lambda f: (counts[f], f), default=None)

    def order(patient: str) -> tuple[int, bytes] | bytes:
        draw = hashlib.sha256(f"{settings.seed}:{patient}".encode()).digest()
        if not counts:
            return draw
        finding = rarest(patient)
        return (counts[finding] if finding else total + 1, draw)

    chosen: dict[str, str] = {}
    for patient in sorted(new, key=order):
        finding = rarest(patient)

        def lacks(name: str, finding: str | None = finding) -> tuple[float, float]:
            by_size = share[name] * total - patients[name]
            by_finding = share[name] * counts[finding] - with_finding[name, finding] if finding else 0.0
            return (by_finding, by_size)

        split = max((name for name in NAMES if share[name] > 0), key=lacks)
        chosen[patient] = split
        patients[split] += 1
        with_finding.update((split, finding) for finding in findings.get(patient, ()))
    return chosen
