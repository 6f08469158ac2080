"""Scans with a bright thing at a drawn place, which is called liver, and faint spots in some of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctglip.ct.standardize import standardize
from ctglip.store.format import StoreInfo
from ctglip.store.splits import SplitSettings, assign_splits
from ctglip.store.study import StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import LabelMap, LesionAnnotation, Scan, box_around
from tests.training.tiny import ORGANS, RECIPE

SIDE = 20


def write_blobs(path: Path, scans: int, seed: int = 0, permuted: bool = False) -> Store:
    """A store of scans of 20^3 voxels of 6 mm; half of them have one or two spots, drawn as liver metastases.

    Args:
        permuted: each scan has the masks of another one.
    """
    info = StoreInfo(recipe=RECIPE.model_dump(mode="json"), recipe_hash=RECIPE.hash, labels=ORGANS.label_names())
    store = create_store(path, info)
    rng, made = np.random.default_rng(seed), []
    for number in range(scans):
        hu, labels, spots = (
            np.full((SIDE,) * 3, 20.0),
            np.zeros((SIDE,) * 3, np.uint8),
            np.zeros((SIDE,) * 3, np.uint8),
        )
        hu[0], hu[-1], hu[:, 0], hu[:, -1] = -1000, -1000, -1000, -1000
        corner, edge = rng.integers(1, 10, 3), rng.integers(7, 9)
        inside = tuple(slice(low, low + edge) for low in corner)
        hu[inside], labels[inside] = 130, ORGANS["liver"].label or 0
        for spot in range(number % 3):
            at = tuple(slice(low, low + 2) for low in corner + np.array([1, 1, 1 + 3 * spot]))
            hu[at], spots[at] = 230, spot + 1
        made.append((np.rint(hu + rng.normal(0, 8, hu.shape)).astype(np.int16), labels, spots))
    for number in range(scans):
        hu, (_, labels, spots) = made[number][0], made[(number + 3) % scans if permuted else number]
        affine = np.diag([6.0, 6.0, 6.0, 1.0])
        standardized = standardize(Scan(hu, affine), LabelMap(labels, affine), RECIPE, ORGANS)
        lesions = tuple(
            LesionAnnotation("liver", "liver_metastasis", "spot", box_around(spots == one) or (), 0, int(one))
            for one in range(1, spots.max() + 1)
        )
        name = f"b{number:03d}"
        record = StudyRecord(name, f"p{number:03d}", standardized, name, RECIPE.hash, lesions=lesions,
                             lesion_layers=(spots,) if lesions else ())  # fmt: skip
        write_study(path, record)
    compact(store)
    assign_splits(store, SplitSettings(fractions=(0.6, 0.2, 0.2)))
    return Store.open(path)
