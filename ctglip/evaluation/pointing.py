"""The pointing game: does the map of an answer peak in the lesion? For cohorts whose lesions' places are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ctglip.data.cache import OrganInstance, cut_study
from ctglip.data.crops import CropSettings
from ctglip.errors import CohortError
from ctglip.evaluation.bootstrap import Interval, interval_of, weighted_mean
from ctglip.evaluation.context import Context
from ctglip.inference.heatmap import HeatMap, crop_affine, crop_maps
from ctglip.table_files import read_table

NEAR_MM = 10.0
_COLUMNS = ("study_id", "organ", "abnormality", "x_mm", "y_mm", "z_mm", "radius_mm")


@dataclass(frozen=True)
class Pointed:
    """One abnormality, or all.

    Attributes:
        abnormality: name, or "all" (lesions of which a random voxel of the organ would be near half the time or more
            are left out there: they fill it).
        lesions: how many organs with such lesions.
        inside, near: share whose map peaks in a lesion, and within 10 mm of one, with intervals over patients.
        inside_chance, near_chance: the same of a random voxel of the organ.
    """

    abnormality: str
    lesions: int
    inside: Interval
    inside_chance: float
    near: Interval
    near_chance: float


def pointing_game(context: Context) -> tuple[Pointed, ...] | None:
    """Maps of the answers about organs that hold a lesion, judged by ``config.lesions``: a table of lesions in mm (as
    ``ctglip simulate`` writes ``lesions.csv``). None without such a table, or for models that read whole scans.

    Raises:
        CohortError: the table lacks a column.
    """
    if context.config.lesions is None:
        return None
    if context.scorer.release.model.settings.grounding != "crop":
        context.notes.append("Pointing game: maps are drawn for models that read organ crops.")
        return None
    table = _read(Path(context.config.lesions))
    asked = _asked(context, table)
    rows: list[tuple[str, float, float, float, float, int]] = []
    for done, (instance, lesions) in enumerate(asked.items(), start=1):
        rows += _study(context, instance, lesions)
        if context.progress:
            context.progress(done, len(asked))
    if not rows:
        context.notes.append("Pointing game: no lesion of the table lies in a judged organ.")
        return None
    names = sorted({row[0] for row in rows})
    focal = [row for row in rows if row[4] < 0.5]
    found = [_pointed(context, name, [row for row in rows if row[0] == name]) for name in names]
    return tuple(([_pointed(context, "all", focal)] if focal else []) + found)


def _read(path: Path) -> pl.DataFrame:
    table = read_table(path)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise CohortError(f"{path} has no column {missing[0]!r}.", code="missing_column", fix=", ".join(_COLUMNS))
    return table.with_columns(pl.col(name).cast(pl.Float64) for name in _COLUMNS[3:])


Lesions = dict[str, list[tuple[np.ndarray, float]]]
"""For each abnormality the lesions of one organ: middle and radius in mm."""


def _asked(context: Context, table: pl.DataFrame) -> dict[OrganInstance, Lesions]:
    """The judged organs that hold lesions they are asked about; a lesion in a part lies in the whole."""
    organs = context.scorer.dictionaries.organs
    by_study: dict[str, list[dict]] = {}
    for row in table.iter_rows(named=True):
        by_study.setdefault(row["study_id"], []).append(row)
    found: dict[OrganInstance, Lesions] = {}
    for instance in context.judged.instances:
        inside = {instance.organ, *organs.parts_of(instance.organ)}
        for row in by_study.get(instance.study_id, ()):
            if row["organ"] in inside and (instance.organ, row["abnormality"]) in context.labels:
                middle = np.array([row["x_mm"], row["y_mm"], row["z_mm"]])
                found.setdefault(instance, {}).setdefault(row["abnormality"], []).append((middle, row["radius_mm"]))
    return found


def _study(
    context: Context, instance: OrganInstance, lesions: Lesions
) -> list[tuple[str, float, float, float, float, int]]:
    """(abnormality, inside, near, chance of both, patient) of each abnormality of one organ."""
    release, organs = context.scorer.release, context.scorer.dictionaries.organs
    settings = CropSettings.model_validate(release.crops)
    study = context.store.study(instance.study_id)
    crop = cut_study(study, [instance.row], settings, organs)[0]
    affine = crop_affine(crop, instance.row, study.affine)
    patient = int(context.judged.patients[context.judged.instances.index(instance)])
    query = release.organs.index(instance.organ) if instance.organ in release.organs else 0
    axes = context.scorer.axes([(instance.organ, name) for name in lesions])
    maps = crop_maps(release.model, crop, settings, axes, query)
    out = []
    for (name, several), values in zip(lesions.items(), maps, strict=True):
        shown = HeatMap(instance.organ, name, values, affine)
        distance = np.min([_beyond(shown, middle, radius) for middle, radius in several], axis=0)
        inside = crop.mask >= 128 if (crop.mask >= 128).any() else crop.mask > 0
        peak = distance.reshape(-1)[int(np.where(inside, shown.values, -np.inf).argmax())]
        chance = [float((distance[inside] <= limit).mean()) for limit in (0.0, NEAR_MM)]
        out.append((name, float(peak <= 0), float(peak <= NEAR_MM), chance[0], chance[1], patient))
    return out


def _beyond(shown: HeatMap, middle: np.ndarray, radius: float) -> np.ndarray:
    """How far each voxel lies outside a lesion, in mm; 0 or less inside."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shown.values.shape], indexing="ij"), axis=-1)
    world = index @ shown.affine[:3, :3].T + shown.affine[:3, 3]
    return np.linalg.norm(world - middle, axis=-1) - radius


def _pointed(context: Context, name: str, rows: list[tuple[str, float, float, float, float, int]]) -> Pointed:
    patients = np.array([row[5] for row in rows])
    values = np.array([row[1:5] for row in rows])
    return Pointed(
        abnormality=name,
        lesions=len(rows),
        inside=interval_of(weighted_mean(values[:, 0], patients, context.weights)),
        inside_chance=float(values[:, 2].mean()),
        near=interval_of(weighted_mean(values[:, 1], patients, context.weights)),
        near_chance=float(values[:, 3].mean()),
    )
