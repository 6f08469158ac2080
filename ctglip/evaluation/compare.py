"""Two models on the same patients: ``compare.json`` and ``compare.html``.

The same patients are drawn for both, so what they have in common cancels out of the difference. The p value of a
difference is that of its ratio to the standard deviation of its draws under a normal law; Holm's step-down procedure
(1979) corrects over the abnormalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from ctglip.errors import CTGLIPError
from ctglip.evaluation.bootstrap import Interval, Question, draw_patients, interval_of, macro_draws
from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import Progress, Stage, begin
from ctglip.evaluation.report import score_of
from ctglip.evaluation.results import shown
from ctglip.evaluation.run import asked, label_source
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.files import write_json, write_text
from ctglip.inference.scoring import Dictionaries, Pair
from ctglip.models.release import load_release
from ctglip.pages import compare as page
from ctglip.pages.parts import Fact
from ctglip.store.tables import Store

LEVEL = 0.05


@dataclass(frozen=True)
class PairComparison:
    """One (organ, abnormality): AUROC of both models and second minus first."""

    organ: str
    abnormality: str
    first: Interval
    second: Interval
    difference: Interval
    p_value: float | None
    adjusted: float | None
    positives: int
    n: int


@dataclass(frozen=True)
class Comparison:
    """Two models compared.

    Attributes:
        first, second: the runs.
        split, label_source: what was judged.
        patients: how many.
        macro_first, macro_second, macro_difference: over the pairs judged for both; second minus first.
        p_value: of the macro difference.
        pairs: each pair; ``adjusted`` is Holm's over all of them.
        notes: what the reader must bear in mind.
        problems: what of the label table could not be used.
    """

    first: str
    second: str
    split: str
    label_source: str
    patients: int
    macro_first: Interval
    macro_second: Interval
    macro_difference: Interval
    p_value: float | None
    pairs: tuple[PairComparison, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def headline(self) -> str:
        """The result in two lines."""
        certain = sum(pair.adjusted is not None and pair.adjusted < LEVEL for pair in self.pairs)
        p = "unknown" if self.p_value is None else "< 0.001" if self.p_value < 0.001 else f"{self.p_value:.3f}"
        return (
            f"Macro AUROC {shown(self.macro_second)} against {shown(self.macro_first)}: difference "
            f"{shown(self.macro_difference)}, p {p}, {self.patients} patients of the split {self.split}.\n"
            f"{certain} of {len(self.pairs)} pairs differ after Holm's correction."
        )


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
        CTGLIPError: code ``nothing_to_judge``: no pair can be judged for both; and what ``evaluate`` raises.
    """
    config = (config or EvaluateConfig()).model_copy(update={"controls": False, "parts": ()})
    opened = Store.open(store)
    first, second = (_asked(run, opened, split, labels, config, progress, stage) for run in (run_a, run_b))
    names = (run_a.name, run_b.name) if run_a.name != run_b.name else (str(run_a), str(run_b))
    begin(stage, "Intervals of the differences")
    found = compared(first, second, names, label_source(labels))
    write_json(out / "compare.json", found.to_json())
    write_text(out / "compare.html", page.render(comparison_page(found, first.scorer.dictionaries)))
    return found


def _asked(
    run: Path,
    store: Store,
    split: str,
    labels: Path | None,
    config: EvaluateConfig,
    progress: Progress | None,
    stage: Stage | None,
) -> Context:
    """One model's answers; its stages carry its name."""
    named = None if stage is None else lambda name: stage(f"{run.name}: {name[:1].lower()}{name[1:]}")
    return asked(load_release(run), store, split, labels, config, progress, named)


def compared(first: Context, second: Context, names: tuple[str, str], source: str) -> Comparison:
    """Compare two models' answers to the same questions about the same organs."""
    shared = sorted(first.labels.keys() & second.labels.keys())
    patient = _patients(first) | _patients(second)
    patients = sorted(set(patient.values()))
    instances = {name: instance for instance, name in enumerate(patients)}
    number = {study: instances[name] for study, name in patient.items()}
    asked_a, asked_b, kept = [], [], []
    for pair in shared:
        a, b = _same_rows(first, second, pair, number)
        if 0 < a.labels.sum() < len(a.labels):
            asked_a.append(a)
            asked_b.append(b)
            kept.append(pair)
    if not kept:
        raise CTGLIPError("No (organ, abnormality) can be judged for both models.", code="nothing_to_judge")
    weights = draw_patients(len(patients), first.config.draws, np.random.default_rng(first.config.seed))
    (each_a, macro_a), (each_b, macro_b) = macro_draws(asked_a, weights), macro_draws(asked_b, weights)
    values = [p_value(b - a) for a, b in zip(each_a, each_b, strict=True)]
    pairs = [
        PairComparison(
            organ=pair[0],
            abnormality=pair[1],
            first=interval_of(a),
            second=interval_of(b),
            difference=interval_of(b - a),
            p_value=p,
            adjusted=adjusted,
            positives=int(q.labels.sum()),
            n=len(q.labels),
        )
        for pair, a, b, p, adjusted, q in zip(kept, each_a, each_b, values, holm(values), asked_a, strict=True)
    ]
    alone = len(first.labels.keys() ^ second.labels.keys())
    return Comparison(
        first=names[0],
        second=names[1],
        split=first.judged.split,
        label_source=source,
        patients=len(patients),
        macro_first=interval_of(macro_a),
        macro_second=interval_of(macro_b),
        macro_difference=interval_of(macro_b - macro_a),
        p_value=p_value(macro_b - macro_a),
        pairs=tuple(pairs),
        notes=(f"{alone} pairs could be judged for one of the models alone and are left out.",) if alone else (),
        problems=first.problems,
    )


def p_value(draws: Float[np.ndarray, " draws"]) -> float | None:
    """Two-sided p value of a difference (row 0 of its draws); None where it or its spread is unknown.

    The draws' standard deviation is the difference's standard error.
    """
    rest = draws[1:][np.isfinite(draws[1:])]
    if not np.isfinite(draws[0]) or len(rest) < 2:
        return None
    spread = float(rest.std(ddof=1))
    if spread == 0:
        return 1.0 if draws[0] == 0 else None
    return float(2 * norm.sf(abs(draws[0]) / spread))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values: the i-th smallest of m times m - i + 1, never smaller than one before it, at most 1."""
    order = sorted((value, instance) for instance, value in enumerate(values) if value is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for step, (value, instance) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - step)))
        adjusted[instance] = largest
    return adjusted


def _patients(context: Context) -> dict[str, str]:
    patient = dict(context.store.table("studies").select("study_id", "patient_id").iter_rows())
    return {instance.study_id: patient[instance.study_id] for instance in context.judged.instances}


def _same_rows(first: Context, second: Context, pair: Pair, number: dict[str, int]) -> tuple[Question, Question]:
    """The studies that both models answered, in one order."""
    answers = []
    for context in (first, second):
        known, scores, instances = context.labels[pair], context.scores[pair], context.judged.instances
        studies = [instances[row].study_id for row in known.rows]
        answers.append({s: (label, score) for s, label, score in zip(studies, known.labels, scores, strict=True)})
    studies = [study for study in answers[0] if study in answers[1]]
    patients = np.array([number[study] for study in studies], dtype=np.int64)
    a, b = (
        Question(np.array([one[s][0] for s in studies]), np.array([one[s][1] for s in studies]), patients)
        for one in answers
    )
    return a, b


def comparison_page(found: Comparison, dictionaries: Dictionaries) -> page.ComparePage:
    """The comparison as the page's values."""
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    rows = [
        page.ComparedRow(
            organs[pair.organ].display,
            abnormalities[pair.abnormality].display,
            score_of(pair.first),
            score_of(pair.second),
            score_of(pair.difference),
            pair.p_value,
            pair.adjusted,
            pair.positives,
            pair.n,
        )
        for pair in found.pairs
    ]
    certain = sum(pair.adjusted is not None and pair.adjusted < LEVEL for pair in found.pairs)
    return page.ComparePage(
        title=f"{found.second} against {found.first}",
        first=found.first,
        second=found.second,
        split=found.split,
        label_source=found.label_source,
        macro=(score_of(found.macro_first), score_of(found.macro_second), score_of(found.macro_difference)),
        p_value=found.p_value,
        rows=tuple(rows),
        facts=(
            Fact("Patients", str(found.patients)),
            Fact("Pairs that differ", f"{certain} of {len(found.pairs)}", f"adjusted p below {LEVEL:g}"),
        ),
        notes=found.notes,
    )
