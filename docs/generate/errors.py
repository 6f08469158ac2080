"""The page of error codes, from the code that raises them."""

from __future__ import annotations

from ctglip.error_codes import error_codes
from generate.tables import cell


def pages() -> dict[str, str]:
    """One page of all error codes."""
    lines = ["# Error codes", "", "A message ends with its code in brackets, a failed study has one in the journal. On "
             "the command line: `ctglip explain CODE`. Words in capital letters are filled in.", ""]  # fmt: skip
    for code, one in error_codes().items():
        lines += [f"## {code}", "", ", ".join(one.kinds), "", "| cause | cure |", "|---|---|"]
        lines += [f"| {cell(cause)} | {cell(cure)} |" for cause, cure in one.cases]
        lines.append("")
    return {"reference/errors.md": "\n".join(lines)}
