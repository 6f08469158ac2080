"""All pages of the site: those of ``docs/``, those that stand elsewhere in the tree, and those that are made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from generate import commands, configs, errors, notebooks, papers, python_names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "preprocessing/README.md": "reference/preprocessing.md",
    "organ_dictionary/README.md": "reference/organ_dictionary.md",
    "abnormality_dictionary/README.md": "reference/abnormality_dictionary.md",
    "experiments/README.md": "experiments/index.md",
} | {
    f"experiments/{path.parent.name}/README.md": f"experiments/{path.parent.name}.md"
    for path in sorted((ROOT / "experiments").glob("*/README.md"))
}
"""Pages that stand beside what they describe, and where the site has them."""
_LINK = re.compile(r"(?P<head>!?\[(?P<text>[^\]]*)\])\((?P<target>[^)\s]+)\)")


def made() -> dict[str, str]:
    """The pages that are made from the code, by their place on the site."""
    parts = (commands.pages, configs.pages, errors.pages, python_names.pages, papers.pages, notebooks.pages)
    return {place: text for part in parts for place, text in part().items()}


def moved() -> dict[str, str]:
    """The pages that stand elsewhere in the tree, with their links as the site needs them."""
    return {
        place: relinked((ROOT / source).read_text(encoding="utf-8"), source, place)
        for source, place in ELSEWHERE.items()
    }


def relinked(text: str, source: str, place: str) -> str:
    """A page whose links lead to pages of the site; the names of files that it does not have are left as text.

    Args:
        text: the page.
        source: where it stands, from the root of the tree.
        place: where the site has it.
    """

    def one(match: re.Match[str]) -> str:
        target = match["target"]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        home = os.path.normpath(os.path.join(os.path.dirname(source), path))
        there = ELSEWHERE.get(home) or ELSEWHERE.get(f"{home}/README.md") or _of_docs(home)
        if there is None:
            return match["text"]
        there = os.path.relpath(there, os.path.dirname(place) or ".")
        return f"{match['head']}({there}{'#' + anchor if anchor else ''})"

    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(block if block.startswith("```") else _LINK.sub(one, block) for block in blocks)


def _of_docs(home: str) -> str | None:
    """The place of a file below ``docs/``."""
    if not home.startswith("docs/") or home.startswith("docs/generate"):
        return None
    place = Path(home).relative_to("docs")
    return (place.with_suffix(".md") if place.suffix == ".py" else place).as_posix()


def written() -> dict[str, str]:
    """The pages of ``docs/``, links as the site needs them."""
    pages = sorted(DOCS.rglob("*.md"))
    return {
        page.relative_to(DOCS).as_posix(): relinked(
            page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix(), page.relative_to(DOCS).as_posix()
        )
        for page in pages
    }


def every_page() -> dict[str, str]:
    """All pages of the site."""
    return {**written(), **moved(), **made()}


def title(text: str) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    return found[1].replace("`", "") if found else ""


def nav(pages: Mapping[str, str]) -> list[dict[str, object]]:
    """The site's menu: every page in one place."""
    below = {folder: _entries(pages, folder) for folder in ("start", "tutorials", "how-to", "concepts", "papers")}
    depth = ("pretraining", "asking", "finetuning", "cxr", "report_parsing", "weights", "simulation", "scale", "serve")
    proof, other = ("evidence", "results"), ("index", "files", "store", "api", "changelog", "faq")
    rest = [name.removesuffix(".md") for name in sorted(pages) if "/" not in name]
    rest = [name for name in rest if name not in (*depth, *proof, *other, "contributing")]
    guides = [_entry(pages, f"{name}.md") for name in (*depth, *rest)]
    return [
        {"Home": "index.md"},
        {"Get started": below["start"]},
        {"Tutorials": below["tutorials"]},
        {"How-to": below["how-to"]},
        {"Concepts": [*below["concepts"], {"In depth": guides}]},
        {"Reference": _reference(pages)},
        {"Cohorts": _entries(pages, "cohorts")},
        {"Papers": below["papers"]},
        {"Evidence": [*(_entry(pages, f"{name}.md") for name in proof), *_entries(pages, "experiments")]},
        {"Changelog": "changelog.md"},
        {"FAQ": "faq.md"},
        {"Contributing": "contributing.md"},
    ]


def _reference(pages: Mapping[str, str]) -> list[dict[str, object]]:
    front = ["reference/commands.md", "reference/errors.md", "files.md", "store.md", "api.md"]
    settings = [page for page in pages if page.startswith(("reference/settings/", "reference/configs/"))]
    names = [page for page in pages if page.startswith("reference/python/")]
    other = [f"reference/{name}.md" for name in ("preprocessing", "organ_dictionary", "abnormality_dictionary")]
    return [
        *(_entry(pages, page) for page in front),
        {"Configs": [_entry(pages, page) for page in sorted(settings)]},
        {"Python": [_entry(pages, page) for page in sorted(names)]},
        *(_entry(pages, page) for page in other),
    ]


def _entries(pages: Mapping[str, str], folder: str) -> list[dict[str, object]]:
    found = sorted(page for page in pages if page.startswith(f"{folder}/"))
    found.sort(key=lambda page: not page.endswith(("/README.md", "/index.md")))
    return [_entry(pages, page) for page in found]


def _entry(pages: Mapping[str, str], page: str) -> dict[str, object]:
    return {title(pages[page]) or page: page}


def places(menu: object) -> Iterator[str]:
    """The pages that a menu names."""
    if isinstance(menu, str):
        yield menu
    elif isinstance(menu, dict):
        for value in menu.values():
            yield from places(value)
    elif isinstance(menu, list):
        for value in menu:
            yield from places(value)
