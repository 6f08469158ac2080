"""What a classification found: the released model column by column, beside what every fine-tuning tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from ctglip.errors import CTGLIPError
from ctglip.evaluation.bootstrap import macro_draws
from ctglip.evaluation.labels import Labels
from ctglip.evaluation.metrics import PairMetrics
from ctglip.evaluation.zero_shot import Scores, evaluate_pairs, pair_question, thresholds_of
from ctglip.pages.wording import format_interval
from ctglip.tasks.calibration import CalibrationError, column_error
from ctglip.tasks.classification_tables import attention_means, labels_of, pairs_of, scores_of
from ctglip.tasks.results import BootstrapPatients, FinishedRun, TaskResults, compare_runs, released_run
from ctglip.tasks.settings import EvalSettings
from ctglip.tasks.studies import TEST, VAL, Studies
from ctglip.tasks.targets import UnusedInput


@dataclass(frozen=True)
class CalibrationResults:
    """How far the released model's probabilities can be trusted, see ``calibration``.

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


@dataclass(frozen=True, kw_only=True)
class ClassificationResults(TaskResults):
    """One fine-tuning on labels.

    Attributes:
        label_source: the label table.
        threshold_source: where thresholds were chosen.
        pairs: the released model, column by column (``organ`` is ``study`` where several are read).
        left_out: columns with too few answers in the test split.
        calibration: of the released model.
        attention: mean share of each organ in columns that are read from several, over the test studies; and over
            those that have it.
    """

    label_source: str
    threshold_source: str
    pairs: tuple[PairMetrics, ...]
    left_out: tuple[str, ...]
    calibration: CalibrationResults
    attention: dict[str, dict[str, float]]
    attention_positive: dict[str, dict[str, float]]

    def summary(self) -> str:
        """Macro AUROC, and over what."""
        return (
            f"Macro AUROC {format_interval(self.score)} over {len(self.pairs)} columns, {self.patients} patients of "
            f"the split {TEST}, {self.mode}, {self.label_source}."
        )


@dataclass(frozen=True)
class ComparedColumns:
    """The columns on which runs are compared, in the test split.

    Attributes:
        labels: of the columns that have enough answers, by pair.
        left_out: the others.
        patients: of the test split.
    """

    labels: Labels
    left_out: tuple[str, ...]
    patients: BootstrapPatients

    @staticmethod
    def of(studies: Studies, settings: EvalSettings, patients: BootstrapPatients) -> ComparedColumns:
        """Those with enough positives and negatives.

        Raises:
            CTGLIPError: code ``nothing_to_compare``.
        """
        every = labels_of(studies, studies.of(TEST))
        labels = {pair: known for pair, known in every.items() if known.both(settings.min_positives)}
        if not labels:
            raise CTGLIPError(
                f"No column has {settings.min_positives} positives and negatives in the split {TEST!r}.",
                code="nothing_to_compare",
                fix="Label more studies, or lower evaluate.min_positives.",
            )
        left_out = tuple(sorted(name for organ, name in every if (organ, name) not in labels))
        return ComparedColumns(labels, left_out, patients)

    def draws(self, scores: Scores) -> Float[np.ndarray, " draws"]:
        """Macro AUROC of each draw of patients."""
        questions = [
            pair_question(scores[pair], self.labels[pair], self.patients.numbers) for pair in sorted(self.labels)
        ]
        return macro_draws(questions, self.patients.weights)[1]


def classification_results(
    runs: Sequence[FinishedRun], studies: Studies, settings: EvalSettings, label_source: str
) -> ClassificationResults:
    """Compare all runs on the test split, and judge the released one column by column."""
    patients, targets = BootstrapPatients.of(studies, settings), studies.targets
    compared = ComparedColumns.of(studies, settings, patients)

    def draws_of(run: FinishedRun) -> Float[np.ndarray, " draws"]:
        return compared.draws(scores_of(run.table("scores"), TEST, targets, compared.labels))

    released = released_run(runs, "val_macro_auroc")
    table, attention = released.table("scores"), released.table("attention")
    val = {pair: known for pair, known in labels_of(studies, studies.of(VAL)).items() if pair in compared.labels}
    thresholds = thresholds_of(val, scores_of(table, VAL, targets, val))
    scores = scores_of(table, TEST, targets, compared.labels)
    pairs, _ = evaluate_pairs(compared.labels, scores, patients.numbers, patients.weights, thresholds)
    positive = table.filter((pl.col("split") == TEST) & (pl.col("label") == 1) & (pl.col("class") == ""))
    columns, fitted = [target.column for target in targets], released.about["calibration"]
    names = [name for _, name in pairs_of(targets).values()]
    offsets = dict(zip(names, fitted["offsets"], strict=True))
    return ClassificationResults(
        task="classification",
        metric="macro_auroc",
        studies=len(patients.study_ids),
        patients=patients.weights.shape[1],
        label_source=label_source,
        threshold_source=f"best F1 on the split {VAL}" if thresholds else f"none: no label in the split {VAL}",
        pairs=tuple(pairs),
        left_out=compared.left_out,
        calibration=CalibrationResults(fitted["scale"], offsets, fitted["answers"], column_error(table)),
        attention=attention_means(attention, columns),
        attention_positive=attention_means(attention.join(positive, on=["study_id", "column"], how="semi"), columns),
        problems=(*studies.problems, *_few_labels(compared, settings)),
        notes=_notes(runs, studies),
        **compare_runs(runs, draws_of, "val_macro_auroc"),
    )


def _few_labels(compared: ComparedColumns, settings: EvalSettings) -> list[UnusedInput]:
    """The columns that are learned but not compared."""
    least = settings.min_positives
    message = f"The test split has fewer than {least} positives or {least} negatives, so it is learned but not judged."
    return [UnusedInput("few_labels", name, message) for name in compared.left_out]


def _notes(runs: Sequence[FinishedRun], studies: Studies) -> tuple[str, ...]:
    notes = []
    if not len(studies.of(VAL)):
        notes.append("No labelled study is in the validation split: the last epoch was kept, and no threshold chosen.")
    for fraction in sorted({run.run.fraction for run in runs}):
        subsets = [studies.subset(fraction, seed) for seed in sorted({run.run.seed for run in runs})]
        most = max(_columns_of_one_answer(studies, rows) for rows in subsets)
        if most:
            patients = len({studies.patients[row] for row in subsets[0]})
            notes.append(
                f"At {fraction:.0%} of the labels ({patients} patients) up to {most} of {len(studies.targets)} columns "
                "have one answer alone in the subset: those cannot be learned from it."
            )
    return tuple(notes)


def _columns_of_one_answer(studies: Studies, rows: np.ndarray) -> int:
    """Columns of which some studies know one answer at most."""
    values = studies.values[rows]
    return sum(len(np.unique(column[np.isfinite(column)])) < 2 for column in values.T)
