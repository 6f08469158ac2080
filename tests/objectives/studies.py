"""Studies made up for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ctglip.data.samples import StudySample


def without_organs(study_id: str, images: Float[np.ndarray, "v c *s"], report: int) -> StudySample:
    """A study of which the report alone counts."""
    none = np.zeros(0, np.int64)
    boxes = np.zeros((len(images), 0, 2 * (images.ndim - 2)), np.float32)
    size = np.zeros((0, 4), np.float32)
    return StudySample(study_id, images, None, boxes, size, none, none, none, none.reshape(0, 0), report=report)


def image_samples(dims: int, count: int, images: Sequence[np.ndarray] | None = None) -> list[StudySample]:
    """Images of two channels and sides of 16, noise where none are given; no texts."""
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((2, *[16] * dims)) for _ in range(count)] if images is None else images
    return [without_organs(f"s{i}", images[i][None].astype(np.float32), -1) for i in range(count)]
