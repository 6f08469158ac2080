"""Cells of Markdown tables."""

from __future__ import annotations


def cell(text: str) -> str:
    """Text as a cell has it: one line, with nothing that Markdown would read as its own."""
    text = " ".join(text.split()).replace("``", "`")
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")
