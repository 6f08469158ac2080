"""``ctglip report``: draft the report of one scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ctglip.cli.console import AsJson, result
from ctglip.cli.query import MasksPath, QueryChanges, RegionsPath, ScanPath
from ctglip.places import writable_folder

if TYPE_CHECKING:
    from ctglip.tasks.report_draft import ReportDraft


def report(
    run: Annotated[Path, typer.Argument(help="What ctglip finetune --config finetune/ct_report wrote.")],
    scan: ScanPath,
    out: Annotated[
        Path, typer.Option(callback=writable_folder, help="Folder for report.txt, report.json and report.html.")
    ],
    masks: MasksPath = None,
    regions: RegionsPath = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0: the likeliest words; above, words are drawn.")
    ] = None,
    beams: Annotated[int | None, typer.Option(min=1, max=32, help="Passages that are followed at a time.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of words that are drawn.")] = None,
    constrain: Annotated[
        bool | None,
        typer.Option(
            "--constrain/--no-constrain", help="Keep to sentences that the dictionary does not contradict, or not."
        ),
    ] = None,
    maps: Annotated[bool, typer.Option(help="Heat maps of what is affirmed.")] = True,
    sr: Annotated[
        bool,
        typer.Option(
            "--sr",
            help="Also write report.dcm, a DICOM structured report about the DICOM series; as the series does, it "
            "holds the patient's identity.",
        ),
    ] = False,
    changes: QueryChanges = None,
    as_json: AsJson = False,
) -> None:
    """Draft the report of one scan or radiograph, organ by organ.

    It is a draft for research: no medical device wrote it, and nothing in it is a diagnosis.
    """
    from ctglip.tasks.draft_page import write_draft
    from ctglip.tasks.report_draft import ReportDrafter

    options = {"temperature": temperature, "beams": beams, "seed": seed}
    writing: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if constrain is not None:
        writing["constrain"] = "dictionary" if constrain else "none"
    drafter = ReportDrafter(run)
    draft = drafter.draft(scan, masks, regions, list(changes or ()), writing)
    if sr:
        write_sr(out / "report.dcm", drafter.image_files(scan, list(changes or ())), draft)
    page = write_draft(drafter, draft, out, maps)
    result(draft.to_json(), as_json, escape(f"{draft.text()}\nThe page is {page}."))


def write_sr(path: Path, files: Sequence[Path], draft: ReportDraft) -> None:
    """The draft as a DICOM structured report about some DICOM images."""
    from ctglip.ct.structured_report import write_structured_report

    findings = [one.text for organ in draft.organs for one in organ.sentences] + list(draft.not_read)
    write_structured_report(path, files, draft.disclaimer, findings, draft.affirming or (draft.without_impression,))
