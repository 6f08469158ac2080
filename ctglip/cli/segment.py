"""``ctglip segment``: a tuned model draws its targets on a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ctglip.cli.console import AsJson, print_note, result
from ctglip.places import writable_folder


def segment(
    run: Annotated[Path, typer.Argument(help="What ctglip finetune --config finetune/ct_segmentation wrote.")],
    scan: Annotated[Path, typer.Argument(help="The scan: NIfTI, NRRD, or a folder of DICOM slices.")],
    out: Annotated[
        Path,
        typer.Option(
            callback=writable_folder,
            help="Folder for segmentation.nii.gz on the scan's own voxels, segmentation.json, and segmentation.dcm of "
            "a DICOM series.",
        ),
    ],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change how this scan is read: ct.series=3.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Segment one scan: masks on the voxels that it came on."""
    from ctglip.tasks.ct_segmenter import ScanSegmenter

    segmenter = ScanSegmenter(run)
    found = segmenter.segment(scan, list(changes or ()))
    files, missing = segmenter.write(found, out)
    for check in found.checks:
        if check.severity != "info":
            print_note(f"{check.severity}: {check.message}")
    if missing:
        print_note(missing)
    lines = [f"{name}: {volume:.1f} ml" for name, volume in found.volumes_ml.items()]
    lines += [str(file) for file in files]
    result({**found.to_json(), "files": [str(file) for file in files]}, as_json, escape("\n".join(lines)))
