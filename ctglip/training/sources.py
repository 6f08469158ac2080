"""What objectives are fed with: samples of a step, drawn from a store's split ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ctglip.data.cxr import CxrDataSettings
from ctglip.data.dataset import TextDataset, TextIds
from ctglip.data.images import RegionReading
from ctglip.data.organs import DataSettings, OrganDataset
from ctglip.data.reader import ImageReader
from ctglip.data.sampling import SamplingSettings
from ctglip.data.scans import ScanDataSettings
from ctglip.data.studies import StudyDataset
from ctglip.inference.scoring import Dictionaries
from ctglip.models.region_readers import RegionReaderSettings
from ctglip.objectives.base import InputKind
from ctglip.store.tables import Store
from ctglip.types import Progress
from ctglip.vocabulary.negatives import Strategy


@dataclass(frozen=True)
class SourceSettings:
    """What decides what is drawn: the parts of a run's config that datasets read.

    ``readers`` keeps what the datasets of one run share.
    """

    data: DataSettings
    sampling: SamplingSettings
    scans: ScanDataSettings
    cxr: CxrDataSettings
    regions: RegionReaderSettings | None
    seed: int
    readers: list[ImageReader[Any]] = field(default_factory=list)


def open_source(
    kind: InputKind,
    store: Store,
    dictionaries: Dictionaries,
    settings: SourceSettings,
    strategy: Strategy,
    progress: Progress | None = None,
    text_ids: TextIds | None = None,
    organ_names: Sequence[str] | None = None,
) -> TextDataset[Any]:
    """The samples of a store's split ``train``.

    Args:
        kind: what is wanted.
        strategy: which negatives are drawn from the dictionary, if any.
        progress: called with (studies done, studies) while crops are cut or images are read.
        text_ids, organ_names: what numbers of texts and organs mean (see ``OrganDataset``).

    Raises:
        StoreError: the split is empty, or has not what is wanted.
    """
    data = settings.data if strategy not in ("none", "batch") else settings.data.model_copy(update={"negatives": 0})
    split = (store, "train", dictionaries.organs, dictionaries.abnormalities, data)
    numbers = {"text_ids": text_ids, "organ_names": organ_names, "progress": progress}
    reading = settings.regions.name if settings.regions is not None else "none"
    if kind == "organs" and reading == "crop":
        return OrganDataset(*split, settings.seed, strategy=strategy, sampling=settings.sampling, **numbers)
    images = settings.cxr if store.info.modality == "cxr" else settings.scans
    reader = next(iter(settings.readers), None)
    reading = cast(RegionReading, "none" if reading == "crop" else reading)
    found = StudyDataset(*split, images, settings.seed, kind, reading, strategy, reader=reader, **numbers)
    settings.readers.append(found.images.reader)
    return found
