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
    maps: Annotated[
        Path | None, typer.Option(help="Folder for a heat map of each answer, NIfTI on the scan's own grid.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Answer questions about one scan."""
    from ctglip.api import load_model
    from ctglip.cli.answers import answer_lines, write_answers
    from ctglip.errors import CTGLIPError

    if not ask and not everything:
        raise CTGLIPError("There is no question.", fix='Add --ask "liver: fatty liver" or --all.')
    model = load_model(run)
    answers = model.query(scan, list(ask or ()), masks=masks, everything=everything)
    page = write_answers(answers, out)
    lines = [*answer_lines(answers), f"The page is in {page}."]
    written: list[str] = []
    if maps is not None:
        from ctglip.inference.maps import write_maps

        written = [str(path) for path in write_maps(model, answers, maps)]
        lines.append(f"{len(written)} maps are in {maps}.")
    result({**answers.to_json(), **({"maps": written} if maps is not None else {})}, as_json, "\n".join(lines))
