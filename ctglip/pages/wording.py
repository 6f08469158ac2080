"""How numbers are written on every page: true minus signs, thousands separators, a dash for what is not known."""

from __future__ import annotations

from ctglip.pages.parts import known
from ctglip.types import Interval

DASH = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals (``0.861``), or a dash."""
    return _minus(f"{value:,.{digits}f}") if known(value) else DASH


def plain(value: float | None) -> str:
    """A number as short as it is exact to 4 digits (``819.4``, ``0.003``, ``12,345``), or a dash."""
    if not known(value):
        return DASH
    return _minus(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def count(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def share(value: float | None) -> str:
    """A probability as percent; 0 and 1 are written only when they are exact."""
    if not known(value):
        return DASH
    if 0 < value < 0.01:
        return "< 1\u00a0%"
    if 0.99 < value < 1:
        return "> 99\u00a0%"
    return f"{value * 100:.0f}\u00a0%"


def interval(score: Interval, digits: int = 3) -> str:
    """``0.842–0.879`` (``−0.031 to 0.012`` below zero), or nothing where no interval is known."""
    if not known(score.low) or not known(score.high):
        return ""
    between = " to " if score.low < 0 else "–"
    return f"{number(score.low, digits)}{between}{number(score.high, digits)}"


def format_interval(value: Interval) -> str:
    """``0.86 [0.82, 0.90]``."""
    if value.value is None:
        return "unknown"
    if value.low is None or value.high is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def p_value(value: float | None) -> str:
    """``0.031`` or ``< 0.001``, or a dash."""
    return "<\u00a00.001" if known(value) and value < 0.001 else number(value)


def duration(seconds: float) -> str:
    """``0.42 s``, ``12.3 s`` or ``3 min 05 s``."""
    if seconds < 1:
        return f"{seconds:.2f}\u00a0s"
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u00a0min {rest:02d}\u00a0s"


def capitalised(text: str) -> str:
    """With a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")
