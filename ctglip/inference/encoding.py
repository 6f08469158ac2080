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
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.region_readers import Regions

PARTS = ("features", "anatomy", "diagnosis")


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


def no_embeddings(model: DualEncoder, count: int = 0) -> OrganEmbeddings:
    """Room for the embeddings of some organs."""
    wide, narrow = model.feature_dim, model.settings.embedding_dim
    return OrganEmbeddings(*(np.zeros((count, width), dtype=np.float32) for width in (wide, narrow, narrow)))


def concatenated(model: DualEncoder, parts: Sequence[OrganEmbeddings]) -> OrganEmbeddings:
    """Several embeddings one after the other."""
    several = parts or [no_embeddings(model)]
    return OrganEmbeddings(*(np.concatenate([getattr(part, name) for part in several]) for name in PARTS))


@torch.no_grad()
def encode_crops(
    model: DualEncoder,
    cache: CropCache | StoredCrops,
    settings: CropSettings,
    batch: int = 64,
) -> OrganEmbeddings:
    """Embed all crops of a cache.

    Args:
        model: put into evaluation mode for the time, left as it was.
        cache: the crops.
        settings: how they are rendered (a control renders the same crops in another way).
        batch: crops at a time.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    out = no_embeddings(model, len(cache))
    for start in range(0, len(cache), batch):
        rows = np.arange(start, min(start + batch, len(cache)))
        some = cache.take(rows)
        crop_stack = some.stack(settings).to(device)
        regions = Regions(mask=crop_stack.mask, size=torch.from_numpy(some.size).to(device))
        features = model(crop_stack.image, regions)
        out.features[rows] = features.float().cpu().numpy()
        out.diagnosis[rows] = model.diagnosis(features).float().cpu().numpy()
        if model.anatomy_head is not None:
            out.anatomy[rows] = model.anatomy(features).float().cpu().numpy()
    model.train(was_training)
    return out
