"""Organ crops to embeddings. Each crop passes the encoder once, however many questions are asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ctglip.data.cache import CropCache
from ctglip.data.crops import CropSettings
from ctglip.models.towers import OrganTextModel

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class OrganEmbeddings:
    """Unit vectors of M organs, float32: ``anatomy`` says which organ, ``diagnosis`` what it shows."""

    anatomy: Float[np.ndarray, "m e"]
    diagnosis: Float[np.ndarray, "m e"]


@torch.no_grad()
def encode_crops(
    model: OrganTextModel,
    cache: CropCache,
    settings: CropSettings,
    batch: int = 64,
    progress: Progress | None = None,
) -> OrganEmbeddings:
    """Embed all crops of a cache.

    Args:
        model: put into evaluation mode for the time, left as it was.
        cache: the crops.
        settings: how they are rendered (a control renders the same crops in another way).
        batch: crops at a time.
        progress: called with (crops done, crops).
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    width = model.settings.embedding_dim
    anatomy = np.empty((len(cache), width), dtype=np.float32)
    diagnosis = np.empty((len(cache), width), dtype=np.float32)
    for start in range(0, len(cache), batch):
        rows = np.arange(start, min(start + batch, len(cache)))
        images = torch.from_numpy(cache.images(rows, settings)).to(device)
        masks = torch.from_numpy(cache.masks(rows)).to(device)
        features = model.organ_features(images, masks, torch.from_numpy(cache.size[rows]).to(device))
        anatomy[rows] = model.anatomy(features).float().cpu().numpy()
        diagnosis[rows] = model.diagnosis(features).float().cpu().numpy()
        if progress:
            progress(int(rows[-1]) + 1, len(cache))
    model.train(was_training)
    return OrganEmbeddings(anatomy, diagnosis)
