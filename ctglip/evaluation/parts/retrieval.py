"""Which text belongs to which image, both ways? Organ by organ and study by study; on radiographs also the whole image
with each section of its report.

An organ's text is what its report affirms of it, or a sentence that finds it normal. Texts that are the same are one
text: whoever finds a duplicate has found it. A study's similarity with a report is the mean over the organs that the
one shows and the other mentions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln

from ctglip.evaluation.bootstrap import interval_of, weighted_mean
from ctglip.evaluation.context import Context
from ctglip.evaluation.results import PartResult
from ctglip.evaluation.studies import SECTIONS, radiograph_vectors, section_texts
from ctglip.inference.scoring import Dictionaries
from ctglip.pages.parts import RecallAt, Retrieval, Table
from ctglip.pages.wording import DASH, capitalised, number
from ctglip.store.findings import findings_by_study
from ctglip.types import Finding
from ctglip.vocabulary.evidence import organ_evidence
from ctglip.vocabulary.prompts import normal_prompts

RANKS = (1, 5, 10, 20, 50, 100)
_TABLE_RANKS = RANKS[:3]
FEWEST = 2
"""Fewer candidates than this are no retrieval."""


@dataclass(frozen=True)
class RetrievalResult(PartResult):
    """Every direction; the page draws their recall as curves."""

    directions: tuple[Retrieval, ...]

    def tables(self, _: Dictionaries, /) -> tuple[Table, ...]:
        """A row a direction: recall at k, and by chance."""
        if not self.directions:
            return ()
        rows = []
        for one in self.directions:
            recall = {at.k: f"{number(at.recall.value)} ({number(at.chance)})" for at in one.at}
            counts = f"{one.queries:,}", f"{one.candidates:,.0f}", f"{one.median_rank:,.4g}"
            rows.append((capitalised(one.name), *counts, *(recall.get(k, DASH) for k in _TABLE_RANKS)))
        table = Table(
            "recall",
            "Retrieval in numbers",
            "Recall at k, in brackets by chance.",
            ("Direction", "Queries", "Candidates", "Median rank", *(f"At {k}" for k in _TABLE_RANKS)),
            tuple(rows),
        )
        return (table,)


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


def direction(name: str, blocks: Sequence[Ranked], weights: Float[np.ndarray, "draws patients"]) -> Retrieval:
    """Gather blocks of queries."""
    ranks, right, candidates, patients = (
        np.concatenate([getattr(block, field) for block in blocks])
        for field in ("ranks", "right", "candidates", "patients")
    )
    at = [
        RecallAt(
            k, interval_of(weighted_mean((ranks <= k) * 1.0, patients, weights)), chance_recall(right, candidates, k)
        )
        for k in RANKS
        if k <= candidates.max()
    ]
    return Retrieval(name, len(ranks), float(candidates.mean()), float(np.median(ranks)), tuple(at))


def retrieval(context: Context) -> RetrievalResult:
    """Organs and studies where organs are read one by one; whole radiographs where the model has a head for them."""
    blocks: dict[str, list[Ranked]] = {}

    def add(
        level: str, image: str, text: str, similarity: np.ndarray, keys: Sequence[str], patients: np.ndarray
    ) -> None:
        """One block of queries, both ways; images and texts in one order, those with the same key are the same."""
        if len(keys) < FEWEST:
            return
        numbers = np.unique(np.array(keys), return_inverse=True)[1]
        hit = numbers[:, None] == numbers[None, :]
        blocks.setdefault(f"{level}{image} to {text}", []).append(ranked(similarity, hit, patients))
        blocks.setdefault(f"{level}{text} to {image}", []).append(ranked(similarity.T, hit, patients))

    if not context.one_vector_per_study:
        organs, patients = _organs(context)
        for organ in organs:
            add("organ: ", "image", "text", organ.images @ organ.texts.T, organ.keys, patients[organ.studies])
        add("study: ", "image", "report", *_study_similarity(organs, len(patients)), patients)
    if "whole" in context.reader.reads and context.release.model.image_head is not None:
        studies, radiographs = radiograph_vectors(context)
        texts, patient_of = section_texts(context.store, studies), context.split.patient_of
        context.embed_texts([text for of_study in texts.values() for text in of_study.values()])
        for section in SECTIONS:
            rows = [row for row, study in enumerate(studies) if section in texts.get(study, {})]
            if len(rows) < FEWEST:
                continue
            keys = [texts[studies[row]][section] for row in rows]
            vectors = context.scorer.for_global_images().directions([(text,) for text in keys])
            patients = np.array([patient_of[studies[row]] for row in rows])
            add("", "radiograph", section, radiographs[rows] @ vectors.T, keys, patients)
    return RetrievalResult(tuple(direction(name, several, context.weights) for name, several in blocks.items()))


@dataclass(frozen=True)
class _OrganTexts:
    """One organ over the studies of a split: images that have a text, the texts' keys and vectors; the numbers of the
    studies."""

    studies: Int[np.ndarray, " n"]
    keys: tuple[str, ...]
    images: Float[np.ndarray, "n e"]
    texts: Float[np.ndarray, "n e"]


def _organs(context: Context) -> tuple[list[_OrganTexts], Int[np.ndarray, " s"]]:
    """Images and texts of each organ, for the studies whose reports mention it; and those studies' patients."""
    split = context.split
    findings = findings_by_study(context.store, set(split.patient_of))
    texts_of = {
        row: organ_texts(findings.get(instance.study_id, ()), instance.organ, context)
        for row, instance in enumerate(split.instances)
    }
    texts_of = {row: texts for row, texts in texts_of.items() if texts}
    studies = sorted({split.instances[row].study_id for row in texts_of})
    number = {study: n for n, study in enumerate(studies)}
    vectors = _vectors(context, texts_of)
    rows_of: dict[str, list[int]] = {}
    for row in texts_of:
        rows_of.setdefault(split.instances[row].organ, []).append(row)
    organs = [
        _OrganTexts(
            studies=np.array([number[split.instances[row].study_id] for row in rows]),
            keys=tuple("\n".join(texts_of[row]) for row in rows),
            images=split.embeddings.diagnosis[rows],
            texts=np.stack([vectors[texts_of[row]] for row in rows]),
        )
        for rows in rows_of.values()
    ]
    return organs, np.array([split.patient_of[study] for study in studies], dtype=np.int64)


def _vectors(
    context: Context, texts_of: Mapping[int, tuple[str, ...]]
) -> dict[tuple[str, ...], Float[np.ndarray, " e"]]:
    sets = list(dict.fromkeys(texts_of.values()))
    context.embed_texts([text for texts in sets for text in texts])
    return dict(zip(sets, context.scorer.directions(sets), strict=True)) if sets else {}


def organ_texts(findings: Sequence[Finding], organ: str, context: Context) -> tuple[str, ...]:
    """The sentences of a report that affirm something of an organ, or one that finds it normal; nothing where it is not
    mentioned or left uncertain."""
    dictionaries = context.scorer.dictionaries
    evidence = organ_evidence(findings, organ, dictionaries.organs, dictionaries.abnormalities)
    if evidence.sentences:
        return tuple(sorted(evidence.sentences))
    if evidence.mentioned and not evidence.uncertain:
        return normal_prompts(dictionaries.organs[organ], context.scorer.templates)[:1]
    return ()


def _study_similarity(organs: Sequence[_OrganTexts], studies: int) -> tuple[Float[np.ndarray, "s s"], list[str]]:
    """Mean similarity over shared organs of each study's images (rows) with each report (columns), and report keys."""
    total, count = np.zeros((studies, studies)), np.zeros((studies, studies))
    keys: list[list[str]] = [[] for _ in range(studies)]
    for position, organ in enumerate(organs):
        block = np.ix_(organ.studies, organ.studies)
        total[block] += organ.images @ organ.texts.T
        count[block] += 1
        for study, key in zip(organ.studies, organ.keys, strict=True):
            keys[study].append(f"{position}\t{key}")
    mean = np.divide(total, count, out=np.full_like(total, -1.0), where=count > 0)
    return mean, ["\n\n".join(sorted(one)) for one in keys]
