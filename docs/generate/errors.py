"""The page of error codes, from the code that raises them."""

from __future__ import annotations

from ctglip.error_codes import error_codes


def pages() -> dict[str, str]:
    """One page of all error codes."""
    lines = ["# Error codes", "", "A message ends with its code in brackets, a failed study has one in the journal. On "
             "the command line: `ctglip explain CODE`. Words in capital letters are filled in.", ""]  # fmt: skip
    for code, one in error_codes().items():
        lines += [f"## {code}", "", ", ".join(one.kinds), "", "| cause | cure |", "|---|---|"]
        lines += [f"| {_cell(cause)} | {_cell(cure)} |" for cause, cure in one.cases]
        lines.append("")
    return {"reference/errors.md": "\n".join(lines)}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")
