"""One study on its way into the feature cache: what is cut out of it, and what the model makes of that."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ctglip.data.cache import CropCache, stacked
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.cxr import CxrInput, cxr_input
from ctglip.data.samples import OrganInstance
from ctglip.data.scans import ScanCut, ScanSettings, cut_scan
from ctglip.errors import CTGLIPError
from ctglip.inference.cxr_encoding import Reading, cxr_settings, encode_radiographs, on_window, queries_of
from ctglip.inference.encoding import OrganEmbeddings, encode_crops
from ctglip.inference.scans import encode_scan, readable
from ctglip.models.release import Release
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import Failure, OrganRow
from ctglip.vocabulary.organs import OrganDictionary

PARTS = ("features", "anatomy", "diagnosis")
Cut = Callable[[StudyReader, Sequence[OrganRow], CropSettings, OrganDictionary], list[OrganCrop]]
"""Cuts organs out of a study; gives one crop for each row."""

Vectors = dict[str, np.ndarray]
"""Of one organ: ``features [d]``, ``anatomy`` and ``diagnosis [e]``."""


@dataclass(frozen=True)
class Entry:
    """One cached organ: its row of the organ table as plain data, and its vectors."""

    row: dict[str, Any]
    vectors: Vectors


def plain_row(instance: OrganInstance) -> dict[str, Any]:
    """An organ's row of the organ table as JSON keeps it."""
    return json.loads(json.dumps(asdict(instance.row)))


@dataclass
class Work:
    """One study on its way: what is known of it, what must be cut (organs, or the scan)."""

    study_id: str
    source: str
    instances: list[OrganInstance]
    entries: dict[str, Entry]
    missing: list[OrganInstance] = field(default_factory=list)
    crops: list[OrganCrop] | ScanCut | CxrInput | Failure | None = None


def cut_organs(
    store: Store, work: Work, settings: CropSettings, organs: OrganDictionary, cut: Cut
) -> list[OrganCrop] | Failure:
    """The crops of the missing organs."""
    try:
        return cut(store.study(work.study_id), [instance.row for instance in work.missing], settings, organs)
    except (CTGLIPError, OSError, ValueError) as error:
        return Failure(work.study_id, "crops", getattr(error, "code", "unreadable"), str(error))


def cut_image(store: Store, work: Work, release: Release) -> ScanCut | CxrInput | Failure:
    """The scan or radiograph as the model reads it."""
    try:
        study = store.study(work.study_id)
        if release.cxr is not None:
            return cxr_input(study.image(), cxr_settings(release))
        return cut_scan(study.image(), study.organs(), study.affine, ScanSettings.model_validate(release.scans))
    except (CTGLIPError, OSError, ValueError) as error:
        return Failure(work.study_id, "scans", getattr(error, "code", "unreadable"), str(error))


def encode_scans(release: Release, several: Sequence[Work], organs: OrganDictionary) -> int:
    """Encode the scans of some studies, each once; organs that cannot be read in them get vectors of NaN."""
    settings = ScanSettings.model_validate(release.scans)
    for work in several:
        if isinstance(work.crops, ScanCut):
            rows = [instance.row for instance in work.missing]
            found = encode_scan(release.model, work.crops, rows, release.organs, settings)
            there = readable(work.crops, rows, release.model, organs)
            for number, (instance, seen) in enumerate(zip(work.missing, there, strict=True)):
                vectors = {name: getattr(found, name)[number] for name in PARTS}
                vectors = vectors if seen else {name: np.full_like(v, np.nan) for name, v in vectors.items()}
                work.entries[instance.organ] = Entry(plain_row(instance), vectors)
    return sum(len(work.missing) for work in several)


def encode_cxr_works(
    release: Release, several: Sequence[Work], reading: Reading, organs: OrganDictionary, batch: int
) -> int:
    """Encode the radiographs of some studies, each once; organs that are not on the model's window get vectors of
    NaN."""
    radiographs = [(work, work.crops) for work in several if isinstance(work.crops, CxrInput)]
    if not radiographs:
        return 0
    seen = [
        on_window(radiograph, [instance.row for instance in work.missing], reading) for work, radiograph in radiographs
    ]
    asked = [
        [p.row for p, there in zip(work.missing, on, strict=True) if there]
        for (work, _), on in zip(radiographs, seen, strict=True)
    ]
    queries = queries_of(release.organs, organs)
    found = encode_radiographs(
        release.model, [radiograph for _, radiograph in radiographs], asked, queries, reading, batch
    )
    number = 0
    for (work, _), on in zip(radiographs, seen, strict=True):
        for instance, there in zip(work.missing, on, strict=True):
            vectors = {name: getattr(found, name)[number] for name in PARTS} if there else _unread(found)
            work.entries[instance.organ] = Entry(plain_row(instance), vectors)
            number += there
    return sum(len(work.missing) for work in several)


def _unread(like: OrganEmbeddings) -> Vectors:
    return {name: np.full(getattr(like, name).shape[1], np.nan, np.float32) for name in PARTS}


def encode_organs(release: Release, several: Sequence[Work], settings: CropSettings, batch: int) -> int:
    """Encode the missing organs of some studies together and put them where they belong."""
    instances = [instance for work in several for instance in work.missing]
    if not instances:
        return 0
    crops = [crop for work in several if isinstance(work.crops, list) for crop in work.crops]
    cut: CropCache = stacked(instances, crops, settings)
    embeddings = encode_crops(release.model, cut, settings, batch)
    owners = [work for work in several for _ in work.missing]
    for number, (work, instance) in enumerate(zip(owners, instances, strict=True)):
        vectors = {name: getattr(embeddings, name)[number] for name in PARTS}
        work.entries[instance.organ] = Entry(plain_row(instance), vectors)
    return len(instances)
