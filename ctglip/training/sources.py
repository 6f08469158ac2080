"""What objectives are fed with: samples of a step, drawn from a split of a store."""

from __future__ import annotations

from typing import Any, cast

import polars as pl

from ctglip.data.dataset import TextDataset
from ctglip.data.images import RegionReading, frontal_studies, reported_studies
from ctglip.data.organs import CropDataSettings, OrganDataset, studies_of
from ctglip.data.reader import CachedReader
from ctglip.data.studies import StudyDataset
from ctglip.inference.scoring import Dictionaries
from ctglip.models.region_readers import RegionReaderSettings
from ctglip.objectives.base import InputKind
from ctglip.objectives.registry import OBJECTIVES, parts_of
from ctglip.store.tables import Store
from ctglip.training.pretrain_config import AnyDataSettings, PretrainConfig
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
    split: str = "train",
    **more: Any,
) -> TextDataset[Any]:
    """The samples of a split of a store.

    Args:
        kind: what is wanted.
        data, regions, seed: of the run's config.
        strategy: which negatives are drawn from the dictionary, if any.
        readers: keeps what the datasets of one run share.
        split: images of another than train are not augmented.
        more: ``progress``, ``text_ids`` and ``organ_names``, see ``OrganDataset``.

    Raises:
        StoreError: the split is empty, or has not what is wanted.
    """
    if strategy in ("none", "batch"):
        data = data.model_copy(update={"negatives": 0})
    opened = (store, split, dictionaries.organs, dictionaries.abnormalities)
    images = data
    if isinstance(images, CropDataSettings):
        if kind == "organs":
            return OrganDataset(*opened, images, seed, strategy=strategy, **more)
        images, regions = images.whole_scans(), None
        assert images is not None
    reading: RegionReading = cast(RegionReading, regions.name) if regions is not None else "none"
    found = StudyDataset(*opened, images, seed, kind, reading, strategy, reader=next(iter(readers), None),
                         training=split == "train", **more)  # fmt: skip
    readers.append(found.images.reader)
    return found


def steps_of_epoch(store: Store, config: PretrainConfig) -> int:
    """Steps in which every sample of the split ``train`` is seen: organs of crops, else studies that have what is read
    (those that cannot be read are counted too).

    Raises:
        StoreError: the split is empty.
    """
    data, study_ids = config.data, studies_of(store, "train")
    kinds = {OBJECTIVES[part.name].input_kind for part in parts_of(config.objective).values()}
    if isinstance(data, CropDataSettings):
        rows = store.scan("organs").filter(pl.col("study_id").is_in(study_ids))
        rows = rows.filter(pl.col("organ").is_in(list(data.organs))) if data.organs else rows
        count = int(rows.select(pl.len()).collect().item())
        batch = data.sampling.batch
    else:
        if data.name == "cxr":
            study_ids = frontal_studies(store, study_ids, data.lateral, reported=kinds != {"images"})
        elif kinds.isdisjoint(("organs", "images")):
            reported = reported_studies(store)
            study_ids = [name for name in study_ids if name in reported]
        count, batch = len(study_ids), data.batch
    return max(1, count // min(batch, max(count, 1)))
