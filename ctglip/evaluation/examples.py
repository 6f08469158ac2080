"""The answers that went best and worst, with a slice through the organ."""

from __future__ import annotations

import numpy as np

from ctglip.data.samples import OrganInstance
from ctglip.errors import CTGLIPError
from ctglip.evaluation.context import Context
from ctglip.inference.scoring import Pair
from ctglip.modality import MODALITIES
from ctglip.pages.parts import Picture
from ctglip.pages.report import ExampleAnswer
from ctglip.types import OrganRow

MOST_EXAMPLES = 4


def best_and_worst(context: Context) -> tuple[tuple[ExampleAnswer, ...], tuple[ExampleAnswer, ...]]:
    """Up to four positives found with the highest probability, and four answers that were furthest from the truth, each
    of another (organ, abnormality)."""
    found: list[tuple[float, Pair, int]] = []
    missed: list[tuple[float, Pair, int]] = []
    for pair, known in context.labels.items():
        scores = context.scores[pair]
        surest = int(np.where(known.labels == 1, scores, -1.0).argmax())
        found.append((1 - float(scores[surest]), pair, surest))
        furthest = int(np.abs(known.labels - scores).argmax())
        missed.append((-float(abs(known.labels[furthest] - scores[furthest])), pair, furthest))
    best, worst = (
        tuple(_example(context, pair, number) for _, pair, number in sorted(several)[:MOST_EXAMPLES])
        for several in (found, missed)
    )
    return best, worst


def _example(context: Context, pair: Pair, number: int) -> ExampleAnswer:
    dictionaries, known = context.scorer.dictionaries, context.labels[pair]
    instance = context.split.instances[int(known.rows[number])]
    organ, abnormality = dictionaries.organs[pair[0]], dictionaries.abnormalities[pair[1]]
    return ExampleAnswer(
        title=f"{abnormality.display}, {organ.display}",
        truth=bool(known.labels[number]),
        probability=float(context.scores[pair][number]),
        picture=_picture(context, instance),
        note=_note(instance),
    )


def _note(instance: OrganInstance) -> str:
    row = instance.row
    if not isinstance(row, OrganRow):
        return f"Study {instance.study_id}."
    return f"Study {instance.study_id}, {row.volume_ml:.0f} ml{', cut off' if row.touches_border else ''}."


def _picture(context: Context, instance: OrganInstance) -> Picture | None:
    """The image with the organ that was read."""
    modality, organs = MODALITIES[context.release.modality], context.scorer.dictionaries.organs
    try:
        study = context.store.study(instance.study_id)
        image, labels = study.image(), study.organs()
    except CTGLIPError:
        return None
    subject = f"study {instance.study_id}"
    return modality.picture(image, study.spacing_mm, labels, instance.row, organs, subject)
