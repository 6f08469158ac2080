"""From a data set's folder to the files of a cohort: what every reader's tables go through before they are written."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ctglip.cohort import OPTIONAL, REQUIRED, SPLITS
from ctglip.cohorts.base import CohortCells, CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.config import validate
from ctglip.errors import CohortError, CTGLIPError
from ctglip.files import atomic_path, check_id, write_json, write_text
from ctglip.table_files import no_formulas

_PATHS = ("image", "masks", "report_path", "regions")
TableFormat = Literal["csv", "parquet"]


@dataclass(frozen=True)
class CohortSummary:
    """What a data set came to; ``cohort.json``.

    Attributes:
        name: the reader's.
        title, licence: of the data set.
        root: its folder; empty where its name may be private.
        settings: as they were chosen.
        cohort: the cohort table.
        studies, patients, with_report, with_masks: how many rows, and what they have.
        splits: studies by split; those without one under ``none``.
        labels: our label -> studies that have it, that have not.
        excluded: how many things by reason; ``excluded.csv`` has each with its own.
        lost: their labels that have none of ours -> why.
        organ_text, localization: how many rows.
        facts: what was found and taken, in sentences.
    """

    name: str
    title: str
    licence: str
    root: str
    settings: dict[str, Any]
    cohort: str
    studies: int
    patients: int
    with_report: int
    with_masks: int
    splits: dict[str, int]
    labels: dict[str, tuple[int, int]]
    excluded: dict[str, int]
    lost: dict[str, str]
    organ_text: int
    localization: int
    facts: tuple[str, ...]


def read_cohort_tables(reader: CohortReader, root: Path, settings: CohortSettings | None = None) -> CohortTables:
    """A data set in our form, checked: images are there, ids can name files, no patient stands in two splits.

    Args:
        reader: of the data set.
        root: the folder that it was unpacked into.
        settings: an instance of the reader's ``Settings``; the defaults when None.

    Raises:
        CohortError: what the reader says; ``no_images``, ``no_table``, ``repeated_id``; ``leaking_patients`` where they
            are refused.
    """
    settings = settings or reader.Settings()
    disk = Disk(root, reader.card.modality == "cxr", reader.leaves)
    tables = reader.read(disk, settings)
    tables.facts += disk.renamed
    _name_unfinished(disk, tables)
    tables.rows = _with_images(disk, tables, settings)
    if settings.lacking == "refuse" and (names := disk.first_lacking(reader.expects(settings))):
        raise disk.no_table(names, "Download it, or go on without what it brings: --set lacking=allow.")
    tables.rows = _without_leaks(tables, settings)
    repeated = [name for name, count in Counter(row["study_id"] for row in tables.rows).items() if count > 1]
    if repeated:
        raise CohortError(
            f"{root}: {len(repeated)} studies stand in several rows, first {repeated[0]!r}.",
            code="repeated_id",
            fix="Is the folder a mixture of two copies?",
        )
    remaining = {row["study_id"] for row in tables.rows}
    tables.labels = {name: labels for name, labels in tables.labels.items() if name in remaining}
    tables.regions = {name: boxes for name, boxes in tables.regions.items() if name in remaining}
    tables.organ_text = [text for text in tables.organ_text if text.study_id in remaining]
    tables.localization = [one for one in tables.localization if one.study_id in remaining]
    return tables


def write_cohort(
    reader: CohortReader,
    root: Path,
    out: Path,
    settings: CohortSettings | dict[str, Any] | None = None,
    table_format: TableFormat = "csv",
) -> CohortSummary:
    """Read a data set and write ``cohort``, ``labels``, ``organ_text``, ``localization`` (those that there are) and
    ``excluded`` tables, ``regions/`` and ``cohort.json``; paths in them become absolute.

    Args:
        reader: of the data set.
        root: the folder that it was unpacked into.
        out: folder to write.
        settings: of the reader; plain data is validated.
        table_format: of the tables; ``excluded`` is always CSV.
    """
    if not isinstance(settings, CohortSettings):
        settings = validate(reader.Settings, settings or {}, f"settings of {reader.name}")
    completed: CohortSettings = reader.for_output(settings, root, out)
    tables = read_cohort_tables(reader, root, completed)
    folders = str(root.resolve()), str(out.resolve())
    for study_id, regions in tables.regions.items():
        _write(out / "regions" / f"{study_id}.csv", pl.DataFrame([region.columns() for region in regions]))
    for path, draw in tables.pictures.items():
        _write_picture(out / path, draw())
    for path, make in tables.documents.items():
        write_text(out / path, json.dumps(make()))
    for row in tables.rows:
        for name in _PATHS:
            if row.get(name):
                row[name] = _absolute(str(row[name]), folders, tables)
        if row["study_id"] in tables.regions:
            row["regions"] = f"regions/{row['study_id']}.csv"
        if tables.organ_text:
            row["organ_text"] = f"organ_text.{table_format}"
        if tables.localization:
            row["localization"] = f"localization.{table_format}"
    tables.localization = [
        one if one.mask is None else replace(one, mask=_absolute(one.mask, folders, tables))
        for one in tables.localization
    ]
    path = out / f"cohort.{table_format}"
    names = [name for name in (*REQUIRED, *OPTIONAL) if any(row.get(name) for row in tables.rows)]
    schema = dict.fromkeys(names, pl.String)
    _write(path, pl.DataFrame({name: [row.get(name) for row in tables.rows] for name in names}, schema=schema))
    if labels := label_columns(tables):
        _write(out / f"labels.{table_format}", pl.DataFrame(labels))
    for name, rows in (("organ_text", tables.organ_text), ("localization", tables.localization)):
        if rows:
            _write(out / f"{name}.{table_format}", _flat(rows))
    _write(out / "excluded.csv", pl.DataFrame(
        [asdict(one) for one in tables.excluded], schema=dict.fromkeys(("item", "reason", "detail"), pl.String)
    ))  # fmt: skip
    summary = summarize(reader, root, completed, path, tables)
    write_json(out / "cohort.json", asdict(summary))
    return summary


def _absolute(path: str, folders: tuple[str, str], tables: CohortTables) -> str:
    """A path of the data set (the first folder), or of what was drawn from it (the second)."""
    made = path in tables.pictures or path in tables.documents
    return os.path.join(folders[made], path)  # noqa: PTH118  (ten times as quick, for 50,000 rows)


def summarize(
    reader: CohortReader, root: Path, settings: CohortSettings, path: Path, tables: CohortTables
) -> CohortSummary:
    """The figures of a data set's tables."""
    labels = label_columns(tables)
    return CohortSummary(
        name=reader.name,
        title=reader.card.title,
        licence=reader.card.licence,
        root="" if reader.private_names else str(root),
        settings=settings.model_dump(mode="json"),
        cohort=str(path),
        studies=len(tables.rows),
        patients=len({row["patient_id"] for row in tables.rows}),
        with_report=sum(bool(row.get("findings") or row.get("impression") or row.get("report")) for row in tables.rows),
        with_masks=sum(bool(row.get("masks")) for row in tables.rows),
        splits=dict(Counter(row.get("split") or "none" for row in tables.rows)),
        labels={name: (values.count(1), values.count(0)) for name, values in labels.items() if name != "study_id"},
        excluded=dict(Counter(one.reason for one in tables.excluded).most_common()),
        lost=tables.lost,
        organ_text=len(tables.organ_text),
        localization=len(tables.localization),
        facts=tuple(tables.facts),
    )


def label_columns(tables: CohortTables) -> dict[str, list[Any]]:
    """The label table: ``study_id``, then a column a label; nothing where there are none."""
    names = sorted({name for labels in tables.labels.values() for name in labels})
    if not names:
        return {}
    ids = list(tables.labels)
    return {"study_id": ids, **{name: [tables.labels[i].get(name) for i in ids] for name in names}}


def _name_unfinished(disk: Disk, tables: CohortTables) -> None:
    for path in disk.unfinished:
        tables.exclude(path, "download_unfinished", "The name says that its download did not end.")


def _with_images(disk: Disk, tables: CohortTables, settings: CohortSettings) -> list[CohortCells]:
    """The rows whose image is on the disk and holds something, and whose id can name a file."""
    remaining: list[CohortCells] = []
    missing: list[str] = []
    for row in tables.rows:
        image, name = str(row["image"]), str(row["study_id"])
        try:
            check_id(name)
        except CTGLIPError as error:
            tables.exclude(name, error.code, str(error))
            continue
        if image in disk.empty:
            tables.exclude(name, "image_empty", f"{image} has no byte: its download did not end.")
        elif not (image in disk.series or disk.has(image)):
            missing.append(image)
            tables.exclude(name, "image_missing", f"{image} is not there.")
        else:
            remaining.append(row)
    if missing and (not remaining or settings.missing == "refuse"):
        raise CohortError(
            f"{disk.root}: {len(missing)} of {len(tables.rows)} images that the tables name are not there, "
            f"first {missing[0]}.",
            code="no_images" if not remaining else "missing_images",
            fix="Finish the download, or give the folder above.",
        )
    if not remaining:
        raise CohortError(
            f"{disk.root}: no study is left. {_commonest(tables)}",
            code="no_studies",
            fix="Is the download finished, and is this the folder?",
        )
    return remaining


def _commonest(tables: CohortTables) -> str:
    """The reason why most was excluded, with its first example."""
    counts = Counter(one.reason for one in tables.excluded).most_common(1)
    if not counts:
        return "None of its tables names one."
    reason, count = counts[0]
    first = next(one for one in tables.excluded if one.reason == reason)
    return f"{count} of {len(tables.excluded)} excluded by {reason}, first {first.item}: {first.detail}"


def _without_leaks(tables: CohortTables, settings: CohortSettings) -> list[CohortCells]:
    """No patient in two splits, by the rule of the settings."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for row in tables.rows:
        if split := row.get("split"):
            splits[str(row["patient_id"])].add(split)
    leaking = {patient: found for patient, found in splits.items() if len(found) > 1}
    if not leaking:
        return tables.rows
    examples = ", ".join(f"{patient} ({', '.join(sorted(found))})" for patient, found in list(leaking.items())[:3])
    named = f"{len(leaking)} patients stand in several splits: {examples}."
    if settings.leaks == "refuse":
        raise CohortError(named, code="leaking_patients", fix="Set leaks to keep_test or move_to_train.")
    tables.facts.append(f"{named} Rule {settings.leaks}.")
    remaining: list[CohortCells] = []
    for row in tables.rows:
        found = leaking.get(str(row["patient_id"]))
        if found is None or not row.get("split"):
            remaining.append(row)
        elif settings.leaks == "move_to_train":
            remaining.append(row | {"split": "train"})
        elif row["split"] == max(found, key=SPLITS.index):
            remaining.append(row)
        else:
            tables.exclude(
                str(row["study_id"]), "leaking_patient", f"Patient {row['patient_id']} is also in {', '.join(found)}."
            )
    return remaining


def _flat(rows: list[Any]) -> pl.DataFrame:
    """Dataclasses as a table; a tuple becomes a column for each of its numbers."""
    edges = {"box": ("row0", "row1", "column0", "column1"), "centre_mm": ("x_mm", "y_mm", "z_mm")}
    flat: list[dict[str, Any]] = []
    for row in rows:
        cells: dict[str, Any] = {}
        for name, value in asdict(row).items():
            names = edges.get(name)
            cells |= {name: value} if names is None else dict(zip(names, value or (None,) * len(names), strict=True))
        flat.append(cells)
    return pl.DataFrame(flat, infer_schema_length=None)


def _write(path: Path, table: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            table.write_parquet(temporary)
        else:
            no_formulas(table).write_csv(temporary)


def _write_picture(path: Path, pixels: Any) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
