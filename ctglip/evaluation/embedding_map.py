"""The organs of a split on a plane, organs that are alike to the model side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.manifold import TSNE

from ctglip.evaluation.context import Context
from ctglip.parallel import one_thread

MOST = 400
LEAST = 10


@dataclass(frozen=True)
class MappedOrgan:
    """One organ of one study on the map."""

    study_id: str
    organ: str
    x: float
    y: float


def embedding_map(context: Context) -> tuple[MappedOrgan, ...]:
    """t-SNE (van der Maaten and Hinton 2008) of the diagnosis vectors of at most 400 organs, drawn at random."""
    instances = context.judged.instances
    if len(instances) < LEAST:
        return ()
    rng = np.random.default_rng(context.config.seed)
    rows = np.sort(rng.choice(len(instances), min(MOST, len(instances)), replace=False))
    vectors = context.judged.embeddings.diagnosis[rows].reshape(len(rows), -1)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=context.config.seed, max_iter=500)
    with one_thread():
        flat = plane.fit_transform(vectors)
    return tuple(
        MappedOrgan(instances[row].study_id, instances[row].organ, round(float(x), 2), round(float(y), 2))
        for row, (x, y) in zip(rows, flat, strict=True)
    )
