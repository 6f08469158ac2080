"""What tasks that read organs read of studies: features that a frozen model gave once, or images through its reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctglip.data.augment import AugmentSettings
from ctglip.data.reader import CachedReader
from ctglip.data.samples import OrganInstance
from ctglip.errors import StoreError
from ctglip.inference.encoding import Inputs, read_organs
from ctglip.inference.feature_cache import check_recipe, organ_features_of
from ctglip.inference.model_readers import reader_of
from ctglip.inference.readers import ImageKey, OrganReader
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization, in_batches
from ctglip.tasks.network import FEATURES, FROZEN, raw_width, reads_global_image
from ctglip.tasks.settings import OrganTaskConfig
from ctglip.tasks.studies import Bags, Studies
from ctglip.tasks.targets import Target, UnusedInput
from ctglip.training.callbacks import Callbacks
from ctglip.types import Failure, OrganRegion, Progress


@dataclass(frozen=True)
class CachedFeatures:
    """Features of a frozen model, ``[n, d]``."""

    bags: Bags
    features: Tensor
    failures: tuple[Failure, ...] = ()

    def read(self, rows: np.ndarray, rng: np.random.Generator | None) -> Inputs:  # noqa: ARG002
        """Features as they are."""
        return {FEATURES: self.features[torch.from_numpy(rows)]}


@dataclass(frozen=True)
class ImageInputs:
    """Crops, whole scans or radiographs, in memory as far as they fit; each image passes the encoder once.

    Attributes:
        bags: whose organs they are.
        owners: the image and the region of each organ, image by image.
        reader: how the model reads.
        images: the images.
        augment: of crops and scans.
        failures: studies that could not be read.
    """

    bags: Bags
    owners: tuple[tuple[ImageKey, OrganRegion], ...]
    reader: OrganReader[Any]
    images: CachedReader[ImageKey, Any]
    augment: AugmentSettings
    failures: tuple[Failure, ...] = ()

    def read(self, rows: np.ndarray, rng: np.random.Generator | None) -> Inputs:
        """Images, and where in them the organs of some rows (ascending) are; augmented where ``rng`` is given.

        Raises:
            StoreError: code ``damaged_store``: a study that could be read before cannot be now.
        """
        regions: dict[ImageKey, list[OrganRegion]] = {}
        for key, region in (self.owners[row] for row in rows):
            regions.setdefault(key, []).append(region)
        images = [image for image in self.images.read(list(regions)) if image is not None]
        if len(images) < len(regions):
            raise StoreError("A study that was read before cannot be read any more.", code="damaged_store")
        return self.reader.inputs(images, list(regions.values()), self.reader.reading, rng=rng, augment=self.augment)


OrganInputs = CachedFeatures | ImageInputs
"""Organs by row: ``read`` gives what the network reads for some rows (ascending)."""


def organs_of(targets: Sequence[Target]) -> tuple[str, ...]:
    """The organs that any target is read from."""
    return tuple(dict.fromkeys(organ for target in targets for organ in target.organs))


def bags_of(instances: Sequence[OrganInstance], study_ids: Sequence[str], organs: Sequence[str]) -> Bags:
    """Organ instances, study by study."""
    row = {name: number for number, name in enumerate(study_ids)}
    organ_number = {name: number for number, name in enumerate(organs)}
    return Bags(
        np.array([row[instance.study_id] for instance in instances], dtype=np.int64),
        np.array([organ_number[instance.organ] for instance in instances], dtype=np.int64),
        tuple(organs),
    )


def cached_features(
    store: Store, release: Release, studies: Studies, config: OrganTaskConfig, progress: Progress | None = None
) -> CachedFeatures:
    """Raw features of all organs that are asked about, from the feature cache where they are there."""
    organs = organs_of(studies.targets)
    reader = tuning_reader(release, config)
    if reads_global_image(release, config) and ("whole" in reader.reads or release.model.image_head is None):
        return encode_frozen(image_inputs(store, release, studies, config, progress), release, config.fit.encode)
    found = organ_features_of(
        store, release, studies.study_ids, organs, batch=config.fit.encode, threads=config.fit.threads,
        progress=progress,
    )  # fmt: skip
    features = torch.from_numpy(found.embeddings.features).to(next(release.model.parameters()).device)
    return CachedFeatures(bags_of(found.instances, studies.study_ids, organs), features, found.failures)


@torch.no_grad()
def encode_frozen(inputs: OrganInputs, release: Release, batch: int) -> CachedFeatures:
    """Features of a model as it is, each study read once."""
    model, bags = release.model.eval(), inputs.bags
    device = next(model.parameters()).device
    parts = [
        read_organs(model, {name: value.to(device) for name, value in inputs.read(rows, None).items()})
        for rows in in_batches(np.arange(len(bags.study)), batch)
    ]
    features = torch.cat(parts) if parts else torch.zeros(0, raw_width(model, global_image=True))
    return CachedFeatures(bags, features.float(), inputs.failures)


def tuning_reader(release: Release, config: OrganTaskConfig) -> OrganReader[Any]:
    """How a fine-tuning reads images; it needs none of the model's heads."""
    read = "whole" if reads_global_image(release, config) and config.read == "whole" else "organs"
    return reader_of(release, read, features_only=True)


def image_inputs(
    store: Store, release: Release, studies: Studies, config: OrganTaskConfig, progress: Progress | None = None
) -> ImageInputs:
    """What a model that is trained reads: each study is read once to know which can be."""
    check_recipe(store, release)
    reader, organs = tuning_reader(release, config), organs_of(studies.targets)
    keys = reader.keys(reader.instances(store, studies.study_ids, organs))
    capacity = int(config.fit.keep_gb * 1e9 / reader.item_bytes)
    images = reader.cache(store, keys, capacity, config.fit.threads)
    owners = tuple(
        (key, region)
        for key, image in images.readable(progress=progress)
        for region, visible in zip(key[1], reader.visible(image, key[1], reader.reading), strict=True)
        if visible
    )
    bags = bags_of([OrganInstance(key[0], region) for key, region in owners], studies.study_ids, organs)
    return ImageInputs(bags, owners, reader, images, config.augment, tuple(images.failures))


def readable_organs(reader: OrganReader[Any], store: Store) -> list[str]:
    """Organs that the model was trained on (all that it knows, where that is not written) and that the store has."""
    release = reader.release
    known = release.provenance.get("trained") or release.organs
    present = {instance.organ for instance in reader.instances(store, store.study_ids, release.organs)}
    return [name for name in release.organs if name in known and name in present]


def inputs_by_name(
    store: Store,
    initializations: Sequence[Initialization],
    studies: Studies,
    config: OrganTaskConfig,
    callbacks: Callbacks,
) -> tuple[dict[str, OrganInputs], tuple[UnusedInput, ...]]:
    """What the network of each initialization reads, by its name, and the studies that cannot be read."""
    made: dict[tuple[int, bool], OrganInputs] = {}
    inputs: dict[str, OrganInputs] = {}
    problems: dict[UnusedInput, None] = {}
    for one in initializations:
        key = (id(one.release), one.mode in FROZEN)
        if key not in made:
            read = cached_features if one.mode in FROZEN else image_inputs
            made[key] = read(store, one.release, studies, config, partial(callbacks.prepare, "Reading organs"))
            problems |= {UnusedInput("unreadable", f.study_id, f.message): None for f in made[key].failures}
        inputs[one.name] = made[key]
    return inputs, tuple(problems)
