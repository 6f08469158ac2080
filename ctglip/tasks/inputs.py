"""What a classification reads of studies: features that a frozen model gave once, or crops, scans and radiographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ctglip.data.augment import AugmentSettings, augment_crop, augment_hu, draw_augmentations
from ctglip.data.cache import MAX_FAILED_SHARE, CropCache, check_damage, cut_instances, instances_of
from ctglip.data.crops import CropSettings
from ctglip.data.cxr import CxrInputSettings, shrunk, stored_edge
from ctglip.data.cxr_window import cxr_window
from ctglip.data.reader import ImageReader
from ctglip.data.rendering import CropStack
from ctglip.data.samples import OrganInstance
from ctglip.data.scans import ScanCut, ScanSettings, render_scans, scan_reader
from ctglip.errors import CTGLIPError
from ctglip.inference.cxr_encoding import cxr_instances, queries_of, reading_of
from ctglip.inference.feature_cache import check_recipe, organ_features_of
from ctglip.inference.scans import readable
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.tasks.base import in_batches
from ctglip.tasks.network import FEATURES, Inputs, raw_width, read_organs, reads_global_image
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.studies import Bags, Studies
from ctglip.tasks.targets import Target
from ctglip.types import Failure, Progress
from ctglip.vocabulary.organs import load_organs


class OrganInputs(Protocol):
    """Organs by row."""

    @property
    def bags(self) -> Bags:
        """Whose organs they are."""
        ...

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Studies that could not be read, left out."""
        ...

    def read(self, rows: np.ndarray, rng: np.random.Generator | None) -> Inputs:
        """What the network reads for some rows; augmented where ``rng`` is given."""
        ...


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
class CropInputs:
    """Crops in memory."""

    bags: Bags
    cache: CropCache
    settings: CropSettings
    augment: AugmentSettings
    failures: tuple[Failure, ...] = ()

    def read(self, rows: np.ndarray, rng: np.random.Generator | None) -> Inputs:
        """Images, masks and sizes."""
        crops = [self.cache.crop(int(row)) for row in rows]
        if rng is not None:
            parameters, noise = draw_augmentations(len(crops), self.augment, rng), self.augment.noise_hu
            crops = [augment_crop(crop, one, noise)[0] for crop, one in zip(crops, parameters, strict=True)]
        crop_stack = CropStack.of(crops, self.settings).to("cpu")
        size = torch.from_numpy(np.stack([crop.size for crop in crops]))
        return {"images": crop_stack.image, "mask": crop_stack.mask, "size": size}


@dataclass(frozen=True)
class ScanInputs:
    """Whole scans on the model's grid, read when they are asked for; each passes the encoder once."""

    bags: Bags
    reader: ImageReader[ScanCut]
    settings: ScanSettings
    instances: tuple[OrganInstance, ...]
    release: Release
    augment: AugmentSettings
    failures: tuple[Failure, ...] = ()

    def read(self, rows: np.ndarray, rng: np.random.Generator | None) -> Inputs:
        """Images of the studies, and where their organs are."""
        instances = [self.instances[row] for row in rows]
        names = list(dict.fromkeys(instance.study_id for instance in instances))
        cuts = dict(zip(names, self.reader.read(names), strict=True))
        known = {name: cut for name, cut in cuts.items() if cut is not None}
        assert len(known) == len(names)
        hu = np.stack([known[name].hu for name in names])
        if rng is not None:
            hu = augment_hu(hu, self.augment.shift_hu, self.augment.noise_hu, rng)
        images = torch.from_numpy(render_scans(hu, self.settings))
        index = torch.tensor([names.index(instance.study_id) for instance in instances])
        needed = self.release.model.region_inputs
        if self.release.model.region_reader is None:
            return {"images": images, "study_index": index}
        sizes = [known[instance.study_id].sizes([instance.row]) for instance in instances]
        found = {
            "images": images,
            "study_index": index,
            "size": torch.from_numpy(np.concatenate(sizes)),
            "organ_id": torch.tensor([self.release.organs.index(instance.organ) for instance in instances]),
        }
        if "labels" in needed:
            labels = [known[name].labels for name in names]
            maps = [np.zeros(hu.shape[1:], np.uint8) if one is None else one for one in labels]
            found["labels"] = torch.from_numpy(np.stack(maps).astype(np.int64))
        if "boxes" in needed:
            found["boxes"] = torch.from_numpy(
                np.concatenate([known[instance.study_id].boxes([instance.row]) for instance in instances])
            )
        return found


@dataclass(frozen=True)
class CxrInputs:
    """Radiographs in memory, larger than the model's window; each passes the encoder once.

    Attributes:
        bags: whose organs they are.
        radiographs: uint16, one a study that could be read.
        radiograph: of each organ.
        boxes: of each organ, in pixels of ``radiographs``; not used where the whole radiograph is read.
        queries: the model's number of each organ.
        settings: window and changes, as in pretraining but upright (``tuning_radiographs``).
        global_image: the whole radiograph is read.
        failures: studies that could not be read.
    """

    bags: Bags
    radiographs: np.ndarray
    radiograph: np.ndarray
    boxes: np.ndarray
    queries: np.ndarray
    settings: CxrInputSettings
    global_image: bool
    failures: tuple[Failure, ...] = ()

    def read(self, rows: np.ndarray, rng: np.random.Generator | None) -> Inputs:
        """Images, and where in them the organs are; an organ that a drawn window cuts off keeps a pixel."""
        which, index = np.unique(self.radiograph[rows], return_inverse=True)
        images, boxes = [], np.zeros((len(rows), 4), np.float32)
        for image_row, number in enumerate(which):
            in_image = index == image_row
            image, placed = cxr_window(self.radiographs[number], self.boxes[rows[in_image]], self.settings, rng)
            images.append(image)
            low = np.minimum(placed[:, ::2], self.settings.size - 1)
            boxes[in_image] = np.stack([low, np.maximum(placed[:, 1::2], low + 1)], axis=2).reshape(-1, 4)
        found = {"images": torch.from_numpy(np.stack(images)), "study_index": torch.from_numpy(index)}
        if self.global_image:
            return found
        size, queries = torch.zeros(len(rows), 4), torch.from_numpy(self.queries[rows])
        return {**found, "size": size, "organ_id": queries, "boxes": torch.from_numpy(boxes)}


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
    store: Store, release: Release, studies: Studies, config: FinetuneConfig, progress: Progress | None = None
) -> CachedFeatures:
    """Raw features of all organs that are asked about, from the feature cache where they are there."""
    organs = organs_of(studies.targets)
    device = next(release.model.parameters()).device
    if reads_global_image(release, config) and (release.cxr is not None or release.model.image_head is None):
        return encode_frozen(image_inputs(store, release, studies, config, progress), release, config.fit.encode)
    found = organ_features_of(
        store, release, studies.study_ids, organs, batch=config.fit.encode, threads=config.fit.threads,
        progress=progress,
    )  # fmt: skip
    features = torch.from_numpy(found.embeddings.features).to(device)
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


def tuning_radiographs(release: Release) -> CxrInputSettings:
    """A release's radiographs as they are drawn here: as in its pretraining, but never mirrored, turned or warped.

    Labels have sides, and masks are cut as windows are.
    """
    upright = {"flip": 0.0, "rotate": 0.0, "perspective": 0.0}
    return CxrInputSettings.model_validate(release.cxr).model_copy(update=upright)


def cxr_inputs(
    store: Store, release: Release, studies: Studies, config: FinetuneConfig, progress: Progress | None = None
) -> CxrInputs:
    """Radiographs of all studies in memory, with the boxes of the organs that are asked about."""
    check_recipe(store, release)
    numbers = queries_of(release.organs, load_organs(release.organ_dictionary / "organs.yaml"))
    settings = tuning_radiographs(release)
    organs, global_image = organs_of(studies.targets), reads_global_image(release, config)
    reading = "whole" if global_image else reading_of(release.model)
    edge = stored_edge(settings)
    radiographs = np.zeros((len(studies.study_ids), edge, edge), np.uint16)
    shapes: dict[str, tuple[int, ...]] = {}
    failures: list[Failure] = []
    for number, name in enumerate(studies.study_ids):
        try:
            image = store.study(name).image()
            radiographs[number], shapes[name] = shrunk(image, edge), image.shape
        except (CTGLIPError, OSError, ValueError) as error:
            failures.append(Failure(name, "radiographs", getattr(error, "code", "unreadable"), str(error)))
        if progress:
            progress(number + 1, len(studies.study_ids))
    check_damage(failures, len(studies.study_ids), MAX_FAILED_SHARE)
    row = {name: number for number, name in enumerate(studies.study_ids)}
    instances = cxr_instances(store, [name for name in studies.study_ids if name in shapes], organs, reading, release)
    boxes = np.array([instance.row.box for instance in instances], np.float64).reshape(-1, 4)
    boxes *= np.array([np.repeat(edge / np.array(shapes[instance.study_id]), 2) for instance in instances]).reshape(
        -1, 4
    )
    low, high = (edge - settings.size) // 2, (edge - settings.size) // 2 + settings.size
    inside = np.clip(boxes, low, high)
    in_window = (
        np.asarray((inside[:, 1::2] - inside[:, ::2] >= 1).all(1))
        if reading == "box"
        else np.ones(len(instances), bool)
    )
    instances = [instance for instance, there in zip(instances, in_window, strict=True) if there]
    radiograph = np.array([row[instance.study_id] for instance in instances], dtype=np.int64)
    queries = np.array([numbers.get(instance.organ, 0) for instance in instances], dtype=np.int64)
    bags = bags_of(instances, studies.study_ids, organs)
    return CxrInputs(bags, radiographs, radiograph, boxes[in_window], queries, settings, global_image, tuple(failures))


def scan_inputs(
    store: Store, release: Release, studies: Studies, config: FinetuneConfig, progress: Progress | None = None
) -> ScanInputs:
    """Whole scans of all studies, read once to know which can be."""
    check_recipe(store, release)
    dictionary = load_organs(release.organ_dictionary / "organs.yaml")
    settings = ScanSettings.model_validate(release.scans)
    organs = organs_of(studies.targets)
    instances = instances_of(store, studies.study_ids, organs, CropSettings())
    reader = scan_reader(store, settings, len(studies.study_ids), config.fit.keep_gb, config.fit.threads)
    usable: list[OrganInstance] = []
    for done, name in enumerate(studies.study_ids, start=1):
        (cut,) = reader.read([name])
        of_study = [instance for instance in instances if instance.study_id == name]
        if cut is not None:
            can = readable(cut, [instance.row for instance in of_study], release.model, dictionary)
            usable += [instance for instance, yes in zip(of_study, can, strict=True) if yes]
        if progress:
            progress(done, len(studies.study_ids))
    bags = bags_of(usable, studies.study_ids, organs)
    return ScanInputs(bags, reader, settings, tuple(usable), release, config.augment, tuple(reader.failures))


def crop_inputs(
    store: Store, release: Release, studies: Studies, config: FinetuneConfig, progress: Progress | None = None
) -> CropInputs:
    """Crops of all organs that are asked about, as the model's settings cut them."""
    check_recipe(store, release)
    dictionary = load_organs(release.organ_dictionary / "organs.yaml")
    settings = CropSettings.model_validate(release.crops)
    organs = organs_of(studies.targets)
    instances = instances_of(store, studies.study_ids, organs, settings)
    cache = cut_instances(store, instances, settings, dictionary, config.fit.threads, progress)
    bags = bags_of(cache.instances, studies.study_ids, organs)
    sided = config.augment.model_copy(update={"mirror": 0.0})  # a label of a left organ stays one of a left organ
    return CropInputs(bags, cache, settings, sided, cache.failures)


def image_inputs(
    store: Store, release: Release, studies: Studies, config: FinetuneConfig, progress: Progress | None = None
) -> CropInputs | ScanInputs | CxrInputs:
    """What a model that is trained reads: crops, whole scans, or radiographs."""
    make = cxr_inputs if release.cxr is not None else crop_inputs if release.reads_crops else scan_inputs
    return make(store, release, studies, config, progress)
