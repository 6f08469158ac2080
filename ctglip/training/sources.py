"""What objectives are fed with: samples of a step, drawn from a store's split ``train``."""

from __future__ import annotations

from typing import Any, cast

from ctglip.data.dataset import TextDataset
from ctglip.data.images import RegionReading
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.data.reader import CachedReader
from ctglip.data.studies import StudyDataset
from ctglip.inference.scoring import Dictionaries
from ctglip.models.region_readers import RegionReaderSettings
from ctglip.objectives.base import InputKind
from ctglip.store.tables import Store
from ctglip.training.recipe import AnyDataSettings
from ctglip.vocabulary.negatives import Strategy


def open_source(
    kind: InputKind,
    store: Store,
    dictionaries: Dictionaries,
    data: AnyDataSettings,
    regions: RegionReaderSettings | None,
    seed: int,
    strategy: Strategy,
    readers: list[CachedReader[str, Any]],
    **more: Any,
) -> TextDataset[Any]:
    """The samples of a store's split ``train``.

    Args:
        kind: what is wanted.
        data, regions, seed: of the run's config.
        strategy: which negatives are drawn from the dictionary, if any.
        readers: keeps what the datasets of one run share.
        more: ``progress``, ``text_ids`` and ``organ_names``, see ``OrganDataset``.

    Raises:
        StoreError: the split is empty, or has not what is wanted.
    """
    if strategy in ("none", "batch"):
        data = data.model_copy(update={"negatives": 0})
    split = (store, "train", dictionaries.organs, dictionaries.abnormalities)
    images = data
    if isinstance(images, CropDataSettings):
        if kind == "organs":
            return OrganDataset(*split, images, seed, strategy=strategy, **more)
        images, regions = images.whole_scans(), None
        assert images is not None
    reading: RegionReading = cast(RegionReading, regions.name) if regions is not None else "none"
    found = StudyDataset(*split, images, seed, kind, reading, strategy, reader=next(iter(readers), None), **more)
    readers.append(found.images.reader)
    return found
