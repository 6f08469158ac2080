"""What a fine-tuning found: the released model column by column, and every start at every share of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from ctglip.errors import CTGLIPError
from ctglip.evaluation.bootstrap import draw_patients, interval_of, macro_draws
from ctglip.evaluation.labels import Labels, PairLabels
from ctglip.evaluation.metrics import PairMetrics
from ctglip.evaluation.results import format_interval
from ctglip.evaluation.zero_shot import Scores, evaluate_pairs, pair_question, thresholds_of
from ctglip.tasks.calibration import CalibrationError, column_error
from ctglip.tasks.runs import CellResult, attention_means
from ctglip.tasks.settings import EvalSettings
from ctglip.tasks.studies import TEST, VAL, Studies
from ctglip.tasks.targets import STUDY, Problem, Task
from ctglip.types import Interval


@dataclass(frozen=True)
class Point:
    """One start at one share of the labels, mean over seeds.

    Attributes:
        start: its name.
        mode: what was trained.
        fraction: share of the training patients.
        patients: how many that were, of each seed's subset (they are alike).
        macro_auroc: mean over seeds, with the interval over test patients of that mean.
        seeds: each seed's.
    """

    start: str
    mode: str
    fraction: float
    patients: int
    macro_auroc: Interval
    seeds: tuple[float | None, ...]


@dataclass(frozen=True)
class Difference:
    """Macro AUROC of one start and share minus that of another, on the same test patients, draw by draw."""

    start: str
    fraction: float
    other: str
    other_fraction: float
    difference: Interval


@dataclass(frozen=True)
class Calibrated:
    """How far the kept model's probabilities can be trusted, see ``calibrate``.

    Attributes:
        scale, offsets: of the logits of each column (and class); fitted on the validation split.
        answers: what they were fitted on; 0: nothing was fitted.
        columns: error of the columns' probabilities on the test split, before and after.
        texts: error of answers to texts, where the model behind them was trained; before: with the scale of the model
            before tuning.
    """

    scale: float
    offsets: dict[str, float]
    answers: int
    columns: CalibrationError
    texts: CalibrationError | None = None


@dataclass(frozen=True)
class FinetuneResults:
    """One fine-tuning.

    Attributes:
        mode: what was trained.
        label_source: the label table.
        threshold_source: where thresholds were chosen.
        studies, patients: of the test split.
        released: start, fraction and seed of the model that was kept: the seed that validates best.
        macro_auroc: of that model.
        pairs: that model, column by column (``organ`` is ``study`` where several are read).
        left_out: columns with too few answers in the test split.
        points: every start at every share.
        differences: this start against the others.
        calibration: of the model that was kept.
        attention: mean share of each organ in columns that are read from several, over the test studies; and over
            those that have it.
        problems: what of the input could not be used.
        notes: what the reader must bear in mind.
    """

    mode: str
    label_source: str
    threshold_source: str
    studies: int
    patients: int
    released: dict[str, Any]
    macro_auroc: Interval
    pairs: tuple[PairMetrics, ...]
    left_out: tuple[str, ...]
    points: tuple[Point, ...]
    differences: tuple[Difference, ...]
    calibration: Calibrated
    attention: dict[str, dict[str, float]]
    attention_positive: dict[str, dict[str, float]]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def headline(self) -> str:
        """The result as a few lines and a table."""
        lines = [
            f"Macro AUROC {format_interval(self.macro_auroc)} over {len(self.pairs)} columns, {self.patients} patients "
            f"of the split {TEST}, {self.mode}, labels: {self.label_source}."
        ]
        fractions = sorted({point.fraction for point in self.points})
        if len(self.points) > 1:
            names = list(dict.fromkeys(point.start for point in self.points))
            wide = max(len(name) for name in names) + 2
            found = {(point.start, point.fraction): format_interval(point.macro_auroc) for point in self.points}
            lines.append("".join([" " * wide, *(f"{fraction:<24.0%}" for fraction in fractions)]).rstrip())
            lines += [
                "".join([f"{name:<{wide}}", *(f"{found[name, fraction]:<24}" for fraction in fractions)]).rstrip()
                for name in names
            ]
        lines += [
            f"{d.start} at {d.fraction:.0%} minus {d.other} at {d.other_fraction:.0%}: {format_interval(d.difference)}"
            for d in self.differences
        ]
        return "\n".join(lines)


def pairs_of(tasks: Sequence[Task]) -> dict[tuple[str, str], tuple[str, str]]:
    """For each (column, class) the (organ, abnormality) under which it is judged."""
    found = {}
    for task in tasks:
        organ = task.organs[0] if len(task.organs) == 1 else STUDY
        for name in task.classes or ("",):
            found[task.column, name] = (organ, f"{task.column} = {name}" if name else task.column)
    return found


@dataclass(frozen=True)
class Judge:
    """The test split as all cells are judged on it.

    Attributes:
        labels: of the columns that have enough answers, by pair.
        left_out: the others.
        patients: number of the patient of each test study.
        weights: bootstrap draws of patients.
        study_ids: of the test split, in the order of the rows.
    """

    labels: Labels
    left_out: tuple[str, ...]
    patients: Int[np.ndarray, " s"]
    weights: Float[np.ndarray, "draws patients"]
    study_ids: tuple[str, ...]

    def draws(self, scores: Scores) -> Float[np.ndarray, " draws"]:
        """Macro AUROC of each draw."""
        pairs = sorted(self.labels)
        return macro_draws([pair_question(scores[p], self.labels[p], self.patients) for p in pairs], self.weights)[1]


def build_judge(studies: Studies, settings: EvalSettings) -> Judge:
    """Labels and draws of the test split.

    Raises:
        CTGLIPError: code ``nothing_to_judge``.
    """
    rows = studies.of(TEST)
    every = labels_of(studies, rows)
    labels = {pair: known for pair, known in every.items() if known.both(settings.min_positives)}
    if not labels:
        raise CTGLIPError(
            f"No column has {settings.min_positives} positives and negatives in the split {TEST!r}.",
            code="nothing_to_judge",
            fix="Label more studies, or lower judge.min_positives.",
        )
    names, patients = np.unique([studies.patients[row] for row in rows], return_inverse=True)
    weights = draw_patients(len(names), settings.draws, np.random.default_rng(settings.seed))
    left_out = tuple(sorted(name for organ, name in every if (organ, name) not in labels))
    return Judge(labels, left_out, patients, weights, tuple(studies.study_ids[row] for row in rows))


def labels_of(studies: Studies, rows: Int[np.ndarray, " n"]) -> Labels:
    """The known labels of some studies, by pair; a pair's rows count through these studies."""
    found: Labels = {}
    names = pairs_of(studies.tasks)
    for number, task in enumerate(studies.tasks):
        values = studies.values[rows, number]
        known = np.flatnonzero(np.isfinite(values))
        for position, name in enumerate(task.classes or ("",)):
            truth = values[known] == (position if task.classes else 1)
            found[names[task.column, name]] = PairLabels(known, truth.astype(np.int64))
    return found


def scores_of(table: pl.DataFrame, split: str, tasks: Sequence[Task], labels: Labels) -> Scores:
    """A cell's probabilities of a split, over the rows where its label is known."""
    here = table.filter(pl.col("split") == split)
    found: Scores = {}
    for (column, name), pair in pairs_of(tasks).items():
        if pair in labels:
            rows = here.filter((pl.col("column") == column) & (pl.col("class") == name))
            found[pair] = rows["probability"].to_numpy()[labels[pair].rows]
    return found


def results_of(
    cells: Sequence[CellResult],
    studies: Studies,
    settings: EvalSettings,
    main: str,
    problems: Sequence[Problem],
    label_source: str,
) -> tuple[FinetuneResults, CellResult, Scores, Judge]:
    """Judge all cells.

    Returns:
        The results, the cell of the model that is released, its scores, and the judge.
    """
    judged = build_judge(studies, settings)
    points, draws = _points(cells, studies, judged)
    released = _released(cells, main)
    table = released.scores()
    scores = scores_of(table, TEST, studies.tasks, judged.labels)
    val = {pair: known for pair, known in labels_of(studies, studies.of(VAL)).items() if pair in judged.labels}
    thresholds = thresholds_of(val, scores_of(table, VAL, studies.tasks, val))
    pairs, macro = evaluate_pairs(judged.labels, scores, judged.patients, judged.weights, thresholds)
    attention = released.attention()
    positive = table.filter((pl.col("split") == TEST) & (pl.col("label") == 1) & (pl.col("class") == ""))
    columns = [task.column for task in studies.tasks]
    results = FinetuneResults(
        mode=released.about["mode"],
        label_source=label_source,
        threshold_source=f"best F1 on the split {VAL}" if thresholds else f"none: no label in the split {VAL}",
        studies=len(judged.study_ids),
        patients=judged.weights.shape[1],
        released={key: released.about[key] for key in ("start", "fraction", "seed")},
        macro_auroc=interval_of(macro),
        pairs=tuple(pairs),
        left_out=judged.left_out,
        points=points,
        differences=_differences(points, draws, main),
        calibration=_calibrated(released, table, studies.tasks),
        attention=attention_means(attention, columns),
        attention_positive=attention_means(attention.join(positive, on=["study_id", "column"], how="semi"), columns),
        problems=(*problems, *_few_labels(judged, settings)),
        notes=_notes(cells, studies),
    )
    return results, released, scores, judged


def _points(
    cells: Sequence[CellResult], studies: Studies, judged: Judge
) -> tuple[tuple[Point, ...], dict[tuple[str, float], Float[np.ndarray, " draws"]]]:
    groups: dict[tuple[str, float], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.cell.start, cell.cell.fraction), []).append(cell)
    points, draws = [], {}
    for (start, fraction), several in groups.items():
        each = np.stack([judged.draws(scores_of(c.scores(), TEST, studies.tasks, judged.labels)) for c in several])
        draws[start, fraction] = each.mean(0)
        seeds = tuple(float(value) for value in each[:, 0])
        about = several[0].about
        interval = interval_of(draws[start, fraction])
        points.append(Point(start, about["mode"], fraction, about["patients"], interval, seeds))
    return tuple(points), draws


def _differences(
    points: Sequence[Point], draws: dict[tuple[str, float], Float[np.ndarray, " draws"]], main: str
) -> tuple[Difference, ...]:
    """The main start against each other one at the same share, and against the other one at the largest share."""
    largest = max(point.fraction for point in points)
    found = []
    for mine in points:
        for other in points:
            if mine.start == main and other.start != main and other.fraction in (mine.fraction, largest):
                paired = interval_of(draws[mine.start, mine.fraction] - draws[other.start, other.fraction])
                found.append(Difference(mine.start, mine.fraction, other.start, other.fraction, paired))
    return tuple(found)


def _released(cells: Sequence[CellResult], main: str) -> CellResult:
    """Of the main start with most labels, the seed that validates best (the first where nothing validates)."""
    own = [cell for cell in cells if cell.cell.start == main]
    largest = max(cell.cell.fraction for cell in own)
    own = [cell for cell in own if cell.cell.fraction == largest]
    return max(own, key=lambda cell: cell.about["auroc"][cell.about["best"]] if cell.about["auroc"] else 0.0)


def _calibrated(released: CellResult, table: pl.DataFrame, tasks: Sequence[Task]) -> Calibrated:
    about = released.about["calibration"]
    names = [name for _, name in pairs_of(tasks).values()]
    offsets = dict(zip(names, about["offsets"], strict=True))
    return Calibrated(about["scale"], offsets, about["answers"], column_error(table))


def _few_labels(judged: Judge, settings: EvalSettings) -> list[Problem]:
    """The columns that are learned but not judged."""
    least = settings.min_positives
    message = f"The test split has fewer than {least} positives or {least} negatives, so it is learned but not judged."
    return [Problem("few_labels", name, message) for name in judged.left_out]


def _notes(cells: Sequence[CellResult], studies: Studies) -> tuple[str, ...]:
    notes = []
    if not len(studies.of(VAL)):
        notes.append("No labelled study is in the validation split: the last pass was kept, and no threshold chosen.")
    for fraction in sorted({cell.cell.fraction for cell in cells}):
        here = [c for c in cells if c.cell.fraction == fraction]
        lacking = [len(c.about["one_class"]) for c in here]
        if any(lacking):
            notes.append(
                f"At {fraction:.0%} of the labels ({here[0].about['patients']} patients) up to {max(lacking)} of "
                f"{len(studies.tasks)} columns have one answer alone in the subset: those cannot be learned from it."
            )
    return tuple(notes)
