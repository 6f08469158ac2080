"""One study on disk: written whole by rename, read box by box."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ctglip.errors import StoreError
from ctglip.files import atomic_path, file_checksum, one_line, plain_json, value_hash
from ctglip.store.format import FORMAT_VERSION, TABLES, study_path
from ctglip.store.shards import PixelBox, Volume, write_volume
from ctglip.types import Box, Finding, LesionAnnotation, OrganRow, Region, Report, Standardized, spacing_of

_EDGES = ("x0", "x1", "y0", "y1", "z0", "z1")
_PIXEL_EDGES = ("row0", "row1", "column0", "column1")
_ATTRIBUTES = "attributes"
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class SourceGrid:
    """The grid a study had before it was standardised (RAS+), so that it can be exported back onto it."""

    shape: tuple[int, ...]
    affine: np.ndarray


@dataclass(frozen=True)
class StudyRecord:
    """All there is to store of one study.

    Attributes:
        standardized: image, organs, organ rows and regions on the recipe's grid.
        source_checksum: hash of the input it was made from.
        recipe_hash: the store's, from its ``store.json``.
        row: further columns of ``studies.parquet`` (modality, split, view, age, sex, scanner); None is left out.
        labels: label name -> 0 or 1.
        source: the grid before standardisation, where known.
        lesions: findings that others drew; lesion_layers: uint8 arrays like the image that hold their numbers.
        image_checksum: hash of the image alone: the same for the same image under other ids; empty where not known.
    """

    study_id: str
    patient_id: str
    standardized: Standardized
    source_checksum: str
    recipe_hash: str
    report: Report | None = None
    findings: tuple[Finding, ...] = ()
    row: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    source: SourceGrid | None = None
    image_checksum: str = ""
    lesions: tuple[LesionAnnotation, ...] = ()
    lesion_layers: tuple[np.ndarray, ...] = ()


def write_study(root: Path, record: StudyRecord) -> Path:
    """Write a study into the store ``root``: it is there whole or not at all, and replaces an earlier one.

    The same record gives the same bytes.

    Returns:
        The study's folder ``studies/<study_id>.zarr``.
    """
    target = study_path(root, record.study_id)
    with atomic_path(target) as temporary, zarr.config.set({"json_indent": None}):
        group = zarr.create_group(temporary, zarr_format=3)
        write_volume(group, temporary, "image", record.standardized.image)
        if record.standardized.organs is not None:
            write_volume(group, temporary, "organs", record.standardized.organs)
        for number, layer in enumerate(record.lesion_layers):
            write_volume(group, temporary, f"lesions_{number}", layer)
        attributes = _attributes(record)
        attributes["checksums"] = {
            "rows": value_hash(attributes["rows"], 64),
            _ATTRIBUTES: _attributes_hash(attributes),
            **{name: file_checksum(temporary / name) for name in _data_files(temporary)},
        }
        group.update_attributes(attributes)
    return target


def _attributes_hash(attributes: dict[str, Any]) -> str:
    return value_hash({name: value for name, value in attributes.items() if name not in ("rows", "checksums")}, 64)


def _data_files(folder: Path) -> list[str]:
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if name != "zarr.json")


def _attributes(record: StudyRecord) -> dict[str, Any]:
    standardized = record.standardized
    affine = [[float(v) for v in line] for line in standardized.affine]
    source = record.source
    return {
        "format_version": FORMAT_VERSION,
        "study_id": record.study_id,
        "patient_id": record.patient_id,
        "affine": affine,
        "spacing_mm": [float(v) for v in standardized.spacing_mm],
        "source_checksum": record.source_checksum,
        "recipe_hash": record.recipe_hash,
        "source_grid": source
        and {"shape": [int(n) for n in source.shape], "affine": np.asarray(source.affine).tolist()},
        "rows": {
            "studies": [_study_row(record, affine)],
            "organs": [organ_columns(row) for row in standardized.rows],
            "reports": [
                {"section": section, "text": text}
                for section, text in (record.report.sections() if record.report else {}).items()
            ],
            "findings": [asdict(finding) for finding in record.findings],
            "regions": [region.columns() for region in standardized.regions],
            "lesions": [lesion_columns(lesion) for lesion in record.lesions],
            "labels": [{name: int(value) for name, value in sorted(record.labels.items())}] if record.labels else [],
        },
    }


def _study_row(record: StudyRecord, affine: list[list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "patient_id": record.patient_id,
        "modality": "ct",
        "shape": [int(n) for n in record.standardized.image.shape],
        "spacing_mm": [float(v) for v in record.standardized.spacing_mm],
        "affine": [v for line in affine for v in line],
        "source_checksum": record.source_checksum,
        "recipe_hash": record.recipe_hash,
        "checks": plain_json([asdict(check) for check in record.standardized.checks]),
    }
    if record.source is not None:
        row["source_shape"] = [int(n) for n in record.source.shape]
        row["source_spacing_mm"] = [round(edge, 6) for edge in spacing_of(np.asarray(record.source.affine))]
    if record.image_checksum:
        row["image_checksum"] = record.image_checksum
    unknown = record.row.keys() - TABLES["studies"].keys()
    assert not unknown, f"studies.parquet has no column {sorted(unknown)}"
    return row | {key: value for key, value in record.row.items() if value is not None}


def organ_columns(row: OrganRow) -> dict[str, Any]:
    """An organ row as columns of ``organs.parquet``."""
    return {
        "organ": row.organ,
        **{edge: int(value) for edge, value in zip(_EDGES, row.box, strict=True)},
        "volume_ml": float(row.volume_ml),
        "mean_hu": float(row.mean_hu),
        "sd_hu": None if row.sd_hu is None else float(row.sd_hu),
        "touches_border": bool(row.touches_border),
    }


def organ_row(columns: dict[str, Any]) -> OrganRow:
    """The organ row that ``organ_columns`` made columns of."""
    x0, x1, y0, y1, z0, z1 = (int(columns[edge]) for edge in _EDGES)
    return OrganRow(
        organ=columns["organ"],
        box=(x0, x1, y0, y1, z0, z1),
        volume_ml=columns["volume_ml"],
        mean_hu=columns["mean_hu"],
        touches_border=columns["touches_border"],
        sd_hu=columns.get("sd_hu"),
    )


def lesion_columns(lesion: LesionAnnotation) -> dict[str, Any]:
    """A lesion as columns of ``lesions.parquet``."""
    values = asdict(lesion)
    box = values.pop("box")
    return values | dict(zip(_EDGES if len(box) == 6 else _PIXEL_EDGES, map(int, box), strict=True))


def lesion_of(columns: dict[str, Any]) -> LesionAnnotation:
    """The lesion that ``lesion_columns`` made columns of."""
    edges = _PIXEL_EDGES if columns.get("row0") is not None else _EDGES
    layer, number = columns.get("layer"), columns.get("number")
    box = tuple(int(columns[edge]) for edge in edges)
    return LesionAnnotation(columns["organ"], columns["abnormality"], columns["theirs"], box, layer, number)


class StudyReader:
    """A study in a store. Metadata and open arrays are kept, so reading box after box is cheap.

    Args:
        path: of the study's folder.
        for_rows: only the rows are read, as for tables over many studies: the form of the rest is not checked.

    Raises:
        StoreError: ``no_study`` or ``damaged_study``.
    """

    def __init__(self, path: Path, for_rows: bool = False) -> None:
        self.path = path
        try:
            self.attributes: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())["attributes"]
            self.study_id: str = self.attributes["study_id"]
            self.patient_id: str = self.attributes["patient_id"]
            self.affine = np.array(self.attributes["affine"], dtype=np.float64)
            self._rows: dict[str, list[dict[str, Any]]] = self.attributes["rows"]
            version = self.attributes.get("format_version", FORMAT_VERSION)
            if version != FORMAT_VERSION:
                raise StoreError(
                    f"{path} has format version {version!r}, this program reads {FORMAT_VERSION}.",
                    code="store_version",
                    fix="Use the ctglip version that wrote it.",
                )
            self._check_rows() if for_rows else self._check()
        except StoreError:
            raise
        except FileNotFoundError as error:
            name = path.name.removesuffix(".zarr")
            raise StoreError(f"There is no study {name!r} in {path.parent.parent}.", code="no_study") from error
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self.path} is damaged: {type(error).__name__}: {one_line(error)}.",
            code="damaged_study",
            fix="Run: ctglip store verify STORE --repair, then preprocess again.",
        )

    def _check(self) -> None:
        """Whether the attributes are of the form that is written, so that what reads them need not ask."""
        if self.affine.shape != (4, 4) or not isinstance(self.study_id, str) or not isinstance(self.patient_id, str):
            raise ValueError("the attributes are not those of a study")
        self._check_rows()
        _ = self.shape, self.source, self.regions(), self.lesions(), [organ_row(row) for row in self.rows("organs")]

    def _check_rows(self) -> None:
        if any(not isinstance(row, dict) for rows in self._rows.values() for row in rows):
            raise ValueError("its rows are no rows")
        if len(self._rows["studies"]) != 1:
            raise ValueError("it has not one row of its own")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths (x, y, z) in millimetres."""
        return spacing_of(self.affine)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along x, y, z; of a radiograph pixels along row, column."""
        return tuple(self.rows("studies")[0]["shape"])

    @property
    def source(self) -> SourceGrid | None:
        """The grid before standardisation, where known."""
        grid = self.attributes.get("source_grid")
        return grid and SourceGrid(tuple(grid["shape"]), np.array(grid["affine"], dtype=np.float64))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The study's rows of a table, each with its ``study_id``."""
        return [{"study_id": self.study_id, **row} for row in self._rows.get(table, [])]

    def regions(self) -> tuple[Region, ...]:
        """The boxes of a radiograph's regions."""
        return tuple(Region(row["region"], *(row[edge] for edge in _PIXEL_EDGES)) for row in self.rows("regions"))

    def lesions(self) -> tuple[LesionAnnotation, ...]:
        """The findings that others drew."""
        return tuple(lesion_of(row) for row in self.rows("lesions"))

    def lesion_mask(self, lesion: LesionAnnotation) -> np.ndarray:
        """The voxels or pixels of a lesion within its box, bool; the whole box where only that is known."""
        shape = [high - low for low, high in zip(lesion.box[::2], lesion.box[1::2], strict=True)]
        if lesion.layer is None:
            return np.ones(shape, bool)
        box: Any = lesion.box
        return self._read(self._lesion_layer(lesion.layer), box) == lesion.number

    def _lesion_layer(self, layer: int) -> Volume:
        if layer not in self._layers:
            self._layers[layer] = self._open(f"lesions_{layer}")
        return self._layers[layer]

    @cached_property
    def _layers(self) -> dict[int, Volume]:
        return {}

    @cached_property
    def _image(self) -> Volume:
        return self._open("image")

    @cached_property
    def _organs(self) -> Volume | None:
        return self._open("organs") if (self.path / "organs").is_dir() else None

    def _open(self, name: str) -> Volume:
        try:
            return Volume(self.path / name)
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def image(self, box: Box | PixelBox | None = None) -> np.ndarray:
        """HU, int16 ``[x, y, z]``, or a radiograph, uint16 ``[row, column]``: whole, or a half-open box clipped to
        it."""
        return self._read(self._image, box)

    def organs(self, box: Box | PixelBox | None = None) -> np.ndarray | None:
        """Organ labels, uint8 like the image, or None where the study has no masks."""
        return None if self._organs is None else self._read(self._organs, box)

    def _read(self, volume: Volume, box: Box | PixelBox | None) -> np.ndarray:
        try:
            return volume.read(box)
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def damage(self) -> list[str]:
        """What differs from what was written, in words; empty for a sound study."""
        stored: dict[str, str] = self.attributes.get("checksums", {})
        found = {name: file_checksum(self.path / name) for name in _data_files(self.path)}
        found["rows"] = value_hash(self._rows, 64)
        if _ATTRIBUTES in stored:  # studies of before have none
            found[_ATTRIBUTES] = _attributes_hash(self.attributes)
        wrong = [f"{name} is missing" for name in sorted(stored.keys() - found.keys())]
        wrong += [f"{name} is not part of it" for name in sorted(found.keys() - stored.keys())]
        wrong += [f"{name} has changed" for name in sorted(stored) if name in found and stored[name] != found[name]]
        return wrong
