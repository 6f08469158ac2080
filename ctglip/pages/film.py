"""The films page: each film with its numbered region boxes, and beside it the sentences of its report by region."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctglip.pages.document import render_template
from ctglip.pages.parts import Fact, LegendEntry, Picture
from ctglip.pages.pictures import PALETTE

MOST_BOXES = 24


@dataclass(frozen=True)
class FilmBox:
    """A half-open box in pixels of the film."""

    name: str
    row0: int
    row1: int
    column0: int
    column1: int


@dataclass(frozen=True)
class RegionSentences:
    """What the report says of one region; ``number`` is its box in the picture, None without one."""

    name: str
    sentences: tuple[str, ...]
    number: int | None = None


@dataclass(frozen=True)
class Tag:
    """A finding of the report: affirmed, denied or doubtful."""

    name: str
    state: str


@dataclass(frozen=True)
class FilmSample:
    """One film.

    Attributes:
        study_id: the study.
        picture: the film with its boxes, or None.
        findings: the report's section, None where it has none.
        impression: likewise.
        regions: sentences by region.
        tags: findings affirmed and denied.
        facts: view, spacing, source ...
    """

    study_id: str
    picture: Picture | None = None
    findings: str | None = None
    impression: str | None = None
    regions: tuple[RegionSentences, ...] = ()
    tags: tuple[Tag, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class FilmsPage:
    """Everything on the films page."""

    title: str
    samples: tuple[FilmSample, ...] = ()
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()


def render(page: FilmsPage) -> str:
    """The page as one self-contained HTML document."""
    return render_template("film.html", page=page)


def film_picture(
    image: np.ndarray,
    white: float,
    boxes: Sequence[FilmBox] = (),
    *,
    longest_px: int = 512,
    subject: str = "",
    caption: str = "",
) -> Picture:
    """A film as a picture, with numbered boxes.

    Args:
        image: ``[row, column]``, 0 is black.
        white: the value shown as white.
        boxes: numbered in their order; at most ``MOST_BOXES`` are drawn.
        longest_px: pixels of the picture's longer side.
        subject: what is shown, for the alt text.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = longest_px / max(image.shape)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    grey = np.clip(image.astype(np.float32) / white, 0, 1)
    picture = Image.fromarray(np.round(grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    picture = picture.convert("RGB")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(11, round(longest_px / 34)))
    legend: list[LegendEntry] = []
    for number, box in enumerate(boxes[:MOST_BOXES], start=1):
        colour = PALETTE[(number - 1) % len(PALETTE)]
        edges = [box.column0 * scale, box.row0 * scale, box.column1 * scale - 1, box.row1 * scale - 1]
        draw.rectangle(edges, outline=colour, width=1 if longest_px < 320 else 2)
        draw.text((edges[0] + 5, edges[1] + 3), str(number), colour, font, stroke_width=2, stroke_fill="black")
        legend.append(LegendEntry(number, box.name, colour))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    names = ", ".join(entry.name for entry in legend)
    alt = f"Chest film{' of ' + subject if subject else ''}{', with boxes of ' + names if names else ''}."
    return Picture(uri, alt, caption, size, tuple(legend))
