"""Answers about one radiograph as lines on the terminal, as a page and as pictures on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctglip.cli.answers import answer_lines
from ctglip.files import write_json, write_text

if TYPE_CHECKING:
    from ctglip.inference.cxr import CxrAnswers, CxrPipeline


def write_radiograph(
    model: CxrPipeline, answers: CxrAnswers, out: Path, maps: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """Write ``answers.json`` and ``radiograph.html`` into ``out``, and the heat maps where a folder is given.

    Returns:
        What is printed, as plain data and as lines.
    """
    from ctglip.inference.cxr_page import cxr_answer_page, write_cxr_map
    from ctglip.pages.scan import render

    out.mkdir(parents=True, exist_ok=True)
    told, found = answers.to_json(), list(model.heat_maps(answers))
    write_json(out / "answers.json", told)
    write_text(out / "radiograph.html", render(cxr_answer_page(answers, found)))
    lines = [*answer_lines(answers), f"The page is in {out / 'radiograph.html'}."]
    if maps is not None:
        maps.mkdir(parents=True, exist_ok=True)
        told["maps"] = [str(path) for one in found for path in write_cxr_map(answers, one, maps)]
        lines.append(f"{len(found)} maps are in {maps}.")
    return told, lines
