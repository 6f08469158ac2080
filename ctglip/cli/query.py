"""``ctglip query``: ask a model about one scan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ctglip.cli.console import result

if TYPE_CHECKING:
    from ctglip.inference.answers import ScanAnswers


class Reads(StrEnum):
    """How a radiograph is read."""

    organs = "organs"
    whole = "whole"
    observations = "observations"


Asks = Annotated[
    list[str] | None,
    typer.Option(
        help='A question: "liver: fatty liver", "gallstones?", "is there a stone in the left kidney?", "spleen", '
        '"any abnormality?". Repeatable.'
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        help='A sentence of your own about an organ, e.g. "liver: The liver shows a large mass.": similarity and '
        "rank among the dictionary's sentences, no probability. Repeatable."
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change how this scan is read: volume.series=3, volume.align_masks_by_index=true; cut_off=answer "
        "answers about organs that the field of view cuts off, and marks it.",
    ),
]


def query(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    scan: Annotated[
        Path,
        typer.Argument(help="NIfTI or NRRD file, folder of DICOM slices, or a radiograph: PNG, JPEG or DICOM file."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for scan.html (radiograph.html) and answers.json.")],
    masks: Annotated[
        Path | None,
        typer.Option(help="Organ masks; without them TotalSegmentator is run. Of a radiograph: lung masks."),
    ] = None,
    regions: Annotated[
        Path | None, typer.Option(help="Boxes of regions of a radiograph: CSV, or a Chest ImaGenome scene graph.")
    ] = None,
    ask: Asks = None,
    prompt: Prompts = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask for every abnormality of every organ.")] = False,
    maps: Annotated[
        Path | None,
        typer.Option(help="Folder for a heat map of each answer on its own grid (radiographs: PNG and NPY)."),
    ] = None,
    read: Annotated[
        Reads,
        typer.Option(
            help="How a radiograph is read: organs as the model finds them, all of it, or the observations of its "
            "learned queries (PLACE, re-implemented from its abstract)."
        ),
    ] = Reads.organs,
    changes: Changes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Answer questions about one scan or radiograph.

    A question that is not understood does not stop the others: its row says why, and the exit code is 1.
    """
    from ctglip.api import load_model
    from ctglip.cli.answers import write_scan
    from ctglip.cli.cxr_answers import write_radiograph
    from ctglip.errors import CTGLIPError
    from ctglip.inference.cxr import CxrPipeline

    if not ask and not everything and not prompt:
        raise CTGLIPError("There is no question.", fix='Add --ask "liver: fatty liver" or --all.')
    questions, prompts, settings = list(ask or ()), list(prompt or ()), list(changes or ())
    model = load_model(run, read.value)
    if isinstance(model, CxrPipeline):
        asked = model.query(scan, questions, masks, everything, regions, prompts, settings)
        told, lines = write_radiograph(model, asked, out, maps)
        _print(asked, told, lines, as_json)
        return
    if read is not Reads.organs:
        raise CTGLIPError("--read is for radiographs; this model was trained on scans.", fix="Leave it out.")
    if regions is not None:
        raise CTGLIPError("Boxes of regions are for radiographs; this model was trained on scans.", fix="Give --masks.")
    answers = model.query(scan, questions, masks, everything, prompts, settings)
    told, lines = write_scan(model, answers, out, maps)
    _print(answers, told, lines, as_json)


def _print(answers: ScanAnswers, told: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """The answers, and the exit code: 1 where a question was not understood."""
    result(told, as_json, escape("\n".join(lines)))
    if not all(answer.understood for answer in answers.answers):
        raise typer.Exit(1)
