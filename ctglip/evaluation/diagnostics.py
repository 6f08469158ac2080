"""What the answers hang on: the organ's voxels, its side, the whole of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctglip.evaluation.bootstrap import Interval, interval_of, weighted_mean
from ctglip.evaluation.context import Context
from ctglip.evaluation.counterfactuals import ERASED, KEPT, MIRRORED, TRUNCATED
from ctglip.evaluation.results import ControlResult
from ctglip.inference.encoding import OrganEmbeddings


@dataclass(frozen=True)
class Swap:
    """Left and right exchanged.

    Attributes:
        answers: the same questions about the mirrored organs; a difference near 0 says that findings are read alike on
            both sides.
        turned: share of the organs that have a side that are then taken for the organ of the other side.
        kept: share that are still taken for the organ of their own side.
        n: how many such organs there are.
    """

    answers: ControlResult
    turned: Interval
    kept: Interval
    n: int


@dataclass(frozen=True)
class Truncation:
    """The lower part of each organ cut off by the field of view.

    Attributes:
        answers: the same questions about what is left.
        shift: mean change of the probabilities, up or down.
        flipped: share of the answers that turn from yes to no or back, of those that have a threshold.
    """

    answers: ControlResult
    shift: float
    flipped: float | None


def organ_erasure(context: Context) -> ControlResult:
    """The same questions with the organ's voxels replaced by what surrounds them: what is left is read from the mask
    and the neighbours."""
    differences = context.differences(context.seen_as(ERASED))
    text = "Every voxel of the organ replaced by its nearest surroundings; the model still sees the mask."
    return context.compared("Organ erased", text, differences)


def left_right_swap(context: Context) -> Swap:
    """The same questions about mirrored organs, and which side they are then taken for."""
    embeddings = context.seen_as(MIRRORED)
    text = "Each crop mirrored, left for right."
    answers = context.compared("Mirrored", text, context.differences(embeddings))
    turned, kept, rows = _sides(context, embeddings)
    patients = context.judged.patients[rows]
    if not len(rows):
        return Swap(answers, Interval(None), Interval(None), 0)
    share = weighted_mean(turned, patients, context.weights)
    still = weighted_mean(kept, patients, context.weights)
    return Swap(answers, interval_of(share), interval_of(still), len(rows))


def _sides(context: Context, embeddings: OrganEmbeddings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For organs that have a side: 1 where taken for the mirror image, 1 where still for itself; and the rows."""
    organs, names = context.scorer.dictionaries.organs, context.scorer.release.organs
    said = context.scorer.recognise(embeddings.anatomy)
    rows = [r for r, instance in enumerate(context.judged.instances) if organs.mirror(instance.organ) != instance.organ]
    answers = [(names[int(said[row])], context.judged.instances[row].organ) for row in rows]
    turned = np.array([float(answer == organs.mirror(truth)) for answer, truth in answers])
    kept = np.array([float(answer == truth) for answer, truth in answers])
    return turned, kept, np.array(rows, dtype=np.int64)


def truncation(context: Context) -> Truncation:
    """The same questions when the field of view ends in the middle of each organ."""
    differences = context.differences(context.seen_as(TRUNCATED))
    text = f"The field of view ends within the organ: its upper {KEPT:.0%} is left."
    calibration = context.scorer.calibration
    changed = {pair: calibration.probabilities(differences[pair]) for pair in context.labels}
    shifts = np.concatenate([changed[pair] - context.scores[pair] for pair in changed])
    flips = [(changed[pair] >= limit) != (context.scores[pair] >= limit) for pair, limit in context.thresholds.items()]
    return Truncation(
        answers=context.compared("Field of view cut", text, differences),
        shift=float(shifts.mean()),
        flipped=float(np.concatenate(flips).mean()) if flips else None,
    )
