"""``ctglip explain``: the cause and the cure of an error code."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, result
from ctglip.errors import CTGLIPError


def explain(
    code: Annotated[
        str | None, typer.Argument(help="The code in brackets at the end of a message, or in a list of failed studies.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--list", help="List all codes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say the cause and the cure of an error, by its code.

    For example: ctglip explain masks_empty. Words in capital letters are filled in when the error is met.
    """
    from ctglip.error_codes import error_code, error_codes

    if show_all:
        known = {name: one.cases[0][0] for name, one in error_codes().items()}
        width = max(map(len, known)) + 2
        result(known, as_json, "\n".join(f"{name:<{width}}{cause}" for name, cause in known.items()))
        return
    if code is None:
        raise CTGLIPError("No code is given.", fix="For example: ctglip explain masks_empty; --list shows all.")
    found = error_code(code.strip("[]. "))
    result(asdict(found), as_json, found.text())
