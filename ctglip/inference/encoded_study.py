"""One image whose organs are encoded: asked as often as one likes, and kept in a folder between the questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ctglip.errors import ModelError
from ctglip.files import atomic_path, read_json, write_json
from ctglip.inference.answerer import OrganVectors
from ctglip.inference.familiarity import Verdict
from ctglip.inference.readers import OrganReading
from ctglip.types import LabelMap, OrganRegion, OrganRow, QualityCheck, Region, Standardized

_ARRAYS = ("image", "organs")
_VECTORS = "vectors.safetensors"


@dataclass(frozen=True)
class EncodedStudy:
    """What a model made of one image.

    Attributes:
        name: what answers call the image.
        masks: where its organs are known from.
        standardized: the image as the model saw it.
        vectors: of the organs that were encoded, and why the others were not.
        readings: organ to how it was read.
        original: the image as it was read; None after ``load_study``.
        label_map: its organs on the grid of ``original``; None after ``load_study``, or where no masks are known.
        path: the image's file or folder, where it came from one.
    """

    name: str
    masks: str
    standardized: Standardized
    vectors: OrganVectors = field(default_factory=OrganVectors)
    readings: dict[str, OrganReading] = field(default_factory=dict)
    original: Any = None
    label_map: LabelMap | None = None
    path: Path | None = None


def save_study(study: EncodedStudy, folder: Path) -> None:
    """Keep what questions and heat maps need in a folder: JSON, and arrays that are opened without being read."""
    made, vectors = study.standardized, study.vectors
    about = {
        "name": study.name,
        "masks": study.masks,
        "affine": made.affine.tolist(),
        "rows": [asdict(row) for row in made.rows],
        "checks": [asdict(check) for check in made.checks],
        "regions": [asdict(region) for region in made.regions],
        "reasons": vectors.reasons,
        "marks": vectors.marks,
        "verdicts": {name: one and asdict(one) for name, one in vectors.verdicts.items()},
        "readings": {name: asdict(one) for name, one in study.readings.items()},
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        write_json(temporary / "study.json", about)
        for name in _ARRAYS:
            if (values := getattr(made, name)) is not None:
                np.save(temporary / f"{name}.npy", values)
        save_file({name: np.ascontiguousarray(one) for name, one in vectors.vectors.items()}, temporary / _VECTORS)


def load_study(folder: Path) -> EncodedStudy:
    """What ``save_study`` kept; the image and its labels stay on the disk until they are looked at.

    Raises:
        ModelError: code ``not_encoded``: there is none.
    """
    if not (folder / "study.json").is_file():
        raise ModelError("The image is not encoded.", code="not_encoded", fix="Wait until it is.")
    about = read_json(folder / "study.json")
    arrays = {name: folder / f"{name}.npy" for name in _ARRAYS}
    image, organs = (np.load(path, mmap_mode="r") if path.is_file() else None for path in arrays.values())
    assert image is not None
    vectors = load_file(folder / _VECTORS)
    rows = tuple(_organ_row(row) for row in about["rows"])
    checks = tuple(QualityCheck(**check) for check in about["checks"])
    regions = tuple(Region(**region) for region in about["regions"])
    return EncodedStudy(
        name=about["name"],
        masks=about["masks"],
        standardized=Standardized(image, organs, np.array(about["affine"]), rows, checks, regions),
        vectors=OrganVectors(
            vectors,
            about["reasons"],
            {name: None if one is None else Verdict(**one) for name, one in about["verdicts"].items()},
            about["marks"],
        ),
        readings={name: _reading(one) for name, one in about["readings"].items()},
    )


def _organ_row(values: Mapping[str, Any]) -> OrganRow:
    x0, x1, y0, y1, z0, z1 = (int(edge) for edge in values["box"])
    return OrganRow(**{**values, "box": (x0, x1, y0, y1, z0, z1)})


def _reading(values: Mapping[str, Any]) -> OrganReading:
    region = values["region"]
    if "volume_ml" in region:
        return OrganReading(**{**values, "region": _organ_row(region)})
    return OrganReading(**{**values, "region": OrganRegion(region["organ"], tuple(region["box"]))})
