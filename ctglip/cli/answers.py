"""Answers about one scan as lines on the terminal and as a page on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ctglip.files import write_json, write_text

if TYPE_CHECKING:
    from ctglip.inference.pipeline import ScanAnswers


def answer_lines(answers: ScanAnswers) -> list[str]:
    """One line an answer: the question, then the probability and rank, or why there is none."""
    lines = []
    asked = Counter(answer.question for answer in answers.answers)
    for answer in answers.answers:
        question = answer.question
        if asked[question] > 1:
            about = (answers.displays.get(name, name) for name in (answer.organ, answer.abnormality) if name)
            question = f"{question} {': '.join(about)}"
        if answer.probability is None:
            lines.append(f"{question}: no answer: {answer.reason}")
        else:
            rank = f", rank {answer.rank} of {answer.of}" if answer.rank else ""
            lines.append(f"{question}: {answer.probability:.2f}{rank}")
    return lines


def write_answers(answers: ScanAnswers, out: Path) -> Path:
    """Write ``answers.json`` and ``scan.html`` into ``out``; returns the page's path."""
    from ctglip.inference.page import scan_page
    from ctglip.pages.scan import render

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "answers.json", answers.to_json())
    write_text(out / "scan.html", render(scan_page(answers)))
    return out / "scan.html"
