"""A classification on the evaluation page."""

from __future__ import annotations

from collections import Counter

from ctglip.evaluation.labels import Labels
from ctglip.evaluation.metrics import PairMetrics, roc_points
from ctglip.evaluation.page import pair_row
from ctglip.evaluation.zero_shot import Scores
from ctglip.inference.scoring import Dictionaries
from ctglip.pages import parts
from ctglip.pages import report as page
from ctglip.pages.wording import format_interval
from ctglip.tasks.classification_results import ClassificationResults
from ctglip.tasks.studies import TEST, Studies
from ctglip.tasks.targets import STUDY

_MODES = {
    "probe": "linear probe on frozen features",
    "head": "diagnosis head on frozen features",
    "lora": "low-rank updates of the encoder",
    "full": "all weights",
}


def classification_page(
    results: ClassificationResults, studies: Studies, scores: Scores, labels: Labels, dictionaries: Dictionaries
) -> page.EvaluationPage:
    """The page of one fine-tuning: the released model, with the other initializations as its controls.

    Args:
        results: what was found.
        studies: labels.
        scores: of the released model.
        labels: of the columns that are compared.
        dictionaries: display names.
    """
    released = results.released
    largest = released["fraction"]
    others = [p for p in results.points if p.fraction == largest and p.initialization != released["initialization"]]
    return page.EvaluationPage(
        title=f"Fine-tuning: {_MODES[results.mode]}",
        split=TEST,
        label_source=results.label_source,
        auroc=results.score,
        pairs=tuple(_row(pair, scores, labels, studies, dictionaries) for pair in results.pairs),
        facts=_facts(results, studies),
        controls=tuple(
            parts.Control(
                f"Initialization: {point.initialization}",
                f"The same labels and patients, {_MODES[point.mode]}; mean over {len(point.seeds)} seeds.",
                point.score,
            )
            for point in others
        ),
        tables=tuple(_tables(results, dictionaries)),
        notes=(*results.notes, *_problems(results)),
    )


def _row(
    pair: PairMetrics, scores: Scores, labels: Labels, studies: Studies, dictionaries: Dictionaries
) -> page.PairRow:
    key = (pair.organ, pair.abnormality)
    x, y = roc_points(labels[key].labels, scores[key])
    organ = "Study" if pair.organ == STUDY else dictionaries.organs[pair.organ].display
    return pair_row(pair, organ, _column_name(pair, studies, dictionaries), parts.Curve(x, y))


def _column_name(pair: PairMetrics, studies: Studies, dictionaries: Dictionaries) -> str:
    """The dictionary's display name of a plain column, else the column as it is headed."""
    names = {target.column: target.abnormality for target in studies.targets if not target.classes}
    name = names.get(pair.abnormality)
    return dictionaries.abnormalities[name].display if name else pair.abnormality


def _facts(results: ClassificationResults, studies: Studies) -> tuple[parts.Fact, ...]:
    counts = Counter(studies.splits)
    facts = [
        parts.Fact("Test studies", str(results.studies), f"{results.patients} patients"),
        parts.Fact("Labelled studies", ", ".join(f"{counts[name]} {name}" for name in sorted(counts))),
        parts.Fact("Thresholds", results.threshold_source),
        parts.Fact("Model format_interval", results.released["initialization"], f"seed {results.released['seed']}"),
    ]
    columns, texts = results.calibration.columns, results.calibration.texts
    if results.calibration.answers and columns.before is not None:
        text = f"before calibration {columns.before:.3f}; columns, test split"
        facts.append(parts.Fact("Calibration error", f"{columns.after:.3f}", text))
    if texts is not None and texts.before is not None:
        text = f"with the scale before tuning {texts.before:.3f}; answers to texts, test split"
        facts.append(parts.Fact("Calibration error", f"{texts.after:.3f}", text))
    return tuple(facts)


def _tables(results: ClassificationResults, dictionaries: Dictionaries) -> list[parts.Table]:
    """Initializations and shares, their paired differences, attention: each where there is something to say."""
    found = []
    if len(results.points) > 1:
        rows = [
            (
                p.initialization,
                _MODES[p.mode],
                f"{p.fraction:.0%}",
                str(p.patients),
                format_interval(p.score),
                _each(p.seeds),
            )
            for p in results.points
        ]
        columns = ("Initialization", "Trained", "Labels", "Patients", "Macro AUROC", "Each seed")
        text = "Mean over seeds, with its 95 % interval over test patients."
        found.append(
            parts.Table(
                "initializations", "Initializations and shares of the labels", text, columns, tuple(rows), words=2
            )
        )
    if results.differences:
        rows = [
            (
                f"{d.initialization}, {d.fraction:.0%}",
                f"{d.other}, {d.other_fraction:.0%}",
                format_interval(d.difference),
            )
            for d in results.differences
        ]
        text = "Macro AUROC of the first minus that of the second, draw by draw on the same test patients."
        columns = ("Initialization, labels", "Minus", "Difference")
        found.append(parts.Table("differences", "Paired differences", text, columns, tuple(rows), words=2))
    if results.attention:
        rows = [
            (column, dictionaries.organs[organ].display, f"{share:.0%}",
             f"{results.attention_positive.get(column, {}).get(organ, 0.0):.0%}")
            for column, shares in results.attention.items()
            for organ, share in shares.items()
        ]  # fmt: skip
        text = "Mean share of each organ in the answer: where it was read, not why it is right."
        columns = ("Column", "Organ", "All test studies", "Those that have it")
        found.append(parts.Table("attention", "Attention over organs", text, columns, tuple(rows), words=2))
    return found


def _each(seeds: tuple[float | None, ...]) -> str:
    return ", ".join("unknown" if value is None else f"{value:.3f}" for value in seeds)


def _problems(results: ClassificationResults) -> list[str]:
    counts = Counter(problem.code for problem in results.problems)
    first = {problem.code: problem for problem in reversed(results.problems)}
    return [
        f"{count} times {code.replace('_', ' ')}, first {first[code].subject}: {first[code].message} "
        "All are listed in problems.csv."
        for code, count in counts.items()
    ]
