"""Does the map of an answer peak where the finding is? On radiographs whose lesions, or whose organs, have boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from ctglip.data.cache import OrganInstance
from ctglip.data.cxr_input import CxrInput, cxr_input
from ctglip.errors import CohortError
from ctglip.evaluation.bootstrap import Interval, interval_of, weighted_mean
from ctglip.evaluation.context import Context
from ctglip.inference.cxr_encoding import Reading, boxes_of, cxr_settings, organ_box, queries_of, reading_of
from ctglip.inference.cxr_maps import cxr_maps, laid_on
from ctglip.inference.observations import observation_maps
from ctglip.store.study import StudyReader
from ctglip.table_files import read_table
from ctglip.types import Region

NEAR = 0.05
"""Near a lesion: within this share of the radiograph's width."""
_DISCS = ("row", "column", "radius")
_BOXES = ("row0", "row1", "column0", "column1")


@dataclass(frozen=True)
class CxrPointed:
    """One abnormality, or all.

    Attributes:
        abnormality: name, or "all".
        radiographs: how many positive answers were looked at.
        lesion, near: share whose map peaks in a lesion, and within a twentieth of the radiograph's width of one; None
        where
            no table of lesions was given.
        region: share whose map peaks in the box of the finding's organ; None where radiographs have none.
        *_chance: the same of a random pixel that the map covers.
    """

    abnormality: str
    radiographs: int
    lesion: Interval | None
    lesion_chance: float | None
    near: Interval | None
    near_chance: float | None
    region: Interval | None
    region_chance: float | None


Lesion = tuple[float, float, float, float, float]
"""Middle (row, column), half height and width, and 1 for a disc (0: a box), in pixels of the radiograph's file."""
_KINDS = ("lesion", "near", "region")


@dataclass(frozen=True)
class _Looked:
    """One answer: shares (1 or 0, NaN where not known) and their chance, by ``_KINDS``."""

    abnormality: str
    patient: int
    hit: tuple[float, float, float]
    chance: tuple[float, float, float]


def cxr_pointing(context: Context) -> tuple[CxrPointed, ...] | None:
    """Maps of the answers about radiographs that show a finding, judged by ``config.lesions`` and by the boxes of
    organs.

    The table of lesions has ``study_id, organ, abnormality`` and a disc (``row, column, radius``) or a box (``row0,
    row1, column0, column1``), in pixels of the radiograph's file. None where no radiograph has anything to judge by.

    Raises:
        CohortError: the table lacks a column.
    """
    lesions = _lesions(Path(context.config.lesions)) if context.config.lesions else {}
    asked: dict[str, list[tuple[OrganInstance, str, int]]] = {}
    for (_, name), known in context.labels.items():
        for row in known.rows[known.labels == 1]:
            instance = context.judged.instances[int(row)]
            asked.setdefault(instance.study_id, []).append((instance, name, int(context.judged.patients[int(row)])))
    looked: list[_Looked] = []
    for done, (study_id, several) in enumerate(asked.items(), start=1):
        looked += _radiograph(context, study_id, several, lesions.get(study_id, {}))
        if context.progress:
            context.progress(done, len(asked))
    looked = [one for one in looked if np.isfinite(one.hit).any()]
    if not looked:
        context.notes.append("Pointing game: no radiograph has a lesion of the table, or a box of the finding's organ.")
        return None
    names = sorted({one.abnormality for one in looked})
    found = [_pointed(context, name, [one for one in looked if one.abnormality == name]) for name in names]
    return (_pointed(context, "all", looked), *found)


def _lesions(path: Path) -> dict[str, dict[tuple[str, str], list[Lesion]]]:
    """By study, then organ and abnormality."""
    table = read_table(path)
    discs = set(_DISCS) <= set(table.columns)
    missing = [name for name in ("study_id", "organ", "abnormality", *(_DISCS if discs else _BOXES))
               if name not in table.columns]  # fmt: skip
    if missing:
        raise CohortError(
            f"{path} has no column {missing[0]!r}.",
            code="missing_column",
            fix=f"Give study_id, organ, abnormality and {', '.join(_DISCS)} or {', '.join(_BOXES)}.",
        )
    found: dict[str, dict[tuple[str, str], list[Lesion]]] = {}
    for row in table.with_columns(pl.col(name).cast(pl.Float64) for name in (_DISCS if discs else _BOXES)).iter_rows(
        named=True
    ):
        if discs:
            lesion = row["row"], row["column"], row["radius"], row["radius"], 1.0
        else:
            (top, low, left, right) = (row[name] for name in _BOXES)
            lesion = (top + low - 1) / 2, (left + right - 1) / 2, (low - top) / 2, (right - left) / 2, 0.0
        found.setdefault(row["study_id"], {}).setdefault((row["organ"], row["abnormality"]), []).append(lesion)
    return found


def _radiograph(
    context: Context,
    study_id: str,
    several: Sequence[tuple[OrganInstance, str, int]],
    lesions: Mapping[tuple[str, str], Sequence[Lesion]],
) -> list[_Looked]:
    release, organs = context.scorer.release, context.scorer.dictionaries.organs
    study = context.store.study(study_id)
    radiograph = cxr_input(study.image(), cxr_settings(release))
    boxes = boxes_of([Region(r["region"], *(r[edge] for edge in _BOXES)) for r in study.rows("regions")])
    reading = reading_of(release.model, context.config.cxr.read)
    queries = queries_of(release.organs, organs)
    to_file, shape = _to_file(study, radiograph)
    found = []
    maps = _maps(context, radiograph, several, reading, queries)
    for (instance, name, patient), values in zip(several, maps, strict=True):
        laid = laid_on(values, to_file, shape)
        if not np.isfinite(laid).any():
            continue
        parts = {instance.organ, *organs.parts_of(instance.organ)}
        own = [one for (organ, what), many in lesions.items() if organ in parts and what == name for one in many]
        # a map of a box lies in the organ's box wherever it peaks
        region = organ_box(instance.organ, boxes, organs) if reading != "box" else None
        found.append(_judged(name, patient, laid, own, _on_file(region[0].box[:4], study) if region else None))
    return found


def _maps(
    context: Context,
    radiograph: CxrInput,
    several: Sequence[tuple[OrganInstance, str, int]],
    reading: Reading,
    queries: Mapping[str, int],
) -> list[Float[np.ndarray, "h w"]]:
    """The map of each answer; a radiograph passes the encoder once where it is read as a whole, else once for each
    organ."""
    groups: dict[str, list[int]] = {}
    for number, (instance, _, _) in enumerate(several):
        groups.setdefault("" if reading in ("whole", "observations") else instance.organ, []).append(number)
    found: dict[int, Float[np.ndarray, "h w"]] = {}
    for numbers in groups.values():
        instance, model = several[numbers[0]][0], context.scorer.release.model
        pairs = [(several[n][0].organ, several[n][1]) for n in numbers]
        if reading == "observations":
            maps = observation_maps(model, radiograph, context.scorer.sides(pairs)[0])
        else:
            query, axes = queries.get(instance.organ, 0), context.scorer.axes(pairs)
            maps = cxr_maps(model, radiograph, instance.row, query, reading, axes)
        found |= dict(zip(numbers, maps, strict=True))
    return [found[number] for number in range(len(several))]


def _to_file(study: StudyReader, radiograph: CxrInput) -> tuple[Float[np.ndarray, "4 4"], tuple[int, int]]:
    """The window's pixels to those of the radiograph's file, and the shape of that; the stored grid where it is not
    known."""
    source = study.source
    if source is None:
        return radiograph.affine(), radiograph.shape
    rows, columns = source.shape[:2]
    return np.linalg.inv(source.affine) @ study.affine @ radiograph.affine(), (int(rows), int(columns))


def _on_file(box: Sequence[int], study: StudyReader) -> Lesion:
    """A box of the stored radiograph in pixels of its file."""
    to_file = np.eye(4) if study.source is None else np.linalg.inv(study.source.affine) @ study.affine
    middle = [(box[0] + box[1] - 1) / 2, (box[2] + box[3] - 1) / 2]
    row, column = (to_file[axis, axis] * middle[axis] + to_file[axis, 3] for axis in (0, 1))
    return row, column, to_file[0, 0] * (box[1] - box[0]) / 2, to_file[1, 1] * (box[3] - box[2]) / 2, 0.0


def _judged(
    name: str, patient: int, laid: Float[np.ndarray, "r c"], lesions: Sequence[Lesion], region: Lesion | None
) -> _Looked:
    known = np.isfinite(laid)
    peak = np.unravel_index(int(np.where(known, laid, -np.inf).argmax()), laid.shape)
    hit, chance = [np.nan] * 3, [np.nan] * 3
    wanted = ((lesions, {0: 0.0, 1: NEAR * laid.shape[1]}), ([region] if region else [], {2: 0.0}))
    for several, slacks in wanted:
        if several:
            beyond = np.min([_beyond(laid.shape, one) for one in several], axis=0)
            for number, slack in slacks.items():
                hit[number], chance[number] = float(beyond[peak] <= slack), float((beyond[known] <= slack).mean())
    return _Looked(name, patient, (hit[0], hit[1], hit[2]), (chance[0], chance[1], chance[2]))


def _beyond(shape: tuple[int, ...], lesion: Lesion) -> Float[np.ndarray, "r c"]:
    """How far each pixel lies outside a lesion, in pixels; 0 or less inside."""
    row, column, height, width, disc = lesion
    down = np.abs(np.arange(shape[0]) - row)[:, None]
    across = np.abs(np.arange(shape[1]) - column)[None, :]
    if disc:
        return np.hypot(down, across) - max(height, 0.5)
    return np.hypot(np.maximum(down - height, 0), np.maximum(across - width, 0))


def _pointed(context: Context, name: str, looked: Sequence[_Looked]) -> CxrPointed:
    values: dict[str, Interval | None] = {}
    chances: dict[str, float | None] = {}
    patients = np.array([one.patient for one in looked])
    for number, kind in enumerate(_KINDS):
        hit, chance = (np.array([getattr(one, part)[number] for one in looked]) for part in ("hit", "chance"))
        there = np.isfinite(hit)
        values[kind] = chances[kind] = None
        if there.any():
            values[kind] = interval_of(weighted_mean(hit[there], patients[there], context.weights))
            chances[kind] = float(chance[there].mean())
    return CxrPointed(
        abnormality=name,
        radiographs=len(looked),
        lesion=values["lesion"],
        lesion_chance=chances["lesion"],
        near=values["near"],
        near_chance=chances["near"],
        region=values["region"],
        region_chance=chances["region"],
    )
