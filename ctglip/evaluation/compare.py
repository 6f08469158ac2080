"""Two models on the same patients: ``compare.json`` and ``compare.html``.

The same patients are drawn for both, so what they have in common cancels out of the difference. The p value of a
difference is that of its ratio to the standard deviation of its draws under a normal law; Holm's step-down procedure
(1979) corrects over the abnormalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from ctglip.errors import CTGLIPError
from ctglip.evaluation.bootstrap import Question, draw_patients, interval_of, macro_draws
from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import Stage
from ctglip.evaluation.run import answer_split, label_source
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.files import write_json, write_text
from ctglip.inference.scoring import Dictionaries, Pair
from ctglip.models.release import load_release
from ctglip.pages.compare import ComparedPair, Comparison, render
from ctglip.store.tables import Store
from ctglip.types import Progress


def compare(
    run_a: Path,
    run_b: Path,
    store: Path,
    out: Path,
    split: str = "test",
    labels: Path | None = None,
    config: EvaluateConfig | None = None,
    progress: Progress | None = None,
    stage: Stage | None = None,
) -> Comparison:
    """Compare two models on one split of a store.

    Args:
        run_a, run_b: runs, or their ``model/`` folders; both made for the store's recipe.
        store, split, labels, config, progress, stage: as in ``evaluation.run.evaluate``.
        out: folder for ``compare.json`` and ``compare.html``.

    Raises:
        CTGLIPError: code ``nothing_to_evaluate``: no pair can be evaluated for both; and what ``evaluate`` raises.
    """
    config = (config or EvaluateConfig()).model_copy(update={"controls": False, "parts": ()})
    opened = Store.open(store)

    def answer(run: Path) -> Context:
        """One model's answers; its stages carry its name."""

        def begin(name: str) -> None:
            if stage is not None:
                stage(f"{run.name}: {name[:1].lower()}{name[1:]}")

        return answer_split(load_release(run), opened, split, labels, config, progress, begin)

    first, second = answer(run_a), answer(run_b)
    names = (run_a.name, run_b.name) if run_a.name != run_b.name else (str(run_a), str(run_b))
    if stage is not None:
        stage("Intervals of the differences")
    found = compared(first, second, names, label_source(labels))
    write_json(out / "compare.json", found.to_json())
    write_text(out / "compare.html", render(_display(found, first.scorer.dictionaries)))
    return found


def compared(first: Context, second: Context, names: tuple[str, str], source: str) -> Comparison:
    """Compare two models' answers to the same questions about the same organs."""
    patient = _patients(first) | _patients(second)
    number = {name: n for n, name in enumerate(sorted(set(patient.values())))}
    patients = {study: number[name] for study, name in patient.items()}
    questions: dict[Pair, tuple[Question, Question]] = {}
    for pair in sorted(first.labels.keys() & second.labels.keys()):
        a, b = _common_answers(first, second, pair, patients)
        if 0 < a.labels.sum() < len(a.labels):
            questions[pair] = a, b
    if not questions:
        raise CTGLIPError(
            "No (organ, abnormality) can be evaluated for both models.", code="nothing_to_evaluate"
        )  # fmt: skip
    weights = draw_patients(len(number), first.config.draws, np.random.default_rng(first.config.seed))
    (each_a, macro_a), (each_b, macro_b) = (
        macro_draws([both[model] for both in questions.values()], weights) for model in (0, 1)
    )
    values = [p_value(b - a) for a, b in zip(each_a, each_b, strict=True)]
    pairs = [
        ComparedPair(
            organ=pair[0],
            abnormality=pair[1],
            first=interval_of(a),
            second=interval_of(b),
            difference=interval_of(b - a),
            p_value=p,
            adjusted=adjusted,
            positives=int(question.labels.sum()),
            n=len(question.labels),
        )
        for (pair, (question, _)), a, b, p, adjusted in zip(
            questions.items(), each_a, each_b, values, holm(values), strict=True
        )
    ]
    alone = len(first.labels.keys() ^ second.labels.keys())
    return Comparison(
        first=names[0],
        second=names[1],
        split=first.split.name,
        label_source=source,
        patients=len(number),
        macro_first=interval_of(macro_a),
        macro_second=interval_of(macro_b),
        macro_difference=interval_of(macro_b - macro_a),
        p_value=p_value(macro_b - macro_a),
        pairs=tuple(pairs),
        notes=(f"{alone} pairs could be evaluated for one of the models alone and are left out.",) if alone else (),
        problems=first.problems,
    )


def p_value(draws: Float[np.ndarray, " draws"]) -> float | None:
    """Two-sided p value of a difference (row 0 of its draws); None where it or its standard error is unknown.

    The draws' standard deviation is the difference's standard error.
    """
    rest = draws[1:][np.isfinite(draws[1:])]
    if not np.isfinite(draws[0]) or len(rest) < 2:
        return None
    sd = float(rest.std(ddof=1))
    if sd == 0:
        return 1.0 if draws[0] == 0 else None
    return float(2 * norm.sf(abs(draws[0]) / sd))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values: the i-th smallest of m times m - i + 1, never smaller than one before it, at most 1."""
    order = sorted((value, position) for position, value in enumerate(values) if value is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for step, (value, position) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - step)))
        adjusted[position] = largest
    return adjusted


def _patients(context: Context) -> dict[str, str]:
    patient = dict(context.store.table("studies").select("study_id", "patient_id").iter_rows())
    return {study: patient[study] for study in context.split.patient_of}


def _common_answers(
    first: Context, second: Context, pair: Pair, patients: Mapping[str, int]
) -> tuple[Question, Question]:
    """The studies that both models answered, in one order."""
    answers = []
    for context in (first, second):
        known, instances = context.labels[pair], context.split.instances
        studies = [instances[row].study_id for row in known.rows]
        answers.append(dict(zip(studies, zip(known.labels, context.scores[pair], strict=True), strict=True)))
    studies = [study for study in answers[0] if study in answers[1]]
    rows = np.array([patients[study] for study in studies], dtype=np.int64)
    a, b = (
        Question(np.array([one[s][0] for s in studies]), np.array([one[s][1] for s in studies]), rows)
        for one in answers
    )
    return a, b


def _display(found: Comparison, dictionaries: Dictionaries) -> Comparison:
    """The comparison with display names."""
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    pairs = [
        replace(pair, organ=organs[pair.organ].display, abnormality=abnormalities[pair.abnormality].display)
        for pair in found.pairs
    ]
    return replace(found, pairs=tuple(pairs))
