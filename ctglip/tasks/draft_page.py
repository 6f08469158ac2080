"""A draft as the page's values: one figure an organ that is written about, and one for each heat map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ctglip.cxr.recipe import CXR_MAX
from ctglip.files import write_json, write_text
from ctglip.inference.answers import Answer, Answers
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.page import facts_and_maps
from ctglip.modality import MODALITIES
from ctglip.pages.answers import Where
from ctglip.pages.cxr import cxr_picture
from ctglip.pages.draft import DraftFigure, DraftLine, DraftPage, DraftParagraph, render_draft
from ctglip.pages.parts import Picture
from ctglip.pages.pictures import best_slice, slice_picture, window_for
from ctglip.tasks.report_draft import (
    DraftedOrgan,
    DraftedSentence,
    ReportDraft,
    ReportDrafter,
)  # fmt: skip
from ctglip.types import Region
from ctglip.vocabulary.organs import OrganDictionary

_PX = 384


def draft_page(drafter: ReportDrafter, draft: ReportDraft, maps: Iterable[HeatMap] = ()) -> DraftPage:
    """The page of a draft.

    Args:
        drafter: that wrote it.
        draft: what was written.
        maps: of what it affirms (``ReportDrafter.heat_maps``).
    """
    organs, modality = drafter.pipeline.dictionaries.organs, drafter.pipeline.modality.name
    maps = list(maps)
    facts, located = facts_and_maps(_as_answers(drafter, draft, maps), organs, maps)
    shown = {(one.organ, one.abnormality): _map_figure(one, where) for one, where in zip(maps, located, strict=True)}
    figures = {figure.key: figure for figure in shown.values()}
    lines: dict[str, tuple[DraftLine, ...]] = {}
    for one in draft.organs:
        if one.sentences:
            plain = _organ_figure(draft, one, organs, modality)
            keys = {name: shown[one.organ, name].key for name in _affirmed(one) if (one.organ, name) in shown}
            if plain is not None and any(not keys.keys() & set(s.affirmed) for s in one.sentences):
                figures[plain.key] = plain
            lines[one.organ] = tuple(_line(s, keys, plain) for s in one.sentences)
    paragraphs = tuple(
        DraftParagraph(one.display, lines[one.organ], one.remarks) for one in draft.organs if one.organ in lines
    )
    return DraftPage(
        title=draft.name,
        disclaimer=draft.disclaimer,
        findings=paragraphs,
        impression=tuple(line for paragraph in paragraphs for line in paragraph.lines if line.affirms),
        nothing=draft.without_impression,
        not_read=draft.not_read,
        silent=tuple(one.display for one in draft.organs if not one.sentences and not one.reason),
        figures=tuple(figures.values()),
        facts=facts,
        checks=draft.study.standardized.checks,
        kind=MODALITIES[modality].image,
    )


def write_draft(drafter: ReportDrafter, draft: ReportDraft, out: Path, maps: bool = True) -> Path:
    """Write report.txt, report.json and report.html into a folder; returns the page's path.

    Args:
        maps: with heat maps of what is affirmed.
    """
    found = drafter.heat_maps(draft) if maps else ()
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.txt", draft.text())
    write_json(out / "report.json", draft.to_json())
    write_text(out / "report.html", render_draft(draft_page(drafter, draft, found)))
    return out / "report.html"


def _affirmed(organ: DraftedOrgan) -> set[str]:
    return {name for sentence in organ.sentences for name in sentence.affirmed}


def _line(sentence: DraftedSentence, keys: dict[str, str], plain: DraftFigure | None) -> DraftLine:
    key = next((keys[name] for name in sentence.affirmed if name in keys), plain.key if plain else "")
    return DraftLine(sentence.text, key, bool(sentence.affirmed), sentence.fault)


def _key(*names: str) -> str:
    return "-".join(names).replace("_", "-")


def _map_figure(one: HeatMap, where: Where) -> DraftFigure:
    note = "" if where.heat else f"No heat map: no place in the {where.organ} adds to this."
    title = f"{where.organ}: {where.abnormality}"
    return DraftFigure(_key(one.organ, one.abnormality), title, where.picture, where.heat, note)


def _as_answers(drafter: ReportDrafter, draft: ReportDraft, maps: Iterable[HeatMap]) -> Answers:
    """The image as pages of answers take it."""
    study, dictionaries = draft.study, drafter.pipeline.dictionaries
    answers = tuple(Answer("", one.organ, one.abnormality, 0.0) for one in maps)
    names = {one.organ: dictionaries.organs[one.organ].display for one in draft.organs}
    names |= {one.abnormality: dictionaries.abnormalities[one.abnormality].display for one in answers}
    names |= {row.organ: dictionaries.organs[row.organ].display for row in study.standardized.rows}
    return Answers(
        study.name, study.masks, answers, study.standardized, drafter.pipeline.modality.name, names, study.original,
        study.path, readings=study.readings,
    )  # fmt: skip


def _organ_figure(draft: ReportDraft, one: DraftedOrgan, organs: OrganDictionary, modality: str) -> DraftFigure | None:
    """The axial slice in which the organ is largest, or its box on the radiograph."""
    made, reading = draft.study.standardized, draft.study.readings.get(one.organ)
    if modality == "cxr":
        boxes = [Region(one.display, *reading.region.box)] if reading is not None and reading.reading == "box" else []
        picture = cxr_picture(made.image, CXR_MAX, boxes, longest_px=_PX, subject=draft.name)
        return DraftFigure(_key(one.organ), one.display, picture)
    labels = sorted(organs.roi_labels(one.organ))
    if made.organs is None or not labels:
        return None
    outlined = {one.display: labels}
    index = best_slice(made.image.shape, "axial", made.organs, outlined)
    picture: Picture = slice_picture(
        made.image, made.spacing_mm, "axial", index, made.organs, outlined, window_hu=window_for([one.organ]),
        longest_px=_PX, subject=f"CT scan {draft.name} about the {one.display}", numbered=False,
    )  # fmt: skip
    caption = f"Axial slice {index + 1} of {made.image.shape[2]}. The patient’s right is on the left."
    return DraftFigure(_key(one.organ), one.display, replace(picture, caption=caption, legend=()))
