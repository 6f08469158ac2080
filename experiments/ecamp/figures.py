"""What the experiment measures of a model: pictures, words, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ctglip.data.masking import EntityMasker, MaskingSettings
from ctglip.data.studies import StudyDataset
from ctglip.losses.masked import patchify, unpatchify, window_mask
from ctglip.models.masked import halved
from ctglip.objectives.base import StepContext
from ctglip.objectives.ecamp import Ecamp, MaskedBatch
from ctglip.reports.entities import entity_words

Figures = dict[str, float]

# --- pictures


def psnr(errors: Sequence[tuple[float, float]], grey: float) -> float:
    """Of (sum of squared errors, number of pixels) in units of ``grey`` to the range of grey values."""
    squared, pixels = (sum(column) for column in zip(*errors, strict=True))
    return -10 * math.log10(squared / pixels * grey**2)


def nearest_seen(target: Tensor, covered: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Each hidden patch filled with the mean grey of the nearest one that is seen."""
    points = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).flatten(0, -2).float()
    distance = torch.cdist(points, points)[None].expand(len(target), -1, -1)
    near = distance.masked_fill(covered[:, None].bool(), math.inf).argmin(-1)
    return target.mean(-1, keepdim=True).gather(1, near[..., None]).expand_as(target)


def cubic(picture: Tensor) -> Tensor:
    """Twice the resolution: bicubic; in 3D cubic splines."""
    if picture.dim() == 4:
        return F.interpolate(picture, scale_factor=2, mode="bicubic")
    volumes: Any = picture.flatten(0, 1).numpy()
    zoomed: list[Any] = [ndimage.zoom(one, 2, order=3, mode="nearest", grid_mode=True) for one in volumes]
    found = np.stack(zoomed)
    return torch.from_numpy(found).unflatten(0, picture.shape[:2])


@torch.no_grad()
def pictures(method: Ecamp, batches: Sequence[MaskedBatch], average: Tensor, grey: float) -> Figures:
    """PSNR of what is decoded and sharpened, beside what needs no learning.

    Args:
        average: the mean picture of the training set, at the encoder's resolution.
        grey: of one unit of the input in the range of grey values.
    """
    errors: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, found: Tensor, truth: Tensor, where: Tensor) -> None:
        where = where.expand_as(truth)
        errors.setdefault(name, []).append((float(((found - truth) * where).square().sum()), float(where.sum())))

    for batch in batches:
        found = method.encode(batch)
        target, covered = found["target"], found["covered"]
        sides = tuple(batch.image.shape[2:])
        grid = tuple(side // (method.settings.scale * method.patch) for side in sides)
        mean = patchify(average.expand(len(batch), *average.shape[1:]), method.patch)
        for name, guess in (
            ("decoded", found["prediction"]),
            ("mean picture", mean),
            ("nearest patch seen", nearest_seen(target, covered, grid)),
        ):
            note(f"hidden patches, {name}", guess, target, covered[..., None])
        if method.super_resolution is None:
            continue
        decoded = unpatchify(found["prediction"], method.patch, grid)
        corner = found["corner"]
        window = window_mask(grid, corner, method._window(grid), 2 * method.patch)
        linear = F.interpolate(decoded, scale_factor=2, mode="trilinear" if len(grid) == 3 else "bilinear")
        whole = halved(batch.image)
        for name, guess in (
            ("sharpened", found["sharp"]),
            ("linear", linear),
            ("cubic", cubic(decoded)),
        ):
            note(f"window from decoded patches, {name}", guess, found["fine"], window)
        for name, guess in (("sharpened", method.super_resolution(whole)), ("cubic", cubic(whole))):
            note(f"window from the whole picture, {name}", guess, found["fine"], window)
    return {name: psnr(some, grey) for name, some in errors.items()}


# --- words


@torch.no_grad()
def words(method: Ecamp, batches: Sequence[MaskedBatch], swap: bool, many: bool) -> Figures:
    """Share of hidden entities, and of the words before them, that are said rightly, and the cross-entropy of both.

    Args:
        swap: every report with the picture of the next one.
        many: the words around them are hidden too, as in the published training; otherwise these are shown.
    """
    assert method.bert is not None
    right: dict[str, list[float]] = {"entities": [], "descriptors": [], "nats": []}
    for batch in batches:
        image = batch.image.roll(1, 0) if swap else batch.image
        hidden = batch.focus | batch.hidden if many else batch.focus
        shown = torch.where(hidden, method.pieces.mask, batch.words)
        logits = method.bert.words(method.encode(replace(batch, image=image, input_ids=shown, hidden=hidden))["state"])
        said = logits.argmax(-1) == batch.words
        right["entities"] += said[batch.entity].float().tolist()
        right["descriptors"] += said[batch.focus & ~batch.entity].float().tolist()
        nats = F.cross_entropy(logits[batch.focus], batch.words[batch.focus], reduction="none")
        right["nats"] += nats.tolist()
    return {name: float(np.mean(some)) for name, some in right.items()}


def tested(method: Ecamp, samples: Sequence[Any], size: int) -> list[MaskedBatch]:
    """Held-out samples in batches with the published holes, no sentences put in."""
    method.settings = method.settings.model_copy(update={"context": 0.0})
    entities = entity_words(method.settings.entities.entities)
    method.masker = EntityMasker(method.pieces, entities, MaskingSettings())
    return [
        method.collate(samples[start : start + size], StepContext(seed=1)) for start in range(0, len(samples), size)
    ]


def told(method: Ecamp, batches: Sequence[MaskedBatch]) -> Figures:
    """Words with the own picture and with another patient's, much and little of the rest hidden."""
    found: Figures = {}
    if method.bert is not None:
        for many in (True, False):
            for swap in (False, True):
                where = f"{'published holes' if many else 'rest shown'}{', another picture' if swap else ''}"
                found |= {f"{name} ({where})": value for name, value in words(method, batches, swap, many).items()}
    return found


# --- labels


def labelled(method: Ecamp, radiographs: dict[str, StudyDataset], truth: Path) -> Figures:
    """Macro AUROC of a logistic regression on the frozen encoder; nothing where there is no table of truth."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    if not truth.is_file():
        return {}
    table = pl.read_csv(truth, schema_overrides={"study_id": pl.String})
    columns = [name for name in table.columns if ":" in name]
    known = {row["study_id"]: [row[name] for name in columns] for row in table.iter_rows(named=True)}
    x, y = {}, {}
    for name, dataset in radiographs.items():
        image = torch.from_numpy(np.stack([dataset.sampled([row], 0)[0].image for row in range(len(dataset))]))
        with torch.no_grad():
            x[name] = method.encoder(halved(image) if method.settings.scale == 2 else image).pooled.numpy()
        y[name] = np.array([known[study] for study in dataset.study_ids])
    mean, scale = x["train"].mean(0), x["train"].std(0) + 1e-6
    found = []
    for column in range(len(columns)):
        if len(np.unique(y["held"][:, column])) == 2:
            model = LogisticRegression(C=0.1, max_iter=500).fit((x["train"] - mean) / scale, y["train"][:, column])
            said = model.decision_function((x["held"] - mean) / scale)
            found.append(float(roc_auc_score(y["held"][:, column], said)))
    return {"labels, AUROC": float(np.mean(found))}
