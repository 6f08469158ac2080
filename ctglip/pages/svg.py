"""A small SVG writer: no library, no script, styled by the page (light, dark and paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup, escape

Anchor = Literal["start", "middle", "end"]


class Svg:
    """An SVG picture under construction; texts are escaped, coordinates rounded to a tenth of a pixel.

    Args:
        width: in CSS pixels.
        height: in CSS pixels.
        title: what the picture is, for screen readers and as a tooltip.
        description: what it shows, in words.
        kind: CSS classes.
    """

    def __init__(self, width: float, height: float, title: str, description: str, kind: str = "") -> None:
        self._parts = [
            f'<svg class="plot {escape(kind)}" viewBox="0 0 {coordinate(width)} {coordinate(height)}" '
            f'width="{coordinate(width)}" height="{coordinate(height)}" role="img">'
            f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
        ]

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A rectangle."""
        self._add("rect", kind, x=x, y=y, width=width, height=height)

    def circle(self, x: float, y: float, radius: float, kind: str) -> None:
        """A disc or ring."""
        self._add("circle", kind, cx=x, cy=y, r=radius)

    def path(self, points: Sequence[tuple[float, float]], kind: str, *, closed: bool = False) -> None:
        """A polyline, or a polygon if closed."""
        steps = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in points)
        name = "polygon" if closed else "polyline"
        self._parts.append(f'<{name} class="{escape(kind)}" points="{steps}"/>')

    def text(self, x: float, y: float, content: str, kind: str = "", anchor: Anchor = "start") -> None:
        """A line of text; y is its baseline."""
        self._parts.append(
            f'<text class="{escape(kind)}" x="{coordinate(x)}" y="{coordinate(y)}" text-anchor="{anchor}">'
            f"{escape(content)}</text>"
        )

    def markup(self) -> Markup:
        """The finished picture."""
        return Markup("".join(self._parts) + "</svg>")  # noqa: S704  (every text above is escaped)

    def _add(self, name: str, kind: str, **where: float) -> None:
        positions = " ".join(f'{key}="{coordinate(value)}"' for key, value in where.items())
        self._parts.append(f'<{name} class="{escape(kind)}" {positions}/>')


def coordinate(value: float) -> str:
    """A coordinate rounded to a tenth of a pixel, without a trailing zero."""
    return f"{value:.1f}".removesuffix(".0")
