"""``ctglip cohort``: a public data set as it lies on a disk to a cohort table, labels, and what goes with them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctglip.cli.console import AsJson, result
from ctglip.errors import CohortError
from ctglip.places import writable_folder

if TYPE_CHECKING:
    from ctglip.cohorts.writing import CohortSummary


def cohort(
    name: Annotated[str | None, typer.Argument(help="A data set (see --list), or a YAML file with a map.")] = None,
    root: Annotated[Path | None, typer.Argument(help="The folder that the data set was unpacked into.")] = None,
    out: Annotated[Path | None, typer.Argument(help="Folder to write.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: name=value.")] = None,
    reports: Annotated[Path | None, typer.Option(help="dicom: a table of reports by accession number.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="dicom: file of the key of ids, outside OUT; made if missing.")
    ] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write tables as parquet, not as CSV.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Say what each data set brings.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the cohort table of a public data set, its labels, boxes and organ text, and what was left out and why."""
    if show_list:
        cards = _cards()
        result(cards, as_json, _list(cards))
        return
    if name is None or root is None or out is None:
        raise CohortError(
            "The name of a data set, its folder and the folder to write are needed.",
            fix="ctglip cohort NAME ROOT OUT; ctglip cohort --list shows the names.",
        )
    writable_folder(out)
    from ctglip.cohorts.registry import cohort_reader
    from ctglip.cohorts.writing import write_cohort
    from ctglip.config import load_settings

    reader = cohort_reader(name)
    files = [f"{option}={json.dumps(str(path))}" for option, path in (("reports", reports), ("key", key)) if path]
    settings = load_settings(reader.Settings, None, [*(changes or ()), *files])
    summary = write_cohort(reader, root, out, settings, "parquet" if parquet else "csv")
    result(asdict(summary), as_json, _lines(summary))


def _cards() -> dict[str, Any]:
    from ctglip.cohorts.registry import cohort_names, cohort_reader

    readers = {name: cohort_reader(name) for name in cohort_names()}
    return {
        name: reader.card.model_dump(mode="json") | {"settings": reader.Settings().model_dump(mode="json")}
        for name, reader in readers.items()
    }


def _list(cards: dict[str, Any]) -> str:
    width = max(map(len, cards)) + 2
    lines = []
    for name, card in cards.items():
        lines.append(f"{name:<{width}}{card['title']} ({card['modality']}): {', '.join(card['brings']) or 'nothing'}")
        lines.append(f"{'':<{width}}{card['size']}; {card['licence']}; {card['source']}")
    return "\n".join(lines)


def _lines(summary: CohortSummary) -> str:
    splits = ", ".join(f"{count} {name}" for name, count in summary.splits.items())
    lines = [
        f"{summary.studies} studies of {summary.patients} patients ({splits}) in {summary.cohort}: "
        f"{summary.with_report} with text, {summary.with_masks} with masks, {len(summary.labels)} labels."
    ]
    if summary.organ_text or summary.localization:
        lines.append(f"{summary.organ_text} sentences by organ, {summary.localization} findings that were drawn.")
    lines += [f"Excluded: {count} {reason} (excluded.csv)" for reason, count in summary.excluded.items()]
    lines += list(summary.facts)
    lines += [f"Label lost: {theirs}: {why}" for theirs, why in summary.lost.items()]
    return "\n".join(lines)
