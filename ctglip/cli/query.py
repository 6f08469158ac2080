"""``ctglip query``: ask a model about one scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import result


def query(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    scan: Annotated[Path, typer.Argument(help="NIfTI or NRRD file, or a folder of DICOM slices.")],
    out: Annotated[Path, typer.Option(help="Folder for scan.html and answers.json.")],
    masks: Annotated[Path | None, typer.Option(help="Organ masks; without them TotalSegmentator is run.")] = None,
    ask: Annotated[
        list[str] | None, typer.Option(help='A question, e.g. "liver: fatty liver" or "gallstones?".')
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask for every abnormality of every organ.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Answer questions about one scan."""
    from ctglip.api import load_model
    from ctglip.cli.answers import answer_lines, write_answers
    from ctglip.errors import CTGLIPError

    if not ask and not everything:
        raise CTGLIPError("There is no question.", fix='Add --ask "liver: fatty liver" or --all.')
    answers = load_model(run).query(scan, list(ask or ()), masks=masks, everything=everything)
    page = write_answers(answers, out)
    result(answers.to_json(), as_json, "\n".join([*answer_lines(answers), f"The page is in {page}."]))
