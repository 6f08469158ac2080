"""Answers about one radiograph as the page's values, and its heat maps as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctglip.cxr.recipe import CXR_MAX
from ctglip.cxr.regions import region_entries
from ctglip.files import atomic_path
from ctglip.inference.cxr import CxrAnswers, CxrMap
from ctglip.inference.cxr_maps import laid_on
from ctglip.inference.page import page_answers, unseen_note
from ctglip.pages import scan as page
from ctglip.pages.cxr import CxrBox, cxr_picture, map_picture, radiograph_under_map
from ctglip.pages.parts import Fact, Picture
from ctglip.pages.wording import number

MOST_MAPS = 12
_MAP_PX = 400


def cxr_answer_page(answers: CxrAnswers, maps: Sequence[CxrMap] = (), title: str = "") -> page.ScanPage:
    """The page of one radiograph.

    Args:
        answers: as ``CxrPipeline.query`` gives them.
        maps: as ``CxrPipeline.heat_maps`` gives them; those of the most probable answers are shown.
        title: heading; the radiograph's name by default.
    """
    rows, columns = answers.grid[0] if answers.grid else answers.standardized.image.shape
    size, window = answers.standardized.image.shape[0], answers.radiograph.image.shape[-1] if answers.radiograph else 0
    facts = (
        Fact("Radiograph", answers.scan, f"{rows} x {columns} pixels"),
        Fact("Boxes and masks", answers.masks, f"{len(answers.regions)} boxes"),
        Fact("Standardised to", f"{size} x {size} pixels"),
        Fact("Seen by the model as", f"{window} x {window} pixels", "the middle of the radiograph"),
    )
    return page.ScanPage(
        title=title or answers.scan,
        answers=page_answers(answers),
        facts=facts,
        checks=answers.standardized.checks,
        pictures=(_radiograph(answers),),
        notes=unseen_note(answers),
        warnings=answers.notes,
        kind="radiograph",
        where=tuple(_where(answers, one) for one in _likeliest(answers, maps)),
        maps="attention" if any(reading == "observations" for _, reading in answers.instances) else "evidence",
    )


def write_cxr_map(answers: CxrAnswers, shown: CxrMap, folder: Path) -> list[Path]:
    """Write ``<organ>_<abnormality>.png`` (the radiograph under the map) and ``.npy`` (float32, on the radiograph's own
    pixels; NaN where the map does not reach)."""
    assert answers.original is not None
    pixels = answers.original.pixels
    rows, columns = pixels.shape
    values = laid_on(shown.values, shown.to_file, (rows, columns))
    low, high = answers.original.window or tuple(float(v) for v in np.percentile(pixels[::4, ::4], (0.5, 99.5)))
    paths = [folder / f"{shown.organ}_{shown.abnormality}.{kind}" for kind in ("png", "npy")]
    with atomic_path(paths[0]) as temporary:
        radiograph_under_map(pixels - low, max(high - low, 1e-6), values).save(temporary, format="PNG")
    with atomic_path(paths[1]) as temporary, temporary.open("wb") as stream:
        np.save(stream, values)
    return paths


def _radiograph(answers: CxrAnswers) -> Picture:
    """The radiograph with the boxes that were read, or with all that are known where none was."""
    entries = region_entries()
    boxes = [
        CxrBox(answers.shown(row.organ), *row.box[:4]) for row, reading in answers.instances if reading == "box"
    ] or [
        CxrBox(entries[r.name].display if r.name in entries else r.name, r.row0, r.row1, r.column0, r.column1)
        for r in answers.regions
    ]
    return cxr_picture(
        answers.standardized.image, CXR_MAX, boxes, longest_px=640, subject=answers.scan,
        caption="The standardised radiograph. The patient’s right is on the left.",
    )  # fmt: skip


def _likeliest(answers: CxrAnswers, maps: Sequence[CxrMap]) -> list[CxrMap]:
    said = {(a.organ, a.abnormality): a.probability or 0.0 for a in answers.answers}
    return sorted(maps, key=lambda one: -said.get((one.organ, one.abnormality), 0.0))[:MOST_MAPS]


def _where(answers: CxrAnswers, shown: CxrMap) -> page.Where:
    rows, columns = answers.standardized.image.shape
    values = laid_on(shown.values, shown.to_standard, (rows, columns))
    known = values[np.isfinite(values)]
    organ, abnormality = answers.shown(shown.organ), answers.shown(shown.abnormality)
    said = {(a.organ, a.abnormality): a.probability or 0.0 for a in answers.answers}
    looked = {row.organ: reading for row, reading in answers.instances}[shown.organ] == "observations"
    what, unit = ("Attention", ", 1 where it is even") if looked else ("Similarity", "")
    reach = f"{what} {number(float(known.min()), 2)} to {number(float(known.max()), 2)}{unit}." if len(known) else ""
    picture = cxr_picture(answers.standardized.image, CXR_MAX, longest_px=_MAP_PX, subject=answers.scan, caption=reach)
    assert picture.size is not None
    heat = map_picture(values, picture.size, f"Heat map of {organ}: {abnormality}.")
    return page.Where(organ, abnormality, said[shown.organ, shown.abnormality], picture, heat)
