"""CheXpert-5x200 and its like: as many radiographs of each of some classes, each showing that class and no other.

Two questions (GLoRIA, Huang et al., ICCV 2021; ConVIRT, Zhang et al.): which class is a radiograph of, by the class
whose prompts it is most similar to; and, of the radiographs (or reports) ranked by similarity with a prompt (or
radiograph), how many of the first k are of the right class. All radiographs are ranked together, never batch by batch:
nothing hangs on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import f1_score

from ctglip.evaluation.bootstrap import Interval, interval_of, weighted_mean
from ctglip.evaluation.composed import cxr_words, drawn
from ctglip.evaluation.context import Context
from ctglip.evaluation.cxr import cxr_labels, cxr_texts, whole_radiographs

PLACES = (1, 5, 10)
DRAWN = 5
"""Prompts of a class, where ``cxr.composed`` says nothing else."""


@dataclass(frozen=True)
class PrecisionAt:
    """Share of the first k that are of the query's class, with an interval over patients of the radiographs asked (None
    for queries that are prompts), and by chance."""

    k: int
    precision: Interval
    chance: float


@dataclass(frozen=True)
class FiveBy200:
    """What the protocol found.

    Attributes:
        classes: abnormalities; per_class: radiographs of each.
        prompts: of each class, as drawn.
        accuracy: share of radiographs whose class is told, with an interval over patients.
        macro_f1: mean F1 over classes.
        text_to_image: the prompts rank the radiographs.
        image_to_report: radiographs rank the reports; empty where they have none.
        complete: each class has the radiographs that were asked for.
    """

    classes: tuple[str, ...]
    per_class: int
    prompts: dict[str, tuple[str, ...]]
    accuracy: Interval
    macro_f1: float
    text_to_image: tuple[PrecisionAt, ...]
    image_to_report: tuple[PrecisionAt, ...]
    complete: bool


def five_by_200(context: Context) -> FiveBy200 | None:
    """The protocol on the judged radiographs; None (and a note) where a class has no radiograph of its own.

    Raises:
        ModelError: code ``no_whole_image``.
    """
    settings = context.config.cxr
    studies, radiographs = whole_radiographs(context)
    labels = cxr_labels(context, settings.classes, studies)
    rows = exclusive(labels, settings.per_class, settings.seed)
    sizes = {name: len(several) for name, several in rows.items()}
    if min(sizes.values()) == 0:
        without = ", ".join(name for name, size in sizes.items() if not size)
        context.notes.append(f"Five by 200: no radiograph shows {without} and none of the other classes.")
        return None
    most = min(sizes.values())
    if most < settings.per_class:
        context.notes.append(
            f"Five by 200: the protocol asks for {settings.per_class} radiographs of each class, {most} were taken of "
            f"each."
        )
    chosen = np.concatenate([several[:most] for several in rows.values()])
    truth = np.repeat(np.arange(len(rows)), most)
    patient = {p.study_id: int(n) for p, n in zip(context.judged.instances, context.judged.patients, strict=True)}
    patients = np.array([patient[studies[row]] for row in chosen])
    prompts = {name: _prompts(context, name) for name in rows}
    context.remember([text for texts in prompts.values() for text in texts])
    similarity = radiographs[chosen] @ context.scorer.of_whole().directions(list(prompts.values())).T
    said = told_class(similarity, settings.standardized)
    every = [(number, text) for number, texts in enumerate(prompts.values()) for text in texts]
    by_prompt = context.scorer.of_whole().directions([(text,) for _, text in every]) @ radiographs[chosen].T
    asked = np.array([number for number, _ in every])
    return FiveBy200(
        classes=tuple(rows),
        per_class=most,
        prompts=prompts,
        accuracy=interval_of(weighted_mean((said == truth) * 1.0, patients, context.weights)),
        macro_f1=float(f1_score(truth, said, average="macro", labels=np.arange(len(rows)))),
        text_to_image=tuple(
            PrecisionAt(k, Interval(float(precision_at(by_prompt, asked, truth, k).mean())), 1 / len(rows))
            for k in PLACES
            if k <= len(truth)
        ),
        image_to_report=_cxr_to_report(context, [studies[row] for row in chosen], radiographs[chosen], truth, patients),
        complete=most == settings.per_class,
    )


def exclusive(labels: Mapping[str, Float[np.ndarray, " s"]], count: int, seed: int) -> dict[str, Int[np.ndarray, " n"]]:
    """Of each class so many radiographs, drawn, that show it and none of the others (an unknown label is not shown)."""
    shown = np.stack([labels[name] == 1 for name in labels])
    alone = shown & (shown.sum(0) == 1)
    rng = np.random.default_rng(seed)
    return {
        name: np.sort(rng.permutation(np.flatnonzero(own))[:count]) for name, own in zip(labels, alone, strict=True)
    }


def told_class(similarity: Float[np.ndarray, "n c"], standardized: bool) -> Int[np.ndarray, " n"]:
    """The nearest class of each radiograph; the similarities of a class standardised over all radiographs where
    wanted."""
    if standardized:
        similarity = (similarity - similarity.mean(0)) / np.maximum(similarity.std(0), 1e-12)
    return similarity.argmax(1)


def precision_at(
    similarity: Float[np.ndarray, "q n"], wanted: Int[np.ndarray, " q"], truth: Int[np.ndarray, " n"], k: int
) -> Float[np.ndarray, " q"]:
    """Share of each query's k nearest candidates that are of its class; ties are broken against it."""
    right = truth[None, :] == wanted[:, None]
    order = np.lexsort((right, -similarity), axis=-1)[:, :k]
    return np.take_along_axis(right, order, axis=1).mean(1)


def _cxr_to_report(
    context: Context,
    studies: Sequence[str],
    radiographs: Float[np.ndarray, "n e"],
    truth: Int[np.ndarray, " n"],
    patients: Int[np.ndarray, " n"],
) -> tuple[PrecisionAt, ...]:
    """Radiographs against the reports of the radiographs drawn, impressions where there is one."""
    texts = cxr_texts(context.store, studies)
    here = [row for row, study in enumerate(studies) if study in texts]
    if len(here) < max(PLACES):
        return ()
    said = [texts[studies[row]].get("impression") or texts[studies[row]]["report"] for row in here]
    context.remember(said)
    similarity = radiographs[here] @ context.scorer.of_whole().directions([(text,) for text in said]).T
    shares = {k: precision_at(similarity, truth[here], truth[here], k) for k in PLACES}
    chance = float(np.mean([np.mean(truth[here] == own) for own in truth[here]]))
    return tuple(
        PrecisionAt(k, interval_of(weighted_mean(found, patients[here], context.weights)), chance)
        for k, found in shares.items()
    )


def _prompts(context: Context, name: str) -> tuple[str, ...]:
    """Composed ones, or the dictionary's where there are no words to compose."""
    settings = context.config.cxr
    if name in cxr_words():
        return drawn(name, settings.composed or DRAWN, settings.seed)
    organ = context.scorer.dictionaries.abnormalities[name].default_organ
    return context.scorer.prompts((organ, name))[0][: settings.composed or DRAWN]
