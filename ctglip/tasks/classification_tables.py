"""The tables of a classification: scores of studies, column by column, and the attention over organs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from ctglip.evaluation.labels import Labels, PairLabels
from ctglip.evaluation.zero_shot import Scores
from ctglip.tasks.calibration import LogitCalibration
from ctglip.tasks.studies import Bags, Studies
from ctglip.tasks.targets import STUDY, Target


def score_table(
    studies: Studies,
    split: str,
    rows: Int[np.ndarray, " s"],
    raw: Float[np.ndarray, "s c"],
    calibration: LogitCalibration | None,
) -> pl.DataFrame:
    """split, study_id, patient_id, column, class, label, logit, uncalibrated, probability: one row for each study,
    column and class; the label is 1 or 0, or null where it is not known."""
    every = raw.astype(np.float64)
    calibrated = every if calibration is None else calibration.logits(every)
    frames, start = [], 0
    for number, target in enumerate(studies.targets):
        columns = slice(start, start + target.width)
        logits, plain = every[:, columns], probabilities_of(every[:, columns], target)
        probabilities = probabilities_of(calibrated[:, columns], target)
        values = studies.values[rows, number]
        for position in range(target.width):
            truth = np.where(np.isfinite(values), values == (position if target.classes else 1), np.nan)
            frames.append(
                pl.DataFrame(
                    {
                        "split": split,
                        "study_id": [studies.study_ids[row] for row in rows],
                        "patient_id": [studies.patients[row] for row in rows],
                        "column": target.column,
                        "class": target.classes[position] if target.classes else "",
                        "label": pl.Series(truth, dtype=pl.Float64).fill_nan(None).cast(pl.Int8),
                        "logit": logits[:, position],
                        "uncalibrated": plain[:, position],
                        "probability": probabilities[:, position],
                    }
                )
            )
        start += target.width
    return pl.concat(frames)


def probabilities_of(logits: np.ndarray, target: Target) -> np.ndarray:
    """Sigmoid of a binary column, softmax over the classes of another."""
    if not target.classes:
        return 1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def attention_table(
    studies: Studies, bags: Bags, instances: Int[np.ndarray, " n"], attention: Float[np.ndarray, "n t"]
) -> pl.DataFrame:
    """study_id, column, organ, share: how much each organ of a column counted in each study."""
    frames = []
    for number, target in enumerate(studies.targets):
        rows = [position for position, row in enumerate(instances) if bags.organs[bags.organ[row]] in target.organs]
        frames.append(
            pl.DataFrame(
                {
                    "study_id": [studies.study_ids[bags.study[instances[position]]] for position in rows],
                    "column": target.column,
                    "organ": [bags.organs[bags.organ[instances[position]]] for position in rows],
                    "share": attention[rows, number].astype(np.float64),
                },
                schema={"study_id": pl.String, "column": pl.String, "organ": pl.String, "share": pl.Float64},
            )
        )
    return pl.concat(frames)


def attention_means(table: pl.DataFrame, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean share of each organ, for each column that is read from several."""
    means = table.group_by("column", "organ").agg(pl.col("share").mean()).sort("column", "share", descending=True)
    found: dict[str, dict[str, float]] = {column: {} for column in columns}
    for column, organ, share in means.select("column", "organ", "share").iter_rows():
        found[column][organ] = float(share)
    return {column: shares for column, shares in found.items() if len(shares) > 1}


def pairs_of(targets: Sequence[Target]) -> dict[tuple[str, str], tuple[str, str]]:
    """For each (column, class) the (organ, abnormality) under which it is compared."""
    found = {}
    for target in targets:
        organ = target.organs[0] if len(target.organs) == 1 else STUDY
        for name in target.classes or ("",):
            found[target.column, name] = (organ, f"{target.column} = {name}" if name else target.column)
    return found


def labels_of(studies: Studies, rows: Int[np.ndarray, " n"]) -> Labels:
    """The known labels of some studies, by pair; a pair's rows count through these studies."""
    found: Labels = {}
    names = pairs_of(studies.targets)
    for number, target in enumerate(studies.targets):
        values = studies.values[rows, number]
        known = np.flatnonzero(np.isfinite(values))
        for position, name in enumerate(target.classes or ("",)):
            truth = values[known] == (position if target.classes else 1)
            found[names[target.column, name]] = PairLabels(known, truth.astype(np.int64))
    return found


def scores_of(table: pl.DataFrame, split: str, targets: Sequence[Target], labels: Labels) -> Scores:
    """A cell's probabilities of a split, over the rows where its label is known."""
    rows_of_split = table.filter(pl.col("split") == split)
    found: Scores = {}
    for (column, name), pair in pairs_of(targets).items():
        if pair in labels:
            rows = rows_of_split.filter((pl.col("column") == column) & (pl.col("class") == name))
            found[pair] = rows["probability"].to_numpy()[labels[pair].rows]
    return found
