"""Runs the tutorials as notebooks and keeps what they print: ``make docs-notebooks``, or with names of tutorials."""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent
OUT = DOCS.parent / "build/notebooks"


def main(names: list[str]) -> None:
    """Run each tutorial; the first cell that fails ends it."""
    OUT.mkdir(parents=True, exist_ok=True)
    for path in sorted((DOCS / "tutorials").glob("*.py")):
        if not names or path.stem in names:
            print(path.stem, flush=True)
            notebook = jupytext.read(path)
            NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
            nbformat.write(notebook, OUT / f"{path.stem}.ipynb")


if __name__ == "__main__":
    main(sys.argv[1:])
