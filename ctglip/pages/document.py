"""How a page becomes one HTML file: the templates, the way numbers are written, and what may stand in a page.

Every value is escaped by the templates. The page's Content-Security-Policy forbids all network, all scripts and all
styles but its own (named by their hashes), so that even a text that slipped through could do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ctglip.pages import curves, plots, wording
from ctglip.pages.parts import LegendEntry, Link, Picture, known

_TEMPLATES = Path(__file__).parent / "templates"
_PICTURE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")
_HREF = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def render_template(name: str, **values: Any) -> str:
    """Fill a template of ``pages/templates`` with values; the result is one self-contained HTML document."""
    style, script = _bundled("style.css"), _bundled("niivue.js") + _bundled("viewer.js")
    return (
        _environment()
        .get_template(name)
        .render(
            style=Markup(style),  # noqa: S704  (our own file)
            script=Markup(script),  # noqa: S704  (our own file)
            policy=_policy(style),
            viewer_policy=_policy(style, script),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=wording.number,
        plain=wording.plain,
        share=wording.share,
        capitalised=wording.capitalised,
        count=wording.count,
        duration=wording.duration,
        interval=wording.interval,
        p_value=wording.p_value,
        href=href,
        uri=uri,
        merged=merged,
        unknown=unknown,
    )
    environment.globals.update(plots=plots, curves=curves)
    return environment


@cache
def _bundled(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str | None = None) -> str:
    """What the page may do: show data URIs and its own style, and with a script, run that and what it unpacks."""
    rules = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_hash(style)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if script is not None:
        rules[1] = "img-src data: blob:"
        rules.append(f"script-src {_hash(script)} blob:")
    return "; ".join(rules)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def unknown(values: Sequence[float]) -> int:
    """How many of the values are no finite numbers."""
    return sum(not known(value) for value in values)


def merged(pictures: Sequence[Picture]) -> list[LegendEntry]:
    """The legend of several pictures that share their numbering, by number."""
    entries = {(entry.number, entry.name): entry for picture in pictures for entry in picture.legend}
    return [entries[key] for key in sorted(entries)]


def href(link: Link) -> str:
    """The link's path, if it is a plain relative one.

    Raises:
        ValueError: it has a scheme, a leading slash, a query or ``..``.
    """
    if not _HREF.fullmatch(link.href):
        raise ValueError(f"{link.href!r} is no relative path to a page, such as 'report.html'.")
    return link.href


def uri(picture: Picture) -> str:
    """The picture's data URI.

    Raises:
        ValueError: it is something else, or the picture has no alt text.
    """
    if not _PICTURE.fullmatch(picture.uri):
        raise ValueError(f"A picture must be a PNG or JPEG data URI, found {picture.uri[:40]!r}.")
    if not picture.alt.strip():
        raise ValueError("A picture needs an alt text that says what it shows.")
    return picture.uri
