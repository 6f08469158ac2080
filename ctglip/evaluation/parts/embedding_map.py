"""The organs of a split on a plane, organs that are alike to the model side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.manifold import TSNE

from ctglip.evaluation.context import Context
from ctglip.evaluation.results import PartResult
from ctglip.parallel import one_thread

MOST_ORGANS = 400
FEWEST_ORGANS = 10


@dataclass(frozen=True)
class MappedOrgan:
    """One organ of one study on the map."""

    study_id: str
    organ: str
    x: float
    y: float


@dataclass(frozen=True)
class EmbeddingMap(PartResult):
    """The map; the page draws it."""

    organs: tuple[MappedOrgan, ...]


def embedding_map(context: Context) -> EmbeddingMap | None:
    """t-SNE (van der Maaten and Hinton 2008) of the diagnosis vectors of at most 400 organs, drawn at random."""
    instances, seed = context.split.instances, context.config.seed
    if len(instances) < FEWEST_ORGANS:
        context.notes.append(f"There is no map: it takes {FEWEST_ORGANS} organs.")
        return None
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(instances), min(MOST_ORGANS, len(instances)), replace=False))
    vectors = context.split.embeddings.diagnosis[rows].reshape(len(rows), -1)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=500)
    with one_thread():
        plane = tsne.fit_transform(vectors)
    return EmbeddingMap(
        tuple(
            MappedOrgan(instances[row].study_id, instances[row].organ, round(float(x), 2), round(float(y), 2))
            for row, (x, y) in zip(rows, plane, strict=True)
        )
    )
