"""Answers about one image as lines on the terminal and as a page on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctglip.files import write_json, write_text

if TYPE_CHECKING:
    from ctglip.inference.answers import Answer, Answers
    from ctglip.inference.pipeline import Pipeline
    from ctglip.pages.answers import AnswersPage


_MOST_RANKED = 8
"""Lines of one question that asks for several abnormalities."""


def answer_lines(answers: Answers) -> list[str]:
    """What was noticed about the image, then one line an answer: the question, the probability and what speaks against
    trusting it, or why there is none. Of a question that asks for several the most likely are listed."""
    checks = [check for check in answers.standardized.checks if check.severity != "info"]
    lines = [f"{check.severity}: {check.message}" for check in checks]
    lines += [f"note: {note}" for note in answers.notes]
    counts = Counter(answer.question for answer in answers.answers)
    groups: dict[str, list[Answer]] = {}
    for answer in answers.answers:
        if answer.group and counts[answer.question] > 1:
            groups.setdefault(answer.question, []).append(answer)
    for answer in answers.answers:
        question = answer.question
        if question in groups:
            lines += _ranked(answers, groups.pop(question))
        elif not answer.group or counts[question] == 1:
            about = ": ".join(answers.display(name) for name in (answer.organ, answer.abnormality) if name)
            names = counts[question] > 1 or (answer.group and answer.abnormality)
            lines.append(f"{question}{' ' + about if names else ''}: {_in_words(answer)}")
    return lines


def _ranked(answers: Answers, several: Sequence[Answer]) -> list[str]:
    """The most likely of what one question asks for, then how many more there are and which organs have no answer."""
    given = [answer for answer in several if answer.probability is not None]
    lines = [f"{several[0].question}: {len(given)} abnormalities, those taught first, the most likely first:"]
    lines += [
        f"  {answers.display(one.organ)}: {answers.display(one.abnormality)}: {_in_words(one, rank=False)}"
        for one in given[:_MOST_RANKED]
    ]
    if len(given) > _MOST_RANKED:
        lines.append(f"  {len(given) - _MOST_RANKED} more are on the page and in answers.json.")
    return lines + [f"  {answers.display(a.organ)}: no answer: {a.reason}" for a in several if a.probability is None]


def _in_words(answer: Answer, rank: bool = True) -> str:
    """An answer in one line."""
    if answer.similarity is not None:
        position = f"nearer than all but {(answer.rank or 1) - 1} of {(answer.of or 1) - 1} dictionary sentences"
        return f"similarity {answer.similarity:.2f}, {position}; {'; '.join(answer.caveats)}"
    if answer.probability is None:
        return f"no answer: {answer.reason}"
    parts = [f"{answer.probability:.2f}"]
    if rank and answer.rank:
        parts.append(f"rank {answer.rank} of {answer.of}")
    if answer.threshold is not None:
        word = "yes" if answer.probability >= answer.threshold else "no"
        parts.append(f"{word} (yes from {answer.threshold:.2f} on)")
    if answer.read_from:
        parts.append(f"read from {answer.read_from}")
    if not answer.calibrated:
        parts.append("not calibrated")
    tail = [*answer.caveats]
    if answer.denied:
        tail.append("asked as its absence, this is the probability of its presence")
    if answer.unasked:
        tail.append(f"without regard to {', '.join(repr(word) for word in answer.unasked)}")
    return "; ".join([", ".join(parts), *tail])


def write_answers(
    model: Pipeline, answers: Answers, out: Path, folder: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """Write ``answers.json`` and the page (``scan.html``, ``radiograph.html``) into ``out``, and each heat map into
    ``folder`` where one is given.

    Returns:
        What is printed, as plain data and as lines.
    """
    from ctglip.inference.maps import write_map
    from ctglip.inference.page import answers_page, most_likely

    likeliest = most_likely(answers)
    on_page, written = [], []
    for one in model.heat_maps(answers, None if folder else likeliest):
        if (one.organ, one.abnormality) in likeliest:
            on_page.append(one)
        if folder:
            written.append(write_map(answers, one, folder))
    page = answers_page(answers, organs=model.dictionaries.organs, maps=on_page)
    path = write_page(answers, page, out / f"{model.modality.image}.html")
    lines, value = [*answer_lines(answers), f"The page is in {path}."], answers.to_json()
    if folder is not None:
        lines.append(f"{len(written)} heat maps are in {folder}.")
        value["maps"] = [str(path) for paths in written for path in paths]
    return value, lines


def write_page(answers: Answers, page: AnswersPage, path: Path) -> Path:
    """Write the page, and ``answers.json`` beside it; returns the page's path."""
    from ctglip.pages.answers import render

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.parent / "answers.json", answers.to_json())
    write_text(path, render(page))
    return path
