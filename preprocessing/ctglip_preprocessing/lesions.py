"""Findings that others drew, as they come in by the cohort's column ``localization``.

Its table has a row a finding: ``study_id``, and as far as they are known ``theirs`` (what its maker calls it, or the
sentence), ``abnormality``, ``organ``; and where it is: a box in pixels of a radiograph (``row0, row1, column0,
column1``), a sphere (``x_mm, y_mm, z_mm, diameter_mm``), or a file (``mask``) and which ``layer`` of it. Such is
``localization.csv`` of ``ctglip cohort``.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from ctglip.cohort import Cohort
from ctglip.cohorts.organ_names import organ_of
from ctglip.errors import CohortError
from ctglip.reports.parser import get_parser
from ctglip.table_files import read_table, require_columns
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip_preprocessing.organ_text import listed, rows_of_others

_BOX = ("row0", "row1", "column0", "column1")
_SPHERE = ("x_mm", "y_mm", "z_mm", "diameter_mm")


@dataclass(frozen=True)
class GivenLesion:
    """One row of a localization table, its names those of the dictionaries.

    Attributes:
        box: edges in pixels of the radiograph's file, half-open.
        sphere: centre in RAS mm, and diameter.
        mask: the file that it is drawn in; layer: of a file of several, or the number of an outline.
    """

    theirs: str
    organ: str | None = None
    abnormality: str | None = None
    box: tuple[float, float, float, float] | None = None
    sphere: tuple[float, float, float, float] | None = None
    mask: Path | None = None
    layer: int | None = None


@dataclass(frozen=True)
class CohortLesions:
    """The drawn findings of a cohort: by study, and what the reader of the run must know, one sentence each."""

    lesions: dict[str, tuple[GivenLesion, ...]]
    notes: tuple[str, ...] = ()


def read_localization(cohort: Cohort) -> CohortLesions:
    """The localization tables that the rows of a cohort name.

    Raises:
        CohortError: ``no_table``, ``bad_table`` (see ``table_files.read_table``); ``missing_column``; ``bad_cell``: a
            row that says nowhere where its finding is, or with a word where a number belongs.
    """
    found: dict[str, tuple[GivenLesion, ...]] = {}
    notes: list[str] = []
    for path, study_ids in cohort.tables_in("localization").items():
        lesions, unnamed = _read(path)
        found |= {name: tuple(dict.fromkeys(rows)) for name, rows in lesions.items() if name in study_ids}
        if unnamed:
            notes.append(f"{path.name}: no abnormality of ours, so that nothing is asked about: {listed(unnamed)}.")
        notes += rows_of_others(path, lesions, study_ids | {failure.study_id for failure in cohort.bad})
    return CohortLesions(found, tuple(notes))


def _read(path: Path) -> tuple[dict[str, list[GivenLesion]], Counter[str]]:
    table = read_table(path)
    fix = "A localization table has a row for each finding: study_id, and a box, a sphere or a mask."
    require_columns(path, table, ("study_id",), fix)
    lesions: defaultdict[str, list[GivenLesion]] = defaultdict(list)
    unnamed: Counter[str] = Counter()
    for number, cells in enumerate(table.iter_rows(named=True), start=2):
        if not cells["study_id"]:
            raise CohortError(f"{path}: row {number} has no study_id.", code="bad_cell", fix=fix)
        lesion = _lesion(path, number, cells)
        unnamed[lesion.theirs] += lesion.abnormality is None
        lesions[cells["study_id"]].append(lesion)
    return lesions, +unnamed


def _lesion(path: Path, number: int, cells: dict[str, str | None]) -> GivenLesion:
    box, sphere = (_numbers(path, number, cells, names) for names in (_BOX, _SPHERE))
    mask, layer = cells.get("mask"), cells.get("layer")
    if box is None and sphere is None and not mask:
        raise CohortError(
            f"{path}: row {number} ({cells['study_id']}) says nowhere where its finding is.",
            code="bad_cell",
            fix=f"Fill in {', '.join(_BOX)}; or {', '.join(_SPHERE)}; or mask.",
        )
    if layer is not None and not layer.isdecimal():
        raise CohortError(f"{path}: row {number} has layer {layer!r}, expected a number from 0.", code="bad_cell")
    theirs, named, place = cells.get("theirs") or "", cells.get("abnormality"), cells.get("organ")
    known = load_abnormalities().find(named) if named else None
    abnormality, organ = (known.name if known else None), (organ_of(place) if place else None)
    if abnormality is None and theirs and not named:
        abnormality = abnormality_in(theirs)
    return GivenLesion(
        theirs or named or "", organ, abnormality, box, sphere,
        path.resolve().parent / mask if mask else None, None if layer is None else int(layer),
    )  # fmt: skip


def _numbers(
    path: Path, number: int, cells: dict[str, str | None], names: tuple[str, ...]
) -> tuple[float, float, float, float] | None:
    given = [cells.get(name) for name in names]
    if not any(given):
        return None
    try:
        a, b, c, d = (float(value or "") for value in given)
    except ValueError:
        a = b = c = d = math.nan
    if not all(map(math.isfinite, (a, b, c, d))):
        found = ", ".join(f"{name} {value!r}" for name, value in zip(names, given, strict=True))
        raise CohortError(f"{path}: row {number} has {found}, expected four numbers.", code="bad_cell")
    return a, b, c, d


@functools.lru_cache(maxsize=65536)
def abnormality_in(sentence: str) -> str | None:
    """The one abnormality that the parser reads as affirmed in a sentence; None where it reads none or several."""
    rows = get_parser().parse(f"FINDINGS: {sentence}")
    found = {row.abnormality for row in rows if row.abnormality and row.status == "affirmed"}
    return found.pop() if len(found) == 1 else None
