"""What a model makes of the organs of a store: encoded once, kept on disk, read by every later command.

``FOLDER/<key>/<study_id>.safetensors`` holds the features of one study's organs. The key is a hash of the model's
weights and settings, the volume recipe, the crop settings and the organ dictionary; inside, each organ's row of the
organ table and the study's source checksum stand beside its features, so that a study that was preprocessed again is
encoded again. A file is written by rename and is there whole or not at all; a damaged one counts as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ctglip.data.cache import MAX_FAILED_SHARE, check_damage
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.samples import OrganInstance
from ctglip.errors import CTGLIPError, ModelError
from ctglip.files import atomic_path, value_hash
from ctglip.inference.cxr_encoding import Read
from ctglip.inference.encoding import PARTS, OrganEmbeddings, no_embeddings
from ctglip.inference.model_readers import reader_of
from ctglip.inference.readers import OrganReader
from ctglip.modality import MODALITIES
from ctglip.models.release import Release
from ctglip.parallel import worker_threads
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import Failure, Progress
from ctglip.vocabulary.organs import OrganDictionary

FOLDER = "features"


Vectors = dict[str, np.ndarray]
"""Of one organ: ``features [d]``, ``anatomy`` and ``diagnosis [e]``."""
Cut = Callable[[StudyReader, Sequence[Any], CropSettings, OrganDictionary], list[OrganCrop]]
"""Cuts organs out of a study; gives one crop for each row."""


@dataclass(frozen=True)
class CacheEntry:
    """One cached organ: its region, or its row of the organ table, as plain data, and its vectors."""

    row: dict[str, Any]
    vectors: Vectors


def plain_row(instance: OrganInstance) -> dict[str, Any]:
    """An organ's region, or its row of the organ table, as JSON keeps it."""
    return json.loads(json.dumps(asdict(instance.row)))


@dataclass
class Work:
    """One study: what is known of its organs, what is missing, and what the model reads for that."""

    study_id: str
    source: str
    instances: list[OrganInstance]
    entries: dict[str, CacheEntry]
    missing: list[OrganInstance] = field(default_factory=list)
    prepared: Any = None


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


PLAIN = FeatureView()
MASK_ONLY = FeatureView("mask_only", fill="organ_mean")
WHOLE_RADIOGRAPH = FeatureView("whole_radiograph", read="whole")
OBSERVATIONS = FeatureView("observations", read="observations")


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


@dataclass
class FeatureCache:
    """A folder of features of one model under one view.

    Attributes:
        folder: where the studies' files are.
        writable: False once the disk has refused; from then on nothing is kept.
    """

    folder: Path
    writable: bool = True

    def read(self, study_id: str, source: str) -> dict[str, CacheEntry]:
        """All that is cached of a study, by organ; nothing where its source was another."""
        try:
            with safe_open(self._path(study_id), framework="np") as file:
                about = file.metadata()
                if about["source"] != source:
                    return {}
                arrays = {name: file.get_tensor(name) for name in PARTS}
                return {
                    row["organ"]: CacheEntry(row, {name: array[number] for name, array in arrays.items()})
                    for number, row in enumerate(json.loads(about["rows"]))
                }
        except (OSError, SafetensorError, KeyError, IndexError, ValueError, TypeError):
            return {}

    def write(self, study_id: str, source: str, entries: Mapping[str, CacheEntry]) -> None:
        """Keep what is known of a study, by rename."""
        if not self.writable:
            return
        arrays = {name: np.stack([entry.vectors[name] for entry in entries.values()]) for name in PARTS}
        about = {"source": source, "rows": json.dumps([entry.row for entry in entries.values()])}
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
            **({"cxr": release.cxr} if release.cxr is not None else {}),
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
    batch: int = 64,
    threads: int = 2,
    progress: Progress | None = None,
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
        batch: crops encoded at a time.
        threads: threads that cut crops.
        progress: called with (organs done, organs).

    Raises:
        ModelError: the store was made by another recipe; a view other than ``PLAIN`` for a model of whole scans.
        StoreError: more than a twentieth of the studies cannot be read.
    """
    check_recipe(store, release)
    check_view(view, release)
    reader = reader_of(release, view.read, view.crops(CropSettings.model_validate(release.crops)))
    names = organs if organs is not None else release.provenance.get("trained", release.organs)
    instances = reader.instances(store, study_ids, list(names))
    cache = FeatureCache((folder or store.path / FOLDER) / feature_key(release, reader.organs, view))
    by_study: dict[str, list[OrganInstance]] = {}
    for instance in instances:
        by_study.setdefault(instance.study_id, []).append(instance)
    sources = dict(store.table("studies").select("study_id", "source_checksum").iter_rows())

    def cut(study_id: str) -> Work:
        return _prepared(_open(cache, study_id, by_study[study_id], sources[study_id] or ""), store, reader, view)

    pending: list[Work] = []
    failures: list[Failure] = []
    done = encoded = 0
    for several in _batches(_ahead(cut, list(by_study), threads), batch):
        good = [work for work in several if not isinstance(work.prepared, Failure)]
        failures += [work.prepared for work in several if isinstance(work.prepared, Failure)]
        encoded += _encode(reader, good, batch)
        pending += [_close(cache, work) for work in good]
        done += sum(len(work.instances) for work in several)
        if progress:
            progress(done, len(instances))
    check_damage(failures, len(by_study), MAX_FAILED_SHARE)
    return _gathered(release, pending, failures, encoded)


def _prepared(work: Work, store: Store, reader: OrganReader, view: FeatureView) -> Work:
    """A study with what the model reads for the organs that are missing, or why it cannot be read."""
    if work.missing:
        regions = [instance.row for instance in work.missing]
        crops = view.crops(CropSettings.model_validate(reader.release.crops))
        try:
            study = store.study(work.study_id)
            if view.cut is None:
                work.prepared = reader.prepare(study, regions)
            else:
                work.prepared = view.cut(study, regions, crops, reader.organs)
        except (CTGLIPError, OSError, ValueError) as error:
            work.prepared = Failure(work.study_id, "features", getattr(error, "code", "unreadable"), str(error))
    return work


def _encode(reader: OrganReader, several: Sequence[Work], batch: int) -> int:
    """Encode what is missing of some studies together and put it where it belongs; how many organs that were."""
    several = [work for work in several if work.missing]
    if not several:
        return 0
    regions = [[instance.row for instance in work.missing] for work in several]
    found = reader.encode([work.prepared for work in several], regions, batch=batch)
    owners = [(work, instance) for work in several for instance in work.missing]
    for number, (work, instance) in enumerate(owners):
        vectors = {name: getattr(found, name)[number] for name in PARTS}
        work.entries[instance.organ] = CacheEntry(plain_row(instance), vectors)
    return len(owners)


def _open(cache: FeatureCache, study_id: str, instances: list[OrganInstance], source: str) -> Work:
    """What is cached of a study, and what is missing."""
    work = Work(study_id, source, instances, cache.read(study_id, source))
    work.missing = [p for p in instances if p.organ not in work.entries or work.entries[p.organ].row != plain_row(p)]
    return work


def _close(cache: FeatureCache, work: Work) -> Work:
    """Keep what was encoded, and let the voxels go."""
    if work.missing:
        cache.write(work.study_id, work.source, work.entries)
    work.prepared = None
    return work


def _ahead(cut: Callable[[str], Work], study_ids: Sequence[str], threads: int) -> Iterator[Work]:
    """Studies in order, cut in threads, a bounded number ahead."""
    with worker_threads(threads) as pool:
        rest = iter(study_ids)
        waiting: list[Future[Work]] = [pool.submit(cut, name) for name in islice(rest, 2 * threads)]
        while waiting:
            work = waiting.pop(0).result()
            waiting += [pool.submit(cut, name) for name in islice(rest, 1)]
            yield work


def _batches(works: Iterator[Work], least: int) -> Iterator[list[Work]]:
    """Studies gathered until they hold at least so many organs to encode, or many that need nothing."""
    several: list[Work] = []
    for work in works:
        several.append(work)
        if sum(len(w.missing) for w in several) >= least or len(several) >= 4 * least:
            yield several
            several = []
    if several:
        yield several


def _gathered(release: Release, works: Sequence[Work], failures: Sequence[Failure], encoded: int) -> OrganFeatures:
    found = [(instance, work.entries[instance.organ].vectors) for work in works for instance in work.instances]
    found = [(instance, vectors) for instance, vectors in found if not np.isnan(vectors["diagnosis"]).any()]
    if not found:
        return OrganFeatures((), no_embeddings(release.model), tuple(failures))
    instances = tuple(instance for instance, _ in found)
    arrays = {name: np.stack([vectors[name] for _, vectors in found]) for name in PARTS}
    return OrganFeatures(instances, OrganEmbeddings(**arrays), tuple(failures), encoded)
