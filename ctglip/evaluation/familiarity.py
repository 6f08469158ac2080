"""How far organs may lie from those of training: means and covariance of training, limits of the validation split."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.covariance import LedoitWolf

from ctglip.data.organs import studies_of
from ctglip.errors import StoreError
from ctglip.inference.familiarity import Familiarity, FamiliaritySettings, HURange, OrganRange
from ctglip.inference.feature_cache import OrganFeatures, organ_features_of
from ctglip.inference.readers import OrganReader
from ctglip.models.release import Release, Statistics
from ctglip.store.tables import Store
from ctglip.types import OrganRow

SHARE = 0.99
"""Of the validation organs, inside the limits."""
MOST_STUDIES = 100
"""Training studies that are encoded."""
LEAST_OF_ORGAN = 5
"""Organs of one name in either split, to measure it."""
LEAST = 20
"""Organs of the validation split, to measure anything."""
_PRIOR = 10.0
"""Degrees of freedom that the spread of all organs counts with in that of one."""
_LEAST_HU = 1.0

Measured = Mapping[str, Float[np.ndarray, " n"]]
"""Organ to the distances of the validation split."""


def familiarity_studies(store: Store) -> list[str]:
    """Training studies whose organs are encoded to measure how far others lie from them: none without the split."""
    try:
        return studies_of(store, "train", MOST_STUDIES)
    except StoreError:
        return []


def encode_anew(
    store: Store,
    release: Release,
    study_ids: Sequence[str],
    organs: Sequence[str],
    threads: int = 2,
    reader: OrganReader[Any] | None = None,
) -> OrganFeatures:
    """Organs of some studies by the model as it is now; nothing of it is kept. ``reader`` reads them in place of the
    model's own."""
    with tempfile.TemporaryDirectory(prefix="ctglip-familiarity-") as folder:
        return organ_features_of(store, release, study_ids, organs, folder=Path(folder), threads=threads, reader=reader)


def as_statistics(found: Familiarity) -> Statistics:
    """For ``Release.familiarity``."""
    arrays = {"means": found.means, "whiten": found.whiten}
    stored = {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in arrays.items()}
    return Statistics(found.about.model_dump(mode="json"), stored)


def fit_familiarity(train: OrganFeatures, val: OrganFeatures, reading: str) -> Familiarity | None:
    """Means, one covariance (shrunk by Ledoit and Wolf's rule) and HU of ``train``; limits from ``val``.

    Args:
        train, val: features of the two splits.
        reading: how organs were read.

    Returns:
        None where ``val`` has too few organs.
    """
    owners = [np.array([instance.organ for instance in part.instances]) for part in (train, val)]
    names = [
        name
        for name in dict.fromkeys(owners[0].tolist())
        if all((owner == name).sum() >= LEAST_OF_ORGAN for owner in owners)
    ]
    if not names or sum(int((owners[1] == name).sum()) for name in names) < LEAST:
        return None
    features = train.embeddings.features.astype(np.float64)
    means = np.stack([features[owners[0] == name].mean(0) for name in names])
    off = np.concatenate([features[owners[0] == name] - mean for name, mean in zip(names, means, strict=True)])
    whiten = _whitener(off)
    blank = {name: OrganRange(row=row, training=0, validation=0, limit=1.0) for row, name in enumerate(names)}
    unlimited = Familiarity(FamiliaritySettings(share=SHARE, reading=reading, organs=blank), means, whiten)
    distances = {name: unlimited.distances(name, val.embeddings.features[owners[1] == name]) for name in names}
    limits, share = limits_of(distances)
    measured = all(isinstance(instance.row, OrganRow) for instance in (*train.instances, *val.instances))
    hu = _hu_ranges(names, train, val, owners) if measured else {}
    ranges = {
        name: OrganRange(
            row=row,
            training=int((owners[0] == name).sum()),
            validation=int((owners[1] == name).sum()),
            limit=limits[name],
            hu=hu.get(name),
        )
        for row, name in enumerate(names)
    }
    return Familiarity(FamiliaritySettings(share=share, reading=reading, organs=ranges), means, whiten)


def limits_of(distances: Measured) -> tuple[dict[str, float], float]:
    """For each organ the distance that ``SHARE`` of new organs keep, and the share that so many organs support.

    Few organs of one name tell little about their 99th percentile. Logarithms of distances are therefore brought to
    a common scale, by each organ's mean and by its spread (drawn to the spread of all), and the percentile is that of
    all organs together: of n values the ``ceil((n + 1) SHARE)``-th smallest, which a new one keeps with that
    probability.
    """
    logs = {name: np.log(np.maximum(values, 1e-12)) for name, values in distances.items()}
    means = {name: float(values.mean()) for name, values in logs.items()}
    squares = {name: float(((values - means[name]) ** 2).sum()) for name, values in logs.items()}
    count = sum(len(values) for values in logs.values())
    common = sum(squares.values()) / max(count - len(logs), 1)
    spreads = {
        name: np.sqrt((squares[name] + _PRIOR * common) / (len(values) - 1 + _PRIOR)) for name, values in logs.items()
    }
    scaled = np.concatenate(
        [
            (values - means[name]) / max(spreads[name] * np.sqrt(1 - 1 / len(values)), 1e-12)
            for name, values in logs.items()
        ]
    )
    share = min(SHARE, count / (count + 1))
    rank = min(int(np.ceil((count + 1) * share - 1e-9)), count)
    reach = float(np.sort(scaled)[rank - 1])
    found = {
        name: float(np.exp(means[name] + reach * spreads[name] * np.sqrt(1 + 1 / len(values))))
        for name, values in logs.items()
    }
    return found, share


def _whitener(off: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Makes the distance of a training organ 1 on average, squared."""
    covariance = LedoitWolf(assume_centered=True).fit(off).covariance_
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 1e-6 * max(float(values.max()), 1e-12))
    return vectors / np.sqrt(values * len(values))


def _hu_ranges(
    names: Iterable[str], train: OrganFeatures, val: OrganFeatures, owners: Sequence[np.ndarray]
) -> dict[str, HURange]:
    ranges: dict[str, HURange] = {}
    distances: dict[str, np.ndarray] = {}
    for name in names:
        training, validation = (
            [part.instances[int(row)].row for row in np.flatnonzero(owner == name)]
            for part, owner in zip((train, val), owners, strict=True)
        )
        means = [row.mean_hu for row in training]
        spreads = [row.sd_hu for row in training if row.sd_hu is not None]
        complete = len(spreads) == len(training)
        ranges[name] = HURange(
            mean=float(np.mean(means)),
            mean_sd=max(float(np.std(means, ddof=1)), _LEAST_HU),
            spread=float(np.mean(spreads)) if complete else None,
            spread_sd=max(float(np.std(spreads, ddof=1)), _LEAST_HU) if complete else 1.0,
            limit=1.0,
        )
        distances[name] = np.array([ranges[name].distance(row.mean_hu, row.sd_hu) for row in validation])
    limits, _ = limits_of(distances)
    return {name: found.model_copy(update={"limit": limits[name]}) for name, found in ranges.items()}
