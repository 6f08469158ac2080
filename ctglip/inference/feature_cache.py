"""What a model makes of the organs of a store: encoded once, kept on disk, read by every later command.

``FOLDER/<key>/<study_id>.safetensors`` holds the features of one study's organs. The key is a hash of the model's
weights and settings, the volume recipe, the crop settings and the organ dictionary; inside, each organ's row of the
organ table and the study's source checksum stand beside its features, so that a study that was preprocessed again is
encoded again. A file is written by rename and is there whole or not at all; a damaged one counts as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.organ_crops import CropFiles
from ctglip.data.reader import CachedReader
from ctglip.data.samples import OrganInstance
from ctglip.errors import ModelError
from ctglip.files import atomic_path, value_hash
from ctglip.inference.encoding import PARTS, OrganEmbeddings, concatenated
from ctglip.inference.model_readers import reader_of
from ctglip.inference.readers import OrganReader, Read, image_batches
from ctglip.inference.scoring import dictionaries_of
from ctglip.modality import MODALITIES
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.release import Release
from ctglip.places import cache_of
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import Failure, OrganRegion, Progress
from ctglip.vocabulary.organs import OrganDictionary

FOLDER = "features"


Vectors = dict[str, np.ndarray]
"""Of one organ: ``features [d]``, ``anatomy`` and ``diagnosis [e]``."""
Cut = Callable[[StudyReader, Sequence[Any], CropSettings, OrganDictionary], list[OrganCrop]]
"""Cuts organs out of a study; gives one crop for each row."""


@dataclass(frozen=True)
class FeatureView:
    """How organs are shown to the model: as they are, or with something changed (a control, a diagnostic).

    Attributes:
        name: part of the cache's key; change it when ``cut`` changes.
        fill: as in ``CropSettings``; None leaves the model's own.
        cut: cuts organs out of a study in place of the reader.
        read: how radiographs are read.
    """

    name: str = "plain"
    fill: str | None = None
    cut: Cut | None = None
    read: Read = "organs"

    def crops(self, settings: CropSettings) -> CropSettings:
        """The model's crop settings as this view has them."""
        return settings if self.fill is None else settings.model_copy(update={"fill": self.fill})

    def cutter(
        self, settings: CropSettings, organs: OrganDictionary
    ) -> Callable[[Store, str, Sequence[Any]], Sequence[OrganCrop]] | None:
        """``cut`` of a stored study; None where the reader cuts."""
        cut = self.cut
        return None if cut is None else lambda store, name, regions: cut(store.study(name), regions, settings, organs)


PLAIN = FeatureView()
MASK_ONLY = FeatureView("mask_only", fill="organ_mean")
VIEWS: Mapping[Read, FeatureView] = {
    "organs": PLAIN,
    "whole": FeatureView("whole_radiograph", read="whole"),
    "observations": FeatureView("observations", read="observations"),
}
"""By how radiographs are read."""


@dataclass(frozen=True)
class OrganFeatures:
    """The features of M organs.

    Attributes:
        instances: whose they are: ``study_id``, and the organ's row (``organ``, ``volume_ml``, ``touches_border`` ...).
        embeddings: raw ``features [m, d]``, unit vectors ``anatomy`` and ``diagnosis [m, e]``.
        failures: studies that could not be read, left out.
        encoded: how many organs were encoded now rather than read from the cache.
    """

    instances: tuple[OrganInstance, ...]
    embeddings: OrganEmbeddings
    failures: tuple[Failure, ...] = ()
    encoded: int = 0

    def __len__(self) -> int:
        return len(self.instances)

    def table(self) -> pl.DataFrame:
        """One row for each organ: study_id, organ, volume_ml, mean_hu, touches_border."""
        names = ("organ", "volume_ml", "mean_hu", "touches_border")
        columns = {name: [getattr(instance.row, name, None) for instance in self.instances] for name in names}
        return pl.DataFrame({"study_id": [instance.study_id for instance in self.instances], **columns})


def joined_features(model: DualEncoder, parts: Sequence[OrganFeatures]) -> OrganFeatures:
    """Features of several groups of studies as one."""
    instances = tuple(instance for part in parts for instance in part.instances)
    embeddings = concatenated(model, [part.embeddings for part in parts if len(part)])
    failures = tuple(failure for part in parts for failure in part.failures)
    return OrganFeatures(instances, embeddings, failures, sum(part.encoded for part in parts))


@dataclass
class FeatureCache:
    """A folder of features of one model under one view.

    Attributes:
        folder: where the studies' files are.
        writable: False once the disk has refused; from then on nothing is kept.
    """

    folder: Path
    writable: bool = True

    def read(self, study_id: str, source: str, rows: Iterable[OrganRegion]) -> dict[str, Vectors]:
        """What is cached of some organs of a study; nothing where its source was another, or an organ's row."""
        try:
            with safe_open(self._path(study_id), framework="np") as file:
                about = file.metadata()
                if about["source"] != source:
                    return {}
                arrays = {name: file.get_tensor(name) for name in PARTS}
                numbers = {json.dumps(row): number for number, row in enumerate(json.loads(about["rows"]))}
                cached = ((row.organ, numbers.get(json.dumps(asdict(row)))) for row in rows)
                return {
                    organ: {name: array[number] for name, array in arrays.items()}
                    for organ, number in cached
                    if number is not None
                }
        except (OSError, SafetensorError, KeyError, IndexError, ValueError, TypeError):
            return {}

    def write(self, study_id: str, source: str, rows: Sequence[OrganRegion], vectors: Mapping[str, Vectors]) -> None:
        """Keep what is known of some organs of a study, by rename."""
        if not self.writable:
            return
        arrays = {name: np.stack([vectors[row.organ][name] for row in rows]) for name in PARTS}
        about = {"source": source, "rows": json.dumps([asdict(row) for row in rows])}
        try:
            with atomic_path(self._path(study_id)) as temporary:
                save_file(arrays, temporary, metadata=about)
        except OSError:
            self.writable = False

    def _path(self, study_id: str) -> Path:
        return self.folder / f"{study_id}.safetensors"


def feature_key(release: Release, organs: OrganDictionary, view: FeatureView = PLAIN) -> str:
    """Hash of everything that decides what a study's features are: model, recipe, crops, grounding, view."""
    digest = hashlib.sha256()
    for name, value in sorted(release.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).tobytes())
    return value_hash(
        {
            "weights": digest.hexdigest(),
            "model": release.model.settings.model_dump(mode="json"),
            "recipe": release.recipe,
            "crops": view.crops(CropSettings.model_validate(release.crops)).model_dump(mode="json"),
            "scans": None if release.reads_crops else release.scans,
            "organs": organs.hash,
            "view": view.name,
            "cxr": release.cxr,
        }
    )


def check_recipe(store: Store, release: Release) -> None:
    """The store was made by the model's own recipe.

    Raises:
        ModelError: code ``other_modality`` or ``other_recipe``.
    """
    if release.modality != store.info.modality:
        kinds = [MODALITIES[name].images for name in (release.modality, store.info.modality)]
        raise ModelError(
            f"This model was trained on {kinds[0]}, and {store.path} is a store of {kinds[1]}.",
            code="other_modality",
            fix=f"Name a store of {kinds[0]}, or a model that was trained on {kinds[1]}.",
        )
    if release.recipe != store.info.recipe:
        raise ModelError(
            "The store was preprocessed with another recipe than the model was trained on.",
            code="other_recipe",
            fix="Preprocess the cohort with the model's recipe (its config.json holds it).",
        )


def check_view(view: FeatureView, release: Release) -> None:
    """The model can see this view.

    Raises:
        ModelError: code ``no_crops``.
    """
    if view.read == "organs" and view != PLAIN and not release.reads_crops:
        raise ModelError(
            f"The view {view.name!r} changes crops of organs; this model reads organs in whole scans.", code="no_crops"
        )


def organ_features_of(
    store: Store,
    release: Release,
    study_ids: Sequence[str],
    organs: Sequence[str] | None = None,
    *,
    folder: Path | None = None,
    view: FeatureView = PLAIN,
    crop_folder: Path | None = None,
    batch: int = 64,
    threads: int = 2,
    progress: Progress | None = None,
    reader: OrganReader[Any] | None = None,
) -> OrganFeatures:
    """The features of some studies' organs, from the cache where they are there, encoded and kept where not.

    Memory is bounded: crops exist for a few studies at a time. Of radiographs the organs are those with a box, or, for
    models that need none, all that are asked for.

    Args:
        store: made by the model's recipe.
        release: the model; it is encoded on the device where it is.
        study_ids: whose; the order of the result, study by study.
        organs: names, the order within a study; None takes the organs that the model was trained on.
        folder: where the cache lives; ``features`` inside the store by default. A folder that cannot be written to
            is read only.
        view: how the organs are shown.
        crop_folder: where crops are kept too, for other models that cut alike.
        batch: crops encoded at a time.
        threads: threads that cut crops.
        progress: called with (organs done, organs).
        reader: reads organs in place of the model's own reader.

    Raises:
        ModelError: the store was made by another recipe; a view other than ``PLAIN`` for a model of whole scans.
        StoreError: more than a twentieth of the studies cannot be read.
    """
    check_recipe(store, release)
    check_view(view, release)
    settings, organ_dictionary = view.crops(CropSettings.model_validate(release.crops)), dictionaries_of(release).organs
    files = None if crop_folder is None else CropFiles(crop_folder, store, settings, organ_dictionary)
    reader = reader or reader_of(release, view.read, settings, files)
    names = list(release.provenance.get("trained", release.organs) if organs is None else organs)
    instances = reader.instances(store, study_ids, names)
    cache = FeatureCache((folder or cache_of(store.path, FOLDER)) / feature_key(release, reader.organs, view))
    sources = dict(store.table("studies").select("study_id", pl.col("source_checksum").fill_null("")).iter_rows())
    rows = _rows_by_study(instances)
    found = {study_id: cache.read(study_id, sources[study_id], several) for study_id, several in rows.items()}
    missing = [instance for instance in instances if instance.organ not in found[instance.study_id]]
    images, encoded = reader.cache(store, reader.keys(missing), 0, threads, view.cutter(settings, reader.organs)), 0
    for features in _encoded(reader, images, batch):
        for study_id, several in features.items():
            found[study_id] |= several
            known = [row for row in rows[study_id] if row.organ in found[study_id]]
            cache.write(study_id, sources[study_id], known, found[study_id])
            encoded += len(several)
        if progress:
            progress(len(instances) - len(missing) + encoded, len(instances))
    return _gathered(release, instances, found, images.failures, encoded)


def _rows_by_study(instances: Sequence[OrganInstance]) -> dict[str, list[OrganRegion]]:
    rows: dict[str, list[OrganRegion]] = {}
    for instance in instances:
        rows.setdefault(instance.study_id, []).append(instance.row)
    return rows


def _encoded(
    reader: OrganReader[Any], images: CachedReader[Any, Any], batch: int
) -> Iterator[dict[str, dict[str, Vectors]]]:
    """The parts of organs' features by study and organ, a batch of images at a time."""
    for several in image_batches(images.readable(), batch):
        regions = [regions for (_, regions), _ in several]
        embedded = reader.encode([image for _, image in several], regions, batch=batch)
        owners = [(study_id, region.organ) for (study_id, regions), _ in several for region in regions]
        features: dict[str, dict[str, Vectors]] = {}
        for number, (study_id, organ) in enumerate(owners):
            features.setdefault(study_id, {})[organ] = {name: getattr(embedded, name)[number] for name in PARTS}
        yield features


def _gathered(
    release: Release,
    instances: Sequence[OrganInstance],
    found: Mapping[str, Mapping[str, Vectors]],
    failures: Sequence[Failure],
    encoded: int,
) -> OrganFeatures:
    """The organs that could be read."""
    vectors = [(one, found[one.study_id][one.organ]) for one in instances if one.organ in found[one.study_id]]
    vectors = [(instance, known) for instance, known in vectors if not np.isnan(known["diagnosis"]).any()]
    if not vectors:
        return OrganFeatures((), concatenated(release.model, ()), tuple(failures))
    arrays = {name: np.stack([known[name] for _, known in vectors]) for name in PARTS}
    return OrganFeatures(tuple(one for one, _ in vectors), OrganEmbeddings(**arrays), tuple(failures), encoded)
