"""``embed``: what a model makes of every organ of a store, as one table that scikit-learn can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from ctglip.errors import ModelError, StoreError, VocabularyError
from ctglip.files import atomic_path, file_checksum, write_json
from ctglip.inference.scoring import dictionaries_of
from ctglip.models.device import resolve_device
from ctglip.models.release import Release, load_release
from ctglip.store.tables import Store
from ctglip.tasks.inputs import CachedFeatures, cached_features, tuning_reader
from ctglip.tasks.network import reads_global_image, speaks
from ctglip.tasks.settings import ClassificationConfig, FitSettings
from ctglip.tasks.studies import Studies
from ctglip.tasks.targets import STUDY, Target
from ctglip.types import Progress
from ctglip.vocabulary.organs import OrganDictionary

EmbeddingSpace = Literal["features", "diagnosis", "anatomy"]
TABLE = "embeddings.parquet"
_CHUNK = 4096


@dataclass(frozen=True)
class EmbeddingTable:
    """What was written.

    Attributes:
        table: the parquet file.
        rows, studies, dim: organs, studies, columns of each embedding.
        space: which embedding.
        failures: studies that could not be read, with the reason.
    """

    table: str
    rows: int
    studies: int
    dim: int
    space: str
    failures: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def embed(
    run: Path,
    store: Path,
    out: Path,
    space: EmbeddingSpace = "features",
    fit: FitSettings | None = None,
    progress: Progress | None = None,
    only: Sequence[str] = (),
) -> EmbeddingTable:
    """Embed every organ that a model was trained on, of every study of a store; of radiographs, for a model that finds
    no organs, the whole radiograph (``organ`` is ``study``).

    The table has one row for each organ of each study: study_id, patient_id, split, organ, volume_ml, mean_hu,
    touches_border, then one float32 column for each dimension (``f0000`` ...). ``embeddings.json`` says which model and
    recipe it is from.

    Args:
        run: a run, or its ``model/`` folder.
        store: made by the model's recipe.
        out: folder to write.
        space: ``features``: raw, for probes. ``diagnosis``, ``anatomy``: unit vectors of the space of texts.
        fit: batch sizes and device.
        progress: called with (organs done, organs).
        only: these organs alone are encoded, by name or synonym; all where none is named.

    Raises:
        VocabularyError: ``only`` names an organ that the model was not trained on.
        ModelError, StoreError: no model or store, they do not fit, or too many studies cannot be read.
    """
    fit = fit or FitSettings()
    release, opened = load_release(run), Store.open(store)
    release.model.to(resolve_device(fit.device))
    known = release.provenance.get("trained") or release.organs
    config = ClassificationConfig(fit=fit)
    reader, global_image = tuning_reader(release, config), reads_global_image(release, config)
    organs = tuple(name for name in release.organs if name in known)
    if reader.reading == "whole":
        organs = (STUDY,)
    elif only:
        organs = _named_organs(only, organs, dictionaries_of(release).organs)
    if space != "features" and not speaks(release, global_image):
        raise ModelError(
            "This model was trained without texts, so it has no space that texts are in.",
            code="not_aligned",
            fix="Ask for --space features.",
        )
    ids = tuple(opened.study_ids)
    blank = ("",) * len(ids)
    studies = Studies((Target("all", organs),), ids, np.full((len(ids), 1), np.nan, np.float32), blank, blank, ())
    cached = cached_features(opened, release, studies, config, progress)
    if not len(cached.features):
        raise StoreError(f"{store} holds none of the model's organs.", code="no_organs")
    vectors = _in_space(release, cached.features, space)
    table = _table(opened, cached, ids, organs, vectors)
    failures = tuple(asdict(failure) for failure in cached.failures)
    found = EmbeddingTable(
        str(out / TABLE), table.height, table["study_id"].n_unique(), vectors.shape[1], space, failures
    )
    _write(out, table, found, release, opened)
    return found


def _write(out: Path, table: pl.DataFrame, found: EmbeddingTable, release: Release, store: Store) -> None:
    """The table, and beside it which model and recipe it is from."""
    with atomic_path(out / TABLE) as temporary:
        table.sort("study_id", "organ").write_parquet(temporary)
    assert release.folder is not None
    about = {"model": file_checksum(release.folder / "model.safetensors"), "recipe": store.info.recipe_hash}
    write_json(out / "embeddings.json", {**found.to_json(), **about})


def _named_organs(only: Sequence[str], organs: Sequence[str], dictionary: OrganDictionary) -> tuple[str, ...]:
    found = {text: dictionary.find(text) for text in only}
    for text, organ in found.items():
        if organ is None or organ.name not in organs:
            raise VocabularyError(
                f"The model was not trained on an organ {text!r}.",
                code="unknown_organ",
                fix=f"It knows {', '.join(organs)}.",
            )
    names = {organ.name for organ in found.values() if organ is not None}
    return tuple(name for name in organs if name in names)


def _table(
    store: Store, cached: CachedFeatures, ids: Sequence[str], organs: Sequence[str], vectors: np.ndarray
) -> pl.DataFrame:
    """A row for each organ of each study: what the store knows of it, then its vector."""
    table = pl.DataFrame(
        {"study_id": [ids[row] for row in cached.bags.study], "organ": [organs[row] for row in cached.bags.organ]}
    )
    table = table.join(store.table("studies").select("study_id", "patient_id"), on="study_id", how="left")
    table = table.join(store.table("splits").select("study_id", "split"), on="study_id", how="left")
    columns = ("study_id", "organ", "volume_ml", "mean_hu", "touches_border")
    table = table.join(store.table("organs").select(columns), on=["study_id", "organ"], how="left")
    names = [f"f{number:04d}" for number in range(vectors.shape[1])]
    table = table.select("study_id", "patient_id", "split", *columns[1:])
    return table.hstack(pl.from_numpy(vectors, schema=names))


@torch.no_grad()
def _in_space(release: Release, features: torch.Tensor, space: EmbeddingSpace) -> np.ndarray:
    model = release.model
    if space == "features":
        return features.float().cpu().numpy()
    head = model.anatomy if space == "anatomy" else model.diagnosis
    if model.region_reader is None and model.image_head is not None:
        head = model.image_head
    parts = [head(features[start : start + _CHUNK]) for start in range(0, len(features), _CHUNK)]
    return torch.cat(parts).float().cpu().numpy()
