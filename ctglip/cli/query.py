"""``ctglip query``: ask a model about one scan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import result


class Reads(StrEnum):
    """How a film is read."""

    organs = "organs"
    whole = "whole"
    observations = "observations"


def query(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    scan: Annotated[
        Path, typer.Argument(help="NIfTI or NRRD file, folder of DICOM slices, or a film: PNG, JPEG or DICOM file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for scan.html (film.html) and answers.json.")],
    masks: Annotated[
        Path | None, typer.Option(help="Organ masks; without them TotalSegmentator is run. Of a film: lung masks.")
    ] = None,
    regions: Annotated[
        Path | None, typer.Option(help="Boxes of regions of a film: CSV, or a Chest ImaGenome scene graph.")
    ] = None,
    ask: Annotated[
        list[str] | None, typer.Option(help='A question, e.g. "liver: fatty liver" or "gallstones?".')
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask for every abnormality of every organ.")] = False,
    maps: Annotated[
        Path | None,
        typer.Option(help="Folder for a heat map of each answer on its own grid (films: PNG and NPY)."),
    ] = None,
    read: Annotated[
        Reads,
        typer.Option(
            help="How a film is read: organs as the model finds them, the whole film, or the observations of its "
            "learned queries (PLACE, re-implemented from its abstract)."
        ),
    ] = Reads.organs,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Answer questions about one scan or film."""
    from ctglip.api import load_model
    from ctglip.cli.answers import write_scan
    from ctglip.cli.film_answers import write_film
    from ctglip.errors import CTGLIPError
    from ctglip.inference.films import FilmPipeline

    if not ask and not everything:
        raise CTGLIPError("There is no question.", fix='Add --ask "liver: fatty liver" or --all.')
    model = load_model(run, read.value)
    if isinstance(model, FilmPipeline):
        asked = model.query(scan, list(ask or ()), masks=masks, everything=everything, regions=regions)
        told, lines = write_film(model, asked, out, maps)
        result(told, as_json, "\n".join(lines))
        return
    if read is not Reads.organs:
        raise CTGLIPError("--read is for films; this model was trained on scans.", fix="Leave it out.")
    if regions is not None:
        raise CTGLIPError("Boxes of regions are for films; this model was trained on scans.", fix="Give --masks.")
    answers = model.query(scan, list(ask or ()), masks=masks, everything=everything)
    told, lines = write_scan(model, answers, out, maps)
    result(told, as_json, "\n".join(lines))
