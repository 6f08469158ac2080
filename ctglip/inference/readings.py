"""How organs are read from an image."""

from __future__ import annotations

from dataclasses import dataclass

from ctglip.types import OrganRegion


@dataclass(frozen=True)
class OrganReading:
    """How an organ is read from an image.

    Attributes:
        region: where.
        reading: how, in the model's terms: its region reader, or on radiographs ``whole`` or ``observations``.
        read_from: how in words, where organs can be read in more ways than one: "the box of the left lung".
        cut_off: that the field of view cuts the organ off, in words.
    """

    region: OrganRegion
    reading: str
    read_from: str = ""
    cut_off: str = ""
