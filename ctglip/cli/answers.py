"""Answers about one scan as lines on the terminal and as a page on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctglip.files import write_json, write_text

if TYPE_CHECKING:
    from ctglip.inference.answers import ScanAnswers
    from ctglip.inference.pipeline import Pipeline
    from ctglip.pages.scan import ScanPage


def answer_lines(answers: ScanAnswers) -> list[str]:
    """One line an answer: the question, then the probability and rank, or why there is none."""
    lines = []
    asked = Counter(answer.question for answer in answers.answers)
    for answer in answers.answers:
        question = answer.question
        if asked[question] > 1:
            about = (answers.shown(name) for name in (answer.organ, answer.abnormality) if name)
            question = f"{question} {': '.join(about)}"
        if answer.probability is None:
            lines.append(f"{question}: no answer: {answer.reason}")
        else:
            rank = f", rank {answer.rank} of {answer.of}" if answer.rank else ""
            read = f", read from {answer.read_from}" if answer.read_from else ""
            unseen = "" if answer.seen else ", not seen in training"
            lines.append(f"{question}: {answer.probability:.2f}{rank}{read}{unseen}")
    return lines


Told = tuple[dict[str, Any], list[str]]
"""What is printed: as JSON, and as lines."""


def write_scan(model: Pipeline, answers: ScanAnswers, out: Path, folder: Path | None) -> Told:
    """Write ``answers.json`` and ``scan.html`` into ``out``, and each heat map into ``folder`` where one is given."""
    from ctglip.inference.maps import write_map
    from ctglip.inference.page import most_likely, scan_page

    wanted = most_likely(answers)
    kept, written = [], []
    for shown in model.heat_maps(answers, None if folder else wanted):
        if (shown.organ, shown.abnormality) in wanted:
            kept.append(shown)
        if folder:
            written.append(write_map(answers, shown, folder))
    page = write_page(answers, scan_page(answers, organs=model.dictionaries.organs, maps=kept), out / "scan.html")
    return _told(answers, page, written, folder)


def write_page(answers: ScanAnswers, page: ScanPage, path: Path) -> Path:
    """Write the page, and ``answers.json`` beside it; returns the page's path."""
    from ctglip.pages.scan import render

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.parent / "answers.json", answers.to_json())
    write_text(path, render(page))
    return path


def _told(answers: ScanAnswers, page: Path, written: Sequence[Path], folder: Path | None) -> Told:
    noticed = [f"warning: {check.message}" for check in answers.standardized.checks if check.severity == "warning"]
    lines = [*noticed, *answer_lines(answers), f"The page is in {page}."]
    if folder is None:
        return answers.to_json(), lines
    lines.append(f"{len(written)} files of heat maps are in {folder}.")
    return {**answers.to_json(), "maps": [str(path) for path in written]}, lines
