"""Which text belongs to which image? Organ by organ, and study by study, both ways.

An organ's text is what its report affirms of it, or a sentence that finds it normal. Texts that say the same thing
are one text: whoever finds a duplicate has found it. A study's similarity with a report is the mean over the organs
that the one shows and the other speaks of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln

from ctglip.data.organs import findings_by_study
from ctglip.evaluation.bootstrap import Interval, interval_of, weighted_mean
from ctglip.evaluation.context import Context
from ctglip.types import Finding
from ctglip.vocabulary.evidence import organ_evidence
from ctglip.vocabulary.prompts import normal_prompts

PLACES = (1, 5, 10, 20, 50, 100)
LEAST = 2
"""Fewer candidates than this are no retrieval."""


@dataclass(frozen=True)
class RecallAt:
    """Share of the queries whose first right one is among the first ``k``; ``chance`` that of a random order."""

    k: int
    recall: Interval
    chance: float


@dataclass(frozen=True)
class Direction:
    """Retrieval in one direction.

    Attributes:
        name: level and direction, e.g. ``"organ: image to text"``.
        queries: how many.
        candidates: ranked for each query, on average.
        median_rank: of the first right one, from 1.
        at: recall at rising k.
    """

    name: str
    queries: int
    candidates: float
    median_rank: float
    at: tuple[RecallAt, ...]


@dataclass(frozen=True)
class Ranked:
    """The ranks of the first right ones of some queries, and what chance would give.

    Attributes:
        ranks: from 1; a candidate as similar as the first right one counts as ranked before it.
        right, candidates: how many right ones there are among how many, for each query.
        patients: index of each query's patient.
    """

    ranks: Int[np.ndarray, " q"]
    right: Int[np.ndarray, " q"]
    candidates: Int[np.ndarray, " q"]
    patients: Int[np.ndarray, " q"]


def ranked(
    similarity: Float[np.ndarray, "q c"], hit: Bool[np.ndarray, "q c"], patients: Int[np.ndarray, " q"]
) -> Ranked:
    """Rank the candidates of each query; every query needs a right one."""
    best = np.where(hit, similarity, -np.inf).max(axis=1)
    ranks = 1 + ((similarity >= best[:, None]) & ~hit).sum(axis=1)
    return Ranked(ranks, hit.sum(axis=1), np.full(len(ranks), similarity.shape[1]), patients)


def chance_recall(right: Int[np.ndarray, " q"], candidates: Int[np.ndarray, " q"], k: int) -> float:
    """Mean probability that k of n candidates in random order hold one of the r right ones: 1 - C(n-r, k) / C(n, k)."""
    n, r = candidates.astype(float), right.astype(float)
    possible = n - r >= k
    rest = np.where(possible, n - r, k)
    log_miss = gammaln(rest + 1) - gammaln(rest - k + 1) - gammaln(n + 1) + gammaln(np.maximum(n - k, 0) + 1)
    return float(np.mean(np.where(possible, 1 - np.exp(log_miss), 1.0)))


def direction(name: str, parts: Sequence[Ranked], weights: Float[np.ndarray, "draws patients"]) -> Direction | None:
    """Gather blocks of queries; None where there are none."""
    parts = [part for part in parts if len(part.ranks)]
    if not parts:
        return None
    ranks, right, candidates, patients = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("ranks", "right", "candidates", "patients")
    )
    at = [
        RecallAt(
            k, interval_of(weighted_mean((ranks <= k) * 1.0, patients, weights)), chance_recall(right, candidates, k)
        )
        for k in PLACES
        if k <= candidates.max()
    ]
    return Direction(name, len(ranks), float(candidates.mean()), float(np.median(ranks)), tuple(at))


@dataclass(frozen=True)
class _Organ:
    """One organ over the studies of a split: image rows with a text, the texts' keys and vectors."""

    rows: Int[np.ndarray, " n"]
    studies: Int[np.ndarray, " n"]
    keys: tuple[str, ...]
    images: Float[np.ndarray, "n e"]
    texts: Float[np.ndarray, "n e"]


def retrieval(context: Context) -> tuple[Direction, ...]:
    """Organ-level and study-level retrieval over the judged split, image to text and text to image."""
    organs, studies = _organs(context)
    patient = np.zeros(len(studies), dtype=np.int64)
    for organ in organs:
        patient[organ.studies] = context.judged.patients[organ.rows]
    found: dict[str, list[Ranked]] = {name: [] for name in ("organ: image to text", "organ: text to image")}
    for organ in organs:
        if len(organ.keys) < LEAST:
            continue
        similarity = organ.images @ organ.texts.T
        hit = same(organ.keys)
        found["organ: image to text"].append(ranked(similarity, hit, patient[organ.studies]))
        found["organ: text to image"].append(ranked(similarity.T, hit, patient[organ.studies]))
    similarity, keys = _study_similarity(organs, len(studies))
    if len(keys) >= LEAST:
        hit = same(keys)
        found["study: image to report"] = [ranked(similarity, hit, patient)]
        found["study: report to image"] = [ranked(similarity.T, hit, patient)]
    every = (direction(name, parts, context.weights) for name, parts in found.items())
    return tuple(one for one in every if one is not None)


def same(keys: Sequence[str]) -> Bool[np.ndarray, "n n"]:
    """Which texts are the same text."""
    numbers = np.unique(np.array(keys), return_inverse=True)[1]
    return numbers[:, None] == numbers[None, :]


def _organs(context: Context) -> tuple[list[_Organ], list[str]]:
    """What each organ shows and what is said of it, for the studies whose reports speak of it."""
    instances = context.judged.instances
    findings = findings_by_study(context.store, {instance.study_id for instance in instances})
    said: dict[int, tuple[str, ...]] = {}
    for row, instance in enumerate(instances):
        texts = organ_text(findings.get(instance.study_id, ()), instance.organ, context)
        if texts:
            said[row] = texts
    studies = sorted({instances[row].study_id for row in said})
    number = {study: instance for instance, study in enumerate(studies)}
    sets = list(dict.fromkeys(said.values()))
    context.remember([text for texts in sets for text in texts])
    vectors = dict(zip(sets, context.scorer.directions(sets), strict=True)) if sets else {}
    rows_of: dict[str, list[int]] = {}
    for row in said:
        rows_of.setdefault(instances[row].organ, []).append(row)
    found = [
        _Organ(
            rows=np.array(rows),
            studies=np.array([number[instances[row].study_id] for row in rows]),
            keys=tuple("\n".join(said[row]) for row in rows),
            images=context.judged.embeddings.diagnosis[rows],
            texts=np.stack([vectors[said[row]] for row in rows]),
        )
        for rows in rows_of.values()
    ]
    return found, studies


def organ_text(findings: Sequence[Finding], organ: str, context: Context) -> tuple[str, ...]:
    """What a report says of an organ: its affirmed sentences, or that it is normal, or nothing (not spoken of, or left
    uncertain)."""
    dictionaries = context.scorer.dictionaries
    evidence = organ_evidence(findings, organ, dictionaries.organs, dictionaries.abnormalities)
    if evidence.sentences:
        return tuple(sorted(evidence.sentences))
    if evidence.mentioned and not evidence.uncertain:
        return normal_prompts(dictionaries.organs[organ], context.scorer.templates)[:1]
    return ()


def _study_similarity(organs: Sequence[_Organ], studies: int) -> tuple[Float[np.ndarray, "s s"], list[str]]:
    """Mean similarity over shared organs of each study's images (rows) with each report (columns), and report keys."""
    total, count = np.zeros((studies, studies)), np.zeros((studies, studies))
    keys: list[list[str]] = [[] for _ in range(studies)]
    for instance, organ in enumerate(organs):
        at = np.ix_(organ.studies, organ.studies)
        total[at] += organ.images @ organ.texts.T
        count[at] += 1
        for study, key in zip(organ.studies, organ.keys, strict=True):
            keys[study].append(f"{instance}\t{key}")
    mean = np.divide(total, count, out=np.full_like(total, -1.0), where=count > 0)
    return mean, ["\n\n".join(sorted(one)) for one in keys]
