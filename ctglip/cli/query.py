"""``ctglip query``: ask a model about one scan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ctglip.cli.console import result
from ctglip.places import writable_folder


class Reads(StrEnum):
    """How a radiograph is read."""

    organs = "organs"
    whole = "whole"
    observations = "observations"


ScanPath = Annotated[
    Path, typer.Argument(help="NIfTI or NRRD file, folder of DICOM slices, or a radiograph: PNG, JPEG or DICOM file.")
]
MasksPath = Annotated[
    Path | None, typer.Option(help="Organ masks; without them TotalSegmentator is run. Of a radiograph: lung masks.")
]
RegionsPath = Annotated[
    Path | None, typer.Option(help="Boxes of regions of a radiograph: CSV, or a Chest ImaGenome scene graph.")
]
Questions = Annotated[
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
QueryChanges = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change how this scan is read: ct.series=3, ct.align_masks_by_index=true; cut_off=answer "
        "answers about organs that the field of view cuts off, and marks it.",
    ),
]


def query(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    scan: ScanPath,
    out: Annotated[
        Path, typer.Option(callback=writable_folder, help="Folder for scan.html (radiograph.html) and answers.json.")
    ],
    masks: MasksPath = None,
    regions: RegionsPath = None,
    ask: Questions = None,
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
    changes: QueryChanges = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Answer questions about one scan or radiograph.

    A question that is not understood does not stop the others: its row says why, and the exit code is 1.
    """
    from ctglip.api import load_model
    from ctglip.cli.answers import write_answers
    from ctglip.errors import CTGLIPError

    if not ask and not everything and not prompt:
        raise CTGLIPError("There is no question.", fix='Add --ask "liver: fatty liver" or --all.')
    model = load_model(run, read.value)
    answers = model.query(
        scan, list(ask or ()), masks, everything, regions, prompts=list(prompt or ()), settings=list(changes or ())
    )
    summary, lines = write_answers(model, answers, out, maps)
    result(summary, as_json, escape("\n".join(lines)))
    if not all(answer.understood for answer in answers.answers):
        raise typer.Exit(1)
