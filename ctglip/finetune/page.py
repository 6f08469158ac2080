"""A fine-tuning on the evaluation page."""

from __future__ import annotations

from collections import Counter

from ctglip.evaluation.bootstrap import Interval
from ctglip.evaluation.metrics import PairMetrics, roc_points
from ctglip.evaluation.results import shown
from ctglip.evaluation.zero_shot import Scores
from ctglip.finetune.results import STUDY, Difference, FinetuneResults, Judge
from ctglip.finetune.studies import TEST, Studies
from ctglip.inference.scoring import Dictionaries
from ctglip.pages import parts
from ctglip.pages import report as page

_MODES = {
    "probe": "linear probe on frozen features",
    "head": "diagnosis head on frozen features",
    "lora": "low-rank updates of the encoder",
    "full": "all weights",
}


def finetune_page(
    results: FinetuneResults, studies: Studies, scores: Scores, judged: Judge, dictionaries: Dictionaries
) -> page.EvaluationPage:
    """The page of one fine-tuning: the released model, with the other starts as its controls.

    Args:
        results: what was found.
        studies: labels.
        scores: of the released model.
        judged: labels that were judged.
        dictionaries: display names.
    """
    released = results.released
    largest = released["fraction"]
    others = [p for p in results.points if p.fraction == largest and p.start != released["start"]]
    return page.EvaluationPage(
        title=f"Fine-tuning: {_MODES[results.mode]}",
        split=TEST,
        label_source=results.label_source,
        auroc=_score(results.macro_auroc),
        pairs=tuple(_row(pair, scores, judged, studies, dictionaries) for pair in results.pairs),
        facts=_facts(results, studies),
        controls=tuple(
            parts.Control(
                f"Start: {point.start}",
                f"The same labels and patients, {_MODES[point.mode]}; mean over {len(point.seeds)} seeds.",
                _score(point.macro_auroc),
            )
            for point in others
        ),
        notes=(*(_paired(difference) for difference in results.differences), *_attention(results, dictionaries),
               *results.notes, *_problems(results)),
    )  # fmt: skip


def _score(interval: Interval) -> parts.Score:
    return parts.Score(interval.value, interval.low, interval.high)


def _row(
    pair: PairMetrics, scores: Scores, judged: Judge, studies: Studies, dictionaries: Dictionaries
) -> page.PairRow:
    key = (pair.organ, pair.abnormality)
    x, y = roc_points(judged.labels[key].labels, scores[key])
    at = pair.at
    return page.PairRow(
        organ="Study" if pair.organ == STUDY else dictionaries.organs[pair.organ].display,
        abnormality=_shown(pair, studies, dictionaries),
        auroc=_score(pair.auroc),
        positives=pair.positives,
        n=pair.n,
        auprc=pair.auprc,
        f1=at.f1 if at else None,
        sensitivity=at.sensitivity if at else None,
        specificity=at.specificity if at else None,
        threshold=at.threshold if at else None,
        roc=parts.Curve(x, y),
    )


def _shown(pair: PairMetrics, studies: Studies, dictionaries: Dictionaries) -> str:
    """The dictionary's display name of a plain column, else the column as it is headed."""
    names = {task.column: task.abnormality for task in studies.tasks if not task.classes}
    name = names.get(pair.abnormality)
    return dictionaries.abnormalities[name].display if name else pair.abnormality


def _facts(results: FinetuneResults, studies: Studies) -> tuple[parts.Fact, ...]:
    counts = Counter(studies.splits)
    facts = [
        parts.Fact("Test studies", str(results.studies), f"{results.patients} patients"),
        parts.Fact("Labelled studies", ", ".join(f"{counts[name]} {name}" for name in sorted(counts))),
        parts.Fact("Thresholds", results.threshold_source),
        parts.Fact("Model shown", f"start {results.released['start']}", f"seed {results.released['seed']}"),
    ]
    if len(results.points) > 1:
        facts += [
            parts.Fact(
                f"{point.start}, {point.fraction:.0%} of labels", shown(point.macro_auroc),
                f"{point.patients} training patients, {len(point.seeds)} seeds",
            )
            for point in results.points
        ]  # fmt: skip
    return tuple(facts)


def _paired(difference: Difference) -> str:
    return (
        f"{difference.start} with {difference.fraction:.0%} of the labels minus {difference.other} with "
        f"{difference.other_fraction:.0%}: {shown(difference.difference)} macro AUROC on the same patients."
    )


def _attention(results: FinetuneResults, dictionaries: Dictionaries) -> list[str]:
    found = []
    for column, shares in results.attention.items():
        listed = ", ".join(f"{dictionaries.organs[organ].display} {share:.0%}" for organ, share in shares.items())
        found.append(f"Attention of {column}, mean over test studies: {listed}.")
    return found


def _problems(results: FinetuneResults) -> list[str]:
    counts = Counter(problem.code for problem in results.problems)
    first = {problem.code: problem for problem in reversed(results.problems)}
    return [
        f"{count} times {code.replace('_', ' ')}, first {first[code].subject}: {first[code].message} "
        "All are listed in problems.csv."
        for code, count in counts.items()
    ]
