"""What mkdocs calls: the made pages join the others, links lead to pages of the site, the menu holds every page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from generate import pages

_SITE: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Make the pages, and the menu of them."""
    _SITE.update(pages.every_page())
    config.nav = pages.nav(_SITE)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that stand in no file of ``docs/``."""
    there = {one.src_uri for one in files}
    for place, text in _SITE.items():
        if place not in there:
            files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Give a page of ``docs/`` its links as the site needs them."""
    return _SITE.get(page.file.src_uri, markdown)
