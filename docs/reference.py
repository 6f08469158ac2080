"""Writes the list of public names at the end of ``api.md``: run it after a public name has changed."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import ctglip
from ctglip.lazy import origins

PAGE = Path(__file__).with_name("api.md")
HEADING = "## Every public name\n"


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split()).replace("``", "`")
    return paragraph.split(". ")[0].rstrip(".:") + "."


def reference() -> str:
    """The list, package by package."""
    packages = ["ctglip", *(f"ctglip.{m.name}" for m in pkgutil.iter_modules(ctglip.__path__) if m.ispkg)]
    lines = [HEADING]
    for package in packages:
        module = import_module(package)
        names = origins(package)
        if names:
            lines += [f"### {package}", "", first_sentence(module.__doc__ or ""), ""]
            lines += [f"- `{name}`: {first_sentence(getattr(module, name).__doc__ or '')}" for name in sorted(names)]
            lines.append("")
    return "\n".join(lines)


def written(page: str) -> str:
    """A page with the list as it is now."""
    return page.split(HEADING)[0] + reference()


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
