"""The answers that went best and worst, with a slice through the organ."""

from __future__ import annotations

import numpy as np

from ctglip.cxr.recipe import CXR_MAX
from ctglip.data.samples import OrganInstance
from ctglip.errors import CTGLIPError
from ctglip.evaluation.context import Context
from ctglip.inference.scoring import Pair
from ctglip.pages.cxr import CxrBox, cxr_picture
from ctglip.pages.parts import Picture
from ctglip.pages.pictures import LUNG_HU, SOFT_TISSUE_HU, best_slice, slice_picture
from ctglip.pages.report import ExampleAnswer

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
        picture=_radiograph(context, instance)
        if context.radiographs
        else _picture(context, instance.study_id, pair[0]),
        note=_note(context, instance),
    )


def _note(context: Context, instance: OrganInstance) -> str:
    if context.radiographs:
        return f"Radiograph {instance.study_id}."
    cut_off = ", cut off" if instance.row.touches_border else ""
    return f"Study {instance.study_id}, {instance.row.volume_ml:.0f} ml{cut_off}."


def _radiograph(context: Context, instance: OrganInstance) -> Picture | None:
    """The radiograph, with the box that was read."""
    try:
        image = context.store.study(instance.study_id).image()
    except CTGLIPError:
        return None
    name = context.scorer.dictionaries.organs[instance.organ].display
    everything = instance.row.box[:4] == (0, image.shape[0], 0, image.shape[1])
    boxes = () if everything else (CxrBox(name, *instance.row.box[:4]),)
    return cxr_picture(image, CXR_MAX, boxes, longest_px=320, subject=f"study {instance.study_id}")


def _picture(context: Context, study_id: str, organ: str) -> Picture | None:
    organs = context.scorer.dictionaries.organs
    try:
        study = context.store.study(study_id)
        image, labels = study.image(), study.organs()
    except CTGLIPError:
        return None
    outlined = {organs[organ].display: sorted(organs.roi_labels(organ))}
    lungs = organ.startswith(("lung", "pleura", "bronch"))
    index = best_slice(image.shape, "axial", labels, outlined)
    return slice_picture(
        image, study.spacing_mm, "axial", index, labels, outlined,
        window_hu=LUNG_HU if lungs else SOFT_TISSUE_HU, longest_px=320, subject=f"study {study_id}",
    )  # fmt: skip
