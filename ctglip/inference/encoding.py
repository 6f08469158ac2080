"""Organ crops to embeddings. Each crop passes the encoder once, however many questions are asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ctglip.data.cache import CropCache
from ctglip.data.crops import CropSettings
from ctglip.data.stored import StoredCrops
from ctglip.models.dual_encoder import OrganTextModel


@dataclass(frozen=True)
class OrganEmbeddings:
    """What a model makes of M organs, float32.

    Attributes:
        features: raw, as the heads read them: for probes and fine-tuning.
        anatomy: unit vectors that say which organ it is; zeros of a model without that head.
        diagnosis: unit vectors that say what it shows; several of each organ where a radiograph's observations are
        read.
    """

    features: Float[np.ndarray, "m d"]
    anatomy: Float[np.ndarray, "m e"]
    diagnosis: Float[np.ndarray, "m *q e"]

    def __len__(self) -> int:
        return len(self.features)


def no_embeddings(model: OrganTextModel, count: int = 0) -> OrganEmbeddings:
    """Room for the embeddings of some organs."""
    wide, narrow = model.settings.dim, model.settings.embedding_dim
    return OrganEmbeddings(*(np.zeros((count, width), dtype=np.float32) for width in (wide, narrow, narrow)))


@torch.no_grad()
def encode_crops(
    model: OrganTextModel,
    cache: CropCache | StoredCrops,
    settings: CropSettings,
    batch: int = 64,
    organs: Sequence[str] = (),
) -> OrganEmbeddings:
    """Embed all crops of a cache.

    Args:
        model: put into evaluation mode for the time, left as it was.
        cache: the crops.
        settings: how they are rendered (a control renders the same crops in another way).
        batch: crops at a time.
        organs: names in the order of the model's organ queries; for models that pool by attention.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    out = no_embeddings(model, len(cache))
    queries = model.settings.pooling == "attention"
    ids = torch.tensor([organs.index(instance.organ) for instance in cache.instances] if queries else [])
    for start in range(0, len(cache), batch):
        rows = np.arange(start, min(start + batch, len(cache)))
        some = cache.take(rows)
        drawn = some.stack(settings).to(device)
        sizes = torch.from_numpy(some.size).to(device)
        asked = ids[rows].to(device) if queries else None
        features = model.organ_features(drawn.image, drawn.mask, sizes, asked)
        out.features[rows] = features.float().cpu().numpy()
        out.diagnosis[rows] = model.diagnosis(features).float().cpu().numpy()
        if model.settings.anatomy:
            out.anatomy[rows] = model.anatomy(features).float().cpu().numpy()
    model.train(was_training)
    return out
