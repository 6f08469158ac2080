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

from ctglip.evaluation.bootstrap import interval_of, weighted_mean
from ctglip.evaluation.composed import compose, cxr_words
from ctglip.evaluation.context import Context
from ctglip.evaluation.published_tables import published_tables
from ctglip.evaluation.results import PartResult, display_name, interval_cells
from ctglip.evaluation.settings import FiveBy200Settings
from ctglip.evaluation.studies import columns_about, radiograph_vectors, section_texts, study_labels
from ctglip.inference.scoring import Dictionaries
from ctglip.pages.parts import Table
from ctglip.pages.wording import DASH, number
from ctglip.types import Interval

RANKS = (1, 5, 10)
PROMPTS = 5
"""Prompts of a class, where ``cxr.composed`` says nothing else."""


@dataclass(frozen=True)
class PrecisionAt:
    """Share of the first k that are of the query's class, with an interval over patients of the radiographs asked (None
    for queries that are prompts), and by chance."""

    k: int
    precision: Interval
    chance: float


@dataclass(frozen=True)
class FiveBy200(PartResult):
    """What the protocol found.

    Attributes:
        classes: abnormalities; per_class: radiographs of each.
        prompts: of each class, as drawn.
        accuracy: share of radiographs whose class is right, with an interval over patients.
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

    def tables(self, dictionaries: Dictionaries, /) -> tuple[Table, ...]:
        """Accuracy and precision at k; published figures where the same classes were asked in full."""
        names = ", ".join(display_name(name, dictionaries).lower() for name in self.classes)
        rows = [
            ("Radiographs whose class is right", *interval_cells(self.accuracy), number(1 / len(self.classes))),
            ("Macro F1 of that", number(self.macro_f1), DASH, DASH),
        ]
        for query, several in (
            ("Prompt to radiograph", self.text_to_image),
            ("Radiograph to report", self.image_to_report),
        ):
            rows += [
                (f"{query}, precision at {at.k}", *interval_cells(at.precision), number(at.chance)) for at in several
            ]
        published = published_tables()["cxr_five_by_200"]
        if self.complete and set(self.classes) == set(FiveBy200Settings().classes) and self.image_to_report:
            rows += [
                (f"{row.model}, precision at {k}", number(value / 100), DASH, published.source_of(row))
                for row in published.rows
                for k, value in zip(published.shares, row.values["precision"], strict=True)
            ]
        table = Table(
            "five_by_200",
            f"{len(self.classes)} classes of {self.per_class:,} radiographs",
            f"Radiographs that show one of these and none of the others: {names}. Asked with "
            f"{max(map(len, self.prompts.values()))} prompts a class, all radiographs at once.",
            ("What", "Share", "95 % interval", "By chance"),
            tuple(rows),
        )
        return (table,)


def five_by_200(context: Context) -> FiveBy200 | None:
    """The protocol on the evaluated radiographs; None (and a note) where a class has no radiograph of its own.

    Raises:
        ModelError: code ``no_whole_image``.
    """
    settings, seed = context.config.five_by_200, context.config.seed
    studies, radiographs = radiograph_vectors(context)
    columns = {name: columns_about(context, name) for name in settings.classes}
    labels = study_labels(context, studies, {name: name for name in settings.classes}, columns)
    rows_of = exclusive(labels, settings.per_class, seed)
    per_class = min(map(len, rows_of.values()))
    if per_class == 0:
        without = ", ".join(name for name, rows in rows_of.items() if not len(rows))
        context.notes.append(f"Five by 200: no radiograph shows {without} and none of the other classes.")
        return None
    if per_class < settings.per_class:
        context.notes.append(
            f"Five by 200: the protocol asks for {settings.per_class} radiographs of each class, {per_class} were "
            "taken of each."
        )
    rows = np.concatenate([several[:per_class] for several in rows_of.values()])
    truth = np.repeat(np.arange(len(rows_of)), per_class)
    studies, radiographs = [studies[row] for row in rows], radiographs[rows]
    patients = np.array([context.split.patient_of[study] for study in studies])
    prompts = {name: _prompts(context, name) for name in rows_of}
    context.embed_texts([text for texts in prompts.values() for text in texts])
    scorer = context.scorer.for_global_images()
    answers = nearest_class(radiographs @ scorer.directions(list(prompts.values())).T)
    single = [(number, text) for number, texts in enumerate(prompts.values()) for text in texts]
    by_prompt = scorer.directions([(text,) for _, text in single]) @ radiographs.T
    classes = np.array([number for number, _ in single])
    return FiveBy200(
        classes=tuple(rows_of),
        per_class=per_class,
        prompts=prompts,
        accuracy=interval_of(weighted_mean((answers == truth) * 1.0, patients, context.weights)),
        macro_f1=float(f1_score(truth, answers, average="macro", labels=np.arange(len(rows_of)))),
        text_to_image=tuple(
            PrecisionAt(k, Interval(float(precision_at(by_prompt, classes, truth, k).mean())), 1 / len(rows_of))
            for k in RANKS
            if k <= len(truth)
        ),
        image_to_report=_image_to_report(context, studies, radiographs, truth, patients),
        complete=per_class == settings.per_class,
    )


def exclusive(labels: Mapping[str, Float[np.ndarray, " s"]], count: int, seed: int) -> dict[str, Int[np.ndarray, " n"]]:
    """Of each class so many radiographs, drawn, that show it and none of the others (an unknown label is not shown)."""
    positive = np.stack([labels[name] == 1 for name in labels])
    alone = positive & (positive.sum(0) == 1)
    rng = np.random.default_rng(seed)
    return {
        name: np.sort(rng.permutation(np.flatnonzero(rows))[:count]) for name, rows in zip(labels, alone, strict=True)
    }


def nearest_class(similarity: Float[np.ndarray, "n c"]) -> Int[np.ndarray, " n"]:
    """The nearest class of each radiograph, the similarities of a class standardised over all radiographs (as GLoRIA's;
    never over batches)."""
    return ((similarity - similarity.mean(0)) / np.maximum(similarity.std(0), 1e-12)).argmax(1)


def precision_at(
    similarity: Float[np.ndarray, "q n"], classes: Int[np.ndarray, " q"], truth: Int[np.ndarray, " n"], k: int
) -> Float[np.ndarray, " q"]:
    """Share of each query's k nearest candidates that are of its class; ties are broken against it."""
    right = truth[None, :] == classes[:, None]
    order = np.lexsort((right, -similarity), axis=-1)[:, :k]
    return np.take_along_axis(right, order, axis=1).mean(1)


def _image_to_report(
    context: Context,
    studies: Sequence[str],
    radiographs: Float[np.ndarray, "n e"],
    truth: Int[np.ndarray, " n"],
    patients: Int[np.ndarray, " n"],
) -> tuple[PrecisionAt, ...]:
    """Radiographs against the reports of the radiographs drawn, impressions where there is one."""
    texts = section_texts(context.store, studies)
    rows = [row for row, study in enumerate(studies) if study in texts]
    if len(rows) < max(RANKS):
        return ()
    reports = [texts[studies[row]].get("impression") or texts[studies[row]]["report"] for row in rows]
    context.embed_texts(reports)
    similarity = radiographs[rows] @ context.scorer.for_global_images().directions([(text,) for text in reports]).T
    chance = float(np.mean([np.mean(truth[rows] == one) for one in truth[rows]]))
    found = []
    for k in RANKS:
        precision = precision_at(similarity, truth[rows], truth[rows], k)
        found.append(PrecisionAt(k, interval_of(weighted_mean(precision, patients[rows], context.weights)), chance))
    return tuple(found)


def _prompts(context: Context, name: str) -> tuple[str, ...]:
    """Composed ones, or the dictionary's where there are no words to compose."""
    count = context.config.cxr.composed or PROMPTS
    if name in cxr_words():
        return compose(name, count, context.config.seed)
    organ = context.scorer.dictionaries.abnormalities[name].default_organ
    return context.scorer.prompts((organ, name))[0][:count]
