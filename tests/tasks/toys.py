"""Bags of made-up organs with a planted truth, and studies around them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from ctglip.tasks.base import Initialization
from ctglip.tasks.classification import Classification, standardise
from ctglip.tasks.head import BagHead
from ctglip.tasks.inputs import CachedFeatures
from ctglip.tasks.network import ClassificationNetwork
from ctglip.tasks.studies import Bags, Studies
from ctglip.tasks.targets import Target

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right")


def planted(
    targets: tuple[Target, ...], studies: int = 120, dim: int = 8, carrier: int = 2, seed: int = 0
) -> tuple[Studies, CachedFeatures]:
    """Four organs a study; the first feature of the carrier says the answer of every target, all else is noise.

    The other organs' first features vary as much, so the mean over organs hides most of it.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(studies, len(ORGANS), dim)).astype(np.float32)
    features[:, :, 0] *= 3
    truth = features[:, carrier, 0]
    columns = []
    for target in targets:
        if target.classes:
            edges = np.quantile(truth, np.linspace(0, 1, len(target.classes) + 1)[1:-1])
            columns.append(np.digitize(truth, edges))
        else:
            columns.append(truth > 0.5)
    splits = np.where(np.arange(studies) % 5 == 3, "val", np.where(np.arange(studies) % 5 == 4, "test", "train"))
    names = tuple(f"s{number:03d}" for number in range(studies))
    bags = Bags(np.repeat(np.arange(studies), len(ORGANS)), np.tile(np.arange(len(ORGANS)), studies), ORGANS)
    values = np.stack(columns, axis=1).astype(np.float32)
    found = Studies(targets, names, values, tuple(f"p{name}" for name in names), tuple(splits.tolist()), ())
    return found, CachedFeatures(bags, torch.from_numpy(features.reshape(-1, dim)))


TOY = Initialization("toy", SimpleNamespace(model=torch.nn.Linear(1, 1)), False, "probe")  # type: ignore[arg-type]


class Planted(Classification):
    """A classification without a model: the head reads cached features."""

    dropout = 0.0

    def network(self, initialization: Initialization, rows: np.ndarray) -> ClassificationNetwork:
        head = BagHead(8, self.studies.targets, ORGANS, 16, self.dropout)
        network = ClassificationNetwork(torch.nn.Identity(), head, "raw", False)  # type: ignore[arg-type]
        standardise(network, self.inputs["toy"], rows)
        return network
