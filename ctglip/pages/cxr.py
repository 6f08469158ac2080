"""The radiographs page: each radiograph with its numbered region boxes, and beside it the sentences of its report by
region."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctglip.pages.document import render_template
from ctglip.pages.parts import Fact, LegendEntry, Picture
from ctglip.pages.pictures import PALETTE, heat_colours
from ctglip.types import Region

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BOXES = 24


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
class CxrSample:
    """One radiograph.

    Attributes:
        study_id: the study.
        picture: the radiograph with its boxes, or None.
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
class CxrPage:
    """Everything on the radiographs page."""

    title: str
    samples: tuple[CxrSample, ...] = ()
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()


def render(page: CxrPage) -> str:
    """The page as one self-contained HTML document."""
    return render_template("cxr.html", page=page)


def cxr_picture(
    image: np.ndarray,
    white: float,
    boxes: Sequence[Region] = (),
    *,
    longest_px: int = 512,
    subject: str = "",
    caption: str = "",
) -> Picture:
    """A radiograph as a picture, with numbered boxes.

    Args:
        image: ``[row, column]``, 0 is black.
        white: the value shown as white.
        boxes: numbered in their order; at most ``MOST_BOXES`` are drawn.
        longest_px: pixels of the picture's longer side.
        subject: what is shown, for the alt text.
    """
    from PIL import ImageDraw, ImageFont

    scale = longest_px / max(image.shape)
    picture = _grey_picture(image, white, longest_px).convert("RGB")
    size = picture.size
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(11, round(longest_px / 34)))
    legend: list[LegendEntry] = []
    for number, box in enumerate(boxes[:MOST_BOXES], start=1):
        colour = PALETTE[(number - 1) % len(PALETTE)]
        edges = [box.column0 * scale, box.row0 * scale, box.column1 * scale - 1, box.row1 * scale - 1]
        draw.rectangle(edges, outline=colour, width=1 if longest_px < 320 else 2)
        draw.text((edges[0] + 5, edges[1] + 3), str(number), colour, font, stroke_width=2, stroke_fill="black")
        legend.append(LegendEntry(number, box.name, colour))
    uri = _uri(picture)
    names = ", ".join(entry.name for entry in legend)
    alt = f"Chest radiograph{' of ' + subject if subject else ''}{', with boxes of ' + names if names else ''}."
    return Picture(uri, alt, caption, size, tuple(legend))


def radiograph_under_map(image: np.ndarray, white: float, values: np.ndarray) -> Image:
    """A radiograph with a map laid over it, on its own pixels; arguments as in ``cxr_picture`` and ``map_picture``."""
    from PIL import Image as Images

    picture = _grey_picture(image, white, None).convert("RGBA")
    return Images.alpha_composite(picture, Images.fromarray(_heat(values, picture.size))).convert("RGB")


def map_picture(values: np.ndarray, size: tuple[int, int], alt: str) -> Picture:
    """A map to be laid over a radiograph's picture: transparent where it is at its median, yellow where it is highest.

    Args:
        values: the map on the radiograph's pixels; NaN where it says nothing.
        size: of the radiograph's picture.
        alt: what it shows.
    """
    from PIL import Image as Images

    return Picture(_uri(Images.fromarray(_heat(values, size))), alt, size=size)


def _heat(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 ``[row, column, 4]``."""
    from PIL import Image as Images

    known = np.isfinite(values)
    above = np.where(known, values - (np.median(values[known]) if known.any() else 0), 0)
    share = np.clip(above / max(float(above.max()), 1e-12), 0, 1).astype(np.float32)
    resized = np.asarray(Images.fromarray(share).resize(size, Images.Resampling.BILINEAR))
    return heat_colours(resized)


def _grey_picture(image: np.ndarray, white: float, longest_px: int | None) -> Image:
    from PIL import Image as Images

    scale = 1.0 if longest_px is None else longest_px / max(image.shape)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    grey = np.clip(image.astype(np.float32) / white, 0, 1)
    return Images.fromarray(np.round(grey * 255).astype(np.uint8)).resize(size, Images.Resampling.BICUBIC)


def _uri(picture: Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
