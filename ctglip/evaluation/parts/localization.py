"""The pointing game: does the map of an answer peak in the lesion? For cohorts whose lesions' places are known, and
radiographs whose organs have boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from ctglip.evaluation.bootstrap import interval_of, weighted_mean
from ctglip.evaluation.context import Context
from ctglip.evaluation.parts.stored_lesions import ANY_ORGAN, outside_mm, outside_px, stored_lesions
from ctglip.evaluation.results import PartResult, display_name, interval_cells
from ctglip.inference.cxr_organs import boxes_of, organ_box
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.maps import resample_map
from ctglip.inference.readers import OrganReading
from ctglip.inference.scoring import Dictionaries
from ctglip.pages.parts import Table
from ctglip.pages.wording import number
from ctglip.store.study import StudyReader
from ctglip.table_files import read_table, require_columns
from ctglip.types import Interval, LesionAnnotation, ModalityName

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
        """A row an abnormality: where its maps peak, and where they would by chance."""
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
    """Maps of the answers about organs that hold a lesion, measured by ``config.lesions``, or by the store's own drawn
    findings (``lesions.parquet``) where no table is given; of radiographs also by the boxes of organs.

    The table of lesions has ``study_id, organ, abnormality`` and, as ``ctglip simulate`` writes it, a sphere in mm
    (``x_mm, y_mm, z_mm, radius_mm``); of radiographs a disc (``row, column, radius``) or a box (``row0, row1, column0,
    column1``, half-open) in pixels of the radiograph's file. None where nothing can be measured.

    Raises:
        CohortError: the table lacks a column.
    """
    kind = _MEASURES[context.release.modality](context)
    questions = kind.questions()
    answers: list[PointedAnswer] = []
    for done, (study_id, rows) in enumerate(questions.items(), start=1):
        answers += _pointed(context, kind, context.store.study(study_id), rows)
        if context.progress:
            context.progress(done, len(questions))
    answers = [one for one in answers if np.isfinite(one.hit).any()]
    if not answers:
        context.notes.append(f"There is no localization: no evaluated organ holds a lesion of {kind.source}{kind.nor}.")
        return None
    together = [one for one in answers if not kind.fills_organ(one)]
    names = sorted({one.abnormality for one in answers})
    rows = [_row(context, name, [one for one in answers if one.abnormality == name]) for name in names]
    return LocalizationResult(kind.near, ((_row(context, "all", together),) if together else ()) + tuple(rows))


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
    hit, chance = [np.nan] * 3, [np.nan] * 3
    if not covered.any():
        return PointedAnswer(abnormality, patient, tuple(hit), tuple(chance))
    peak = int(np.where(covered, values, -np.inf).argmax())
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
    path: Path, shapes: Mapping[tuple[str, ...], Callable[..., LesionShape]]
) -> dict[str, dict[tuple[str, str], list[LesionShape]]]:
    """The lesions of each study; the first of the shapes whose columns are there."""
    table = read_table(path)
    columns = next((names for names in shapes if set(names) <= set(table.columns)), tuple(shapes)[-1])
    expected = " or ".join(", ".join(names) for names in shapes)
    required = ("study_id", "organ", "abnormality", *columns)
    require_columns(path, table, required, f"Give study_id, organ, abnormality and {expected}.")
    found: dict[str, dict[tuple[str, str], list[LesionShape]]] = {}
    for row in table.with_columns(pl.col(name).cast(pl.Float64) for name in columns).iter_rows(named=True):
        lesion = shapes[columns](*(row[name] for name in columns))
        found.setdefault(row["study_id"], {}).setdefault((row["organ"], row["abnormality"]), []).append(lesion)
    return found


class _Measure(ABC):
    """How maps of one modality are measured.

    Attributes:
        near: what is near a lesion, in words.
        nor: what else is missing where nothing can be measured, in words.
        shapes: columns of a lesion in the table, and what they make of it.
    """

    near: ClassVar[str]
    nor: ClassVar[str] = ""
    shapes: ClassVar[Mapping[tuple[str, ...], Callable[..., LesionShape]]]

    def __init__(self, context: Context) -> None:
        self.context = context
        path = Path(context.config.lesions) if context.config.lesions else None
        self.source = "the store" if path is None else "the table"
        self.lesions: Mapping[str, Mapping[tuple[str, str], Sequence[Any]]] = (
            stored_lesions(context.store) if path is None else _read_lesions(path, self.shapes)
        )

    def lesions_in(self, study_id: str, organ: str, abnormality: str) -> list[Any]:
        """Those of an organ, shapes of a table or lesions of the store; one in a part lies in the whole organ."""
        parts = {organ, ANY_ORGAN, *self.context.scorer.dictionaries.organs.parts_of(organ)}
        lesions = self.lesions.get(study_id, {})
        return [
            s for (name, kind), several in lesions.items() if name in parts and kind == abnormality for s in several
        ]

    @abstractmethod
    def questions(self) -> dict[str, dict[int, list[str]]]:
        """Study to rows of the split to the abnormalities whose maps are measured."""

    @abstractmethod
    def point(self, study: StudyReader, one: HeatMap, patient: int) -> PointedAnswer:
        """Where a map peaks."""

    def fills_organ(self, answer: PointedAnswer) -> bool:
        """Lesions that fill their organ say nothing about where is looked."""
        del answer
        return False


class _Spheres(_Measure):
    """Spheres in mm; of the evaluated organs that hold a lesion that they are asked about."""

    near = f"{NEAR_MM:g} mm"
    shapes: ClassVar = {_SPHERE: lambda *sphere: sphere}

    def questions(self) -> dict[str, dict[int, list[str]]]:
        """Organs that are asked about a lesion that they hold."""
        found: dict[str, dict[int, list[str]]] = {}
        for row, instance in enumerate(self.context.split.instances):
            lesions = self.lesions.get(instance.study_id, {})
            for name in dict.fromkeys(abnormality for _, abnormality in lesions):
                asked = (instance.organ, name) in self.context.labels
                if asked and self.lesions_in(instance.study_id, instance.organ, name):
                    found.setdefault(instance.study_id, {}).setdefault(row, []).append(name)
        return found

    def point(self, study: StudyReader, one: HeatMap, patient: int) -> PointedAnswer:
        """Where a map ``[x, y, z]`` peaks, in mm from the nearest lesion."""
        index = np.stack(np.meshgrid(*[np.arange(n) for n in one.values.shape], indexing="ij"), axis=-1)
        world = index @ one.affine[:3, :3].T + one.affine[:3, 3]
        several = self.lesions_in(study.study_id, one.organ, one.abnormality)
        if isinstance(several[0], LesionAnnotation):
            outside = outside_mm(study, several, world)
        else:
            outside = np.min([np.linalg.norm(world - lesion[:3], axis=-1) - lesion[3] for lesion in several], axis=0)
        coverage = np.ones(one.values.shape) if one.coverage is None else one.coverage
        covered = coverage >= 0.5 if (coverage >= 0.5).any() else coverage > 0
        return point(one.abnormality, patient, one.values, covered, NEAR_MM, outside)

    def fills_organ(self, answer: PointedAnswer) -> bool:
        """Half of the places of the map are near a lesion."""
        return answer.chance[1] >= 0.5


class _OnFile(_Measure):
    """Discs and boxes in pixels of a radiograph's file, and the boxes of organs; of the positive answers."""

    near = "a twentieth of the radiograph's width"
    nor = ", and no radiograph a box of the finding's organ"
    shapes: ClassVar = {
        _DISC: lambda row, column, radius: (row, column, radius, radius, 1.0),
        _BOX: lambda top, low, left, right: box_lesion((top, low, left, right)),
    }

    def questions(self) -> dict[str, dict[int, list[str]]]:
        """Organs whose label is positive, lesion or none."""
        found: dict[str, dict[int, list[str]]] = {}
        for (_, name), known in self.context.labels.items():
            for row in known.rows[known.labels == 1].tolist():
                study_id = self.context.split.instances[row].study_id
                found.setdefault(study_id, {}).setdefault(row, []).append(name)
        return found

    def point(self, study: StudyReader, one: HeatMap, patient: int) -> PointedAnswer:
        """Where a map peaks on the file, in pixels from lesions and from the organ's box, whichever are known."""
        source, shape = study.source, study.shape
        to_file = np.eye(4)  # where the file is not known, the stored radiograph is taken for it
        if source is not None:
            to_file, shape = np.linalg.inv(source.affine) @ study.affine, source.shape
        rows, columns = int(shape[0]), int(shape[1])
        on_file = resample_map(one.values, to_file @ np.linalg.inv(study.affine) @ one.affine, (rows, columns))
        several = self.lesions_in(study.study_id, one.organ, one.abnormality)
        lesion = None
        if several and isinstance(several[0], LesionAnnotation):
            lesion = outside_px(study, several, (rows, columns), to_file)
        elif several:
            lesion = np.min([distance_outside((rows, columns), one) for one in several], axis=0)
        boxes = boxes_of(study.regions())
        # a map of a box lies in the organ's box wherever it peaks
        boxed = self.context.reader.reading == "box"
        region = None if boxed else organ_box(one.organ, boxes, self.context.scorer.dictionaries.organs)
        organ = distance_outside((rows, columns), _box_on_file(region[0].box, to_file)) if region else None
        return point(one.abnormality, patient, on_file, np.isfinite(on_file), NEAR_WIDTH * columns, lesion, organ)


_MEASURES: dict[ModalityName, type[_Measure]] = {"ct": _Spheres, "cxr": _OnFile}


def _pointed(
    context: Context, kind: _Measure, study: StudyReader, rows: Mapping[int, Sequence[str]]
) -> list[PointedAnswer]:
    """The answers about one study."""
    instances = {context.split.instances[row].organ: row for row in rows}
    readings = {
        organ: OrganReading(context.split.instances[row].row, context.reader.reading)
        for organ, row in instances.items()
    }
    questions = {organ: rows[row] for organ, row in instances.items()}
    maps = context.reader.maps(study, readings, questions, context.scorer)
    return [kind.point(study, one, int(context.split.patients[instances[one.organ]])) for one in maps]


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
