"""The pointing game: does the map of an answer peak in the lesion? For cohorts whose lesions' places are known, and
radiographs whose organs have boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from ctglip.data.cache import cut_study
from ctglip.data.crops import CropSettings
from ctglip.data.cxr import CxrInput, cxr_input
from ctglip.data.samples import OrganInstance
from ctglip.errors import CohortError
from ctglip.evaluation.bootstrap import interval_of, weighted_mean
from ctglip.evaluation.context import Context
from ctglip.evaluation.results import PartResult, display_name, interval_cells
from ctglip.inference.cxr_encoding import Reading, boxes_of, cxr_settings, organ_box, queries_of, reading_of
from ctglip.inference.cxr_maps import cxr_maps
from ctglip.inference.heatmap import crop_affine, crop_maps
from ctglip.inference.maps import resample_map
from ctglip.inference.observations import observation_maps
from ctglip.inference.scoring import Dictionaries
from ctglip.pages.parts import Table
from ctglip.pages.wording import number
from ctglip.store.study import StudyReader
from ctglip.table_files import read_table
from ctglip.types import Interval, Region

NEAR_MM = 10.0
NEAR_WIDTH = 0.05
"""Near a lesion of a radiograph: within this share of its width."""
_TARGETS = ("lesion", "near", "organ")
_SPHERE = ("x_mm", "y_mm", "z_mm", "radius_mm")
_DISC = ("row", "column", "radius")
_BOX = ("row0", "row1", "column0", "column1")


@dataclass(frozen=True)
class LocalizationRow:
    """One abnormality, or all.

    Attributes:
        abnormality: name, or "all".
        answers: about organs (of radiographs: positive answers) that could be looked at.
        lesion, near: share whose map peaks in a lesion, and near one; None where no table of lesions was given.
        organ: share whose map peaks in the box of the finding's organ; None for scans, and where radiographs have none.
        *_chance: the same of a random voxel of the organ (of radiographs: a random pixel that the map covers).
    """

    abnormality: str
    answers: int
    lesion: Interval | None
    lesion_chance: float | None
    near: Interval | None
    near_chance: float | None
    organ: Interval | None
    organ_chance: float | None


@dataclass(frozen=True)
class LocalizationResult(PartResult):
    """All abnormalities together, then each; ``near``: within what distance, in words."""

    near: str
    rows: tuple[LocalizationRow, ...]

    def tables(self, dictionaries: Dictionaries, /) -> tuple[Table, ...]:
        by_organ = any(row.organ for row in self.rows)
        shares = "In a lesion", "95 % interval", "By chance", "Near", "95 % interval", "By chance"
        table = Table(
            "localization",
            "Does it look at the finding?",
            f"How often the map of an answer peaks in a lesion, within {self.near} of one"
            f"{', and in the box of the organ' if by_organ else ''}; by chance: a random place of the map. Of scans "
            "'All' leaves out lesions that fill the organ.",
            ("Abnormality", "Answers", *shares, *(("In its organ", *shares[1:3]) if by_organ else ())),
            tuple(
                (
                    display_name(row.abnormality, dictionaries), f"{row.answers:,}",
                    *interval_cells(row.lesion), number(row.lesion_chance),
                    *interval_cells(row.near), number(row.near_chance),
                    *((*interval_cells(row.organ), number(row.organ_chance)) if by_organ else ()),
                )
                for row in self.rows
            ),
        )  # fmt: skip
        return (table,)


@dataclass(frozen=True)
class PointedAnswer:
    """Where the map of one answer peaks: 1 or 0 for each of ``_TARGETS`` (NaN where not known), and by chance."""

    abnormality: str
    patient: int
    hit: tuple[float, ...]
    chance: tuple[float, ...]


def localization(context: Context) -> LocalizationResult | None:
    """Maps of the answers about organs that hold a lesion, measured by ``config.lesions``; of radiographs also by the
    boxes of organs.

    The table of lesions has ``study_id, organ, abnormality`` and, as ``ctglip simulate`` writes it, a sphere in mm
    (``x_mm, y_mm, z_mm, radius_mm``); of radiographs a disc (``row, column, radius``) or a box (``row0, row1, column0,
    column1``, half-open) in pixels of the radiograph's file. None where nothing can be measured, or for models that
    read whole scans.

    Raises:
        CohortError: the table lacks a column.
    """
    path = Path(context.config.lesions) if context.config.lesions else None
    if not context.radiographs and not context.release.reads_crops:
        context.notes.append("There is no localization: maps are drawn for models that read organ crops.")
        return None
    if context.radiographs:
        near, answers = "a twentieth of the radiograph's width", _radiographs(context, path)
    else:
        near, answers = f"{NEAR_MM:g} mm", _organs(context, path)
    if not answers:
        what = ", and no radiograph a box of the finding's organ" if context.radiographs else ""
        context.notes.append(f"There is no localization: no evaluated organ holds a lesion of the table{what}.")
        return None
    together = answers if context.radiographs else [one for one in answers if one.chance[1] < 0.5]
    names = sorted({one.abnormality for one in answers})
    rows = [_row(context, name, [one for one in answers if one.abnormality == name]) for name in names]
    return LocalizationResult(near, ((_row(context, "all", together),) if together else ()) + tuple(rows))


def _row(context: Context, name: str, answers: Sequence[PointedAnswer]) -> LocalizationRow:
    shares: dict[str, Any] = {f"{target}{end}": None for target in _TARGETS for end in ("", "_chance")}
    patients = np.array([one.patient for one in answers])
    for position, target in enumerate(_TARGETS):
        hit, chance = (np.array([getattr(one, what)[position] for one in answers]) for what in ("hit", "chance"))
        known = np.isfinite(hit)
        if known.any():
            shares[target] = interval_of(weighted_mean(hit[known], patients[known], context.weights))
            shares[f"{target}_chance"] = float(chance[known].mean())
    return LocalizationRow(abnormality=name, answers=len(answers), **shares)


def point(
    abnormality: str,
    patient: int,
    values: Float[np.ndarray, "*s"],
    covered: Bool[np.ndarray, "*s"],
    near: float,
    lesion: Float[np.ndarray, "*s"] | None,
    organ: Float[np.ndarray, "*s"] | None = None,
) -> PointedAnswer:
    """Where a map peaks.

    Args:
        values: the map; covered: where it counts.
        near: how far outside of a lesion is still near it.
        lesion, organ: how far each voxel or pixel lies outside of the nearest lesion, and of the organ's box (0 or less
            inside); None where not known.
    """
    peak = int(np.where(covered, values, -np.inf).argmax())
    hit, chance = [np.nan] * 3, [np.nan] * 3
    for position, (outside, limit) in enumerate(((lesion, 0.0), (lesion, near), (organ, 0.0))):
        if outside is not None:
            hit[position] = float(outside.reshape(-1)[peak] <= limit)
            chance[position] = float((outside[covered] <= limit).mean())
    return PointedAnswer(abnormality, patient, tuple(hit), tuple(chance))


LesionShape = tuple[float, ...]
"""Of a scan: a sphere's x, y, z and radius in mm. Of a radiograph: middle (row, column), half height and width, and 1
for a disc (0: a box), in pixels of its file."""
StudyLesions = Mapping[tuple[str, str], Sequence[LesionShape]]
"""(organ, abnormality) -> lesions of one study."""


def _read_lesions(
    path: Path | None, shapes: Mapping[tuple[str, ...], Callable[..., LesionShape]]
) -> dict[str, dict[tuple[str, str], list[LesionShape]]]:
    """The lesions of each study; the first of the shapes whose columns are there."""
    if path is None:
        return {}
    table = read_table(path)
    columns = next((names for names in shapes if set(names) <= set(table.columns)), tuple(shapes)[-1])
    missing = [name for name in ("study_id", "organ", "abnormality", *columns) if name not in table.columns]
    if missing:
        expected = " or ".join(", ".join(names) for names in shapes)
        fix = f"Give study_id, organ, abnormality and {expected}."
        raise CohortError(f"{path} has no column {missing[0]!r}.", code="missing_column", fix=fix)
    found: dict[str, dict[tuple[str, str], list[LesionShape]]] = {}
    for row in table.with_columns(pl.col(name).cast(pl.Float64) for name in columns).iter_rows(named=True):
        lesion = shapes[columns](*(row[name] for name in columns))
        found.setdefault(row["study_id"], {}).setdefault((row["organ"], row["abnormality"]), []).append(lesion)
    return found


def _lesions_in(context: Context, organ: str, abnormality: str, lesions: StudyLesions) -> list[LesionShape]:
    """A lesion in a part lies in the whole organ."""
    parts = {organ, *context.scorer.dictionaries.organs.parts_of(organ)}
    return [
        one for (name, kind), several in lesions.items() if name in parts and kind == abnormality for one in several
    ]


def _organs(context: Context, path: Path | None) -> list[PointedAnswer]:
    """The evaluated organs of scans that hold lesions they are asked about."""
    if path is None:
        return []
    lesions_of = _read_lesions(path, {_SPHERE: lambda *sphere: sphere})
    questions: dict[int, dict[str, list[LesionShape]]] = {}
    for row, instance in enumerate(context.split.instances):
        lesions = lesions_of.get(instance.study_id, {})
        for name in dict.fromkeys(abnormality for _, abnormality in lesions):
            several = _lesions_in(context, instance.organ, name, lesions)
            if several and (instance.organ, name) in context.labels:
                questions.setdefault(row, {})[name] = several
    answers = []
    for done, (row, lesions) in enumerate(questions.items(), start=1):
        answers += _organ(context, row, lesions)
        if context.progress:
            context.progress(done, len(questions))
    return answers


def _organ(context: Context, row: int, lesions: Mapping[str, Sequence[LesionShape]]) -> list[PointedAnswer]:
    release, instance = context.release, context.split.instances[row]
    settings, study = CropSettings.model_validate(release.crops), context.store.study(instance.study_id)
    crop = cut_study(study, [instance.row], settings, context.scorer.dictionaries.organs)[0]
    affine = crop_affine(crop, instance.row, study.affine)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in crop.mask.shape], indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    inside = crop.mask >= 128 if (crop.mask >= 128).any() else crop.mask > 0
    axes = context.scorer.axes([(instance.organ, name) for name in lesions])
    maps = crop_maps(release.model, crop, settings, axes)
    answers = []
    for (name, several), values in zip(lesions.items(), maps, strict=True):
        outside = np.min([np.linalg.norm(world - one[:3], axis=-1) - one[3] for one in several], axis=0)
        answers.append(point(name, int(context.split.patients[row]), values, inside, NEAR_MM, outside))
    return answers


def _radiographs(context: Context, path: Path | None) -> list[PointedAnswer]:
    """The positive answers about radiographs that have lesions, or boxes of organs."""
    lesions_of = _read_lesions(
        path,
        {
            _DISC: lambda row, column, radius: (row, column, radius, radius, 1.0),
            _BOX: lambda top, low, left, right: box_lesion((top, low, left, right)),
        },
    )
    questions: dict[str, list[tuple[int, str]]] = {}
    for (_, name), known in context.labels.items():
        for row in known.rows[known.labels == 1]:
            questions.setdefault(context.split.instances[int(row)].study_id, []).append((int(row), name))
    answers: list[PointedAnswer] = []
    for done, (study_id, several) in enumerate(questions.items(), start=1):
        answers += _radiograph(context, study_id, several, lesions_of.get(study_id, {}))
        if context.progress:
            context.progress(done, len(questions))
    return [one for one in answers if np.isfinite(one.hit).any()]


def _radiograph(
    context: Context, study_id: str, questions: Sequence[tuple[int, str]], lesions: StudyLesions
) -> list[PointedAnswer]:
    release, organs = context.release, context.scorer.dictionaries.organs
    study = context.store.study(study_id)
    radiograph = cxr_input(study.image(), cxr_settings(release))
    boxes = boxes_of([Region(r["region"], *(r[edge] for edge in _BOX)) for r in study.rows("regions")])
    reading = reading_of(release.model, context.config.cxr.read)
    stored_to_file, shape = _to_file(study, radiograph)
    instances = [(context.split.instances[row], name) for row, name in questions]
    answers = []
    for (instance, name), (row, _), values in zip(
        instances, questions, _maps(context, radiograph, instances, reading), strict=True
    ):
        on_file = resample_map(values, stored_to_file @ radiograph.affine(), shape)
        covered = np.isfinite(on_file)
        if not covered.any():
            continue
        several = _lesions_in(context, instance.organ, name, lesions)
        lesion = np.min([distance_outside(shape, one) for one in several], axis=0) if several else None
        # a map of a box lies in the organ's box wherever it peaks
        region = organ_box(instance.organ, boxes, organs) if reading != "box" else None
        organ = distance_outside(shape, _box_on_file(region[0].box, stored_to_file)) if region else None
        patient = int(context.split.patients[row])
        answers.append(point(name, patient, on_file, covered, NEAR_WIDTH * shape[1], lesion, organ))
    return answers


def _maps(
    context: Context, radiograph: CxrInput, questions: Sequence[tuple[OrganInstance, str]], reading: Reading
) -> list[Float[np.ndarray, "h w"]]:
    """The map of each answer; a radiograph passes the encoder once where it is read as a whole, else once for each
    organ."""
    groups: dict[str, list[int]] = {}
    for position, (instance, _) in enumerate(questions):
        groups.setdefault("" if reading in ("whole", "observations") else instance.organ, []).append(position)
    scorer, model = context.scorer, context.release.model
    queries = queries_of(context.release.organs, scorer.dictionaries.organs)
    found: dict[int, Float[np.ndarray, "h w"]] = {}
    for positions in groups.values():
        instance = questions[positions[0]][0]
        pairs = [(questions[n][0].organ, questions[n][1]) for n in positions]
        if reading == "observations":
            maps = observation_maps(model, radiograph, scorer.sides(pairs)[0])
        else:
            query = queries.get(instance.organ, 0)
            maps = cxr_maps(model, radiograph, instance.row, query, reading, scorer.axes(pairs))
        found |= dict(zip(positions, maps, strict=True))
    return [found[position] for position in range(len(questions))]


def _to_file(study: StudyReader, radiograph: CxrInput) -> tuple[Float[np.ndarray, "4 4"], tuple[int, int]]:
    """The stored radiograph's pixels to those of its file, and the shape of that; the stored grid where the file is not
    known."""
    source = study.source
    if source is None:
        return np.eye(4), radiograph.shape
    rows, columns = source.shape[:2]
    return np.linalg.inv(source.affine) @ study.affine, (int(rows), int(columns))


def box_lesion(box: Sequence[float]) -> LesionShape:
    """A half-open box (row0, row1, column0, column1) as a lesion."""
    top, low, left, right = box
    return (top + low - 1) / 2, (left + right - 1) / 2, (low - top) / 2, (right - left) / 2, 0.0


def _box_on_file(box: Sequence[int], to_file: Float[np.ndarray, "4 4"]) -> LesionShape:
    """A box of the stored radiograph in pixels of its file."""
    row, column, height, width, _ = box_lesion(box)
    middle = (to_file[0, 0] * row + to_file[0, 3], to_file[1, 1] * column + to_file[1, 3])
    return (*middle, to_file[0, 0] * height, to_file[1, 1] * width, 0.0)


def distance_outside(shape: tuple[int, ...], lesion: LesionShape) -> Float[np.ndarray, "r c"]:
    """How far each pixel of a radiograph lies outside of a lesion, in pixels; 0 or less inside."""
    row, column, height, width, disc = lesion
    down = np.abs(np.arange(shape[0]) - row)[:, None]
    right = np.abs(np.arange(shape[1]) - column)[None, :]
    if disc:
        return np.hypot(down, right) - max(height, 0.5)
    return np.hypot(np.maximum(down - height, 0), np.maximum(right - width, 0))
