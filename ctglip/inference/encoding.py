"""What a model makes of the organs of images. Each image passes the encoder once, however many questions are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.region_readers import Regions

PARTS = ("features", "anatomy", "diagnosis")
WHOLE_INPUTS = {"images", "study_index"}
"""What is read of images where no organ is looked for."""
Inputs = Mapping[str, Tensor]
"""``images``, and the fields of ``Regions`` that the model reads."""


@dataclass(frozen=True)
class OrganEmbeddings:
    """What a model makes of M organs, float32.

    Attributes:
        features: raw, as the heads read them: for probes and fine-tuning.
        anatomy: unit vectors that say which organ it is; those of ``diagnosis`` of a model without that head.
        diagnosis: unit vectors that say what it shows; several of each organ where a radiograph's observations are
            read.
    """

    features: Float[np.ndarray, "m d"]
    anatomy: Float[np.ndarray, "m e"]
    diagnosis: Float[np.ndarray, "m *q e"]

    def __len__(self) -> int:
        return len(self.features)

    def spread(self, there: np.ndarray) -> OrganEmbeddings:
        """The same with NaN between them, where ``there`` is False."""
        if there.all():
            return self
        parts = [np.full((len(there), *getattr(self, name).shape[1:]), np.nan, np.float32) for name in PARTS]
        for part, name in zip(parts, PARTS, strict=True):
            part[there] = getattr(self, name)
        return OrganEmbeddings(*parts)


def concatenated(model: DualEncoder, parts: Sequence[OrganEmbeddings]) -> OrganEmbeddings:
    """Several embeddings one after the other."""
    if not parts:
        widths = (model.feature_dim, model.settings.embedding_dim, model.settings.embedding_dim)
        return OrganEmbeddings(*(np.zeros((0, width), dtype=np.float32) for width in widths))
    return OrganEmbeddings(*(np.concatenate([getattr(part, name) for part in parts]) for name in PARTS))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """For a while the network is in evaluation mode, and no gradient is kept."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def read_organs(model: DualEncoder, inputs: Inputs) -> Float[Tensor, "m d"]:
    """Raw features of organs; where no organ is looked for, each gets its whole image's."""
    if inputs.keys() == WHOLE_INPUTS:
        return model.image_features(inputs["images"])[inputs["study_index"]]
    return model(inputs["images"], Regions(**{name: value for name, value in inputs.items() if name != "images"}))


def diagnosis_of(model: DualEncoder, features: Float[Tensor, "m d"], inputs: Inputs) -> Float[Tensor, "m e"]:
    """The vectors of ``read_organs``'s features that meet findings."""
    return (model.global_head if inputs.keys() == WHOLE_INPUTS else model.diagnosis)(features)


def encode_inputs(model: DualEncoder, inputs: Inputs, observations: bool = False) -> OrganEmbeddings:
    """Embed the organs of a batch.

    Args:
        observations: each organ's ``diagnosis`` is all that the model's resampler observes of its image, ``[m, q, e]``.
    """
    if observations:
        assert model.resampler is not None
        vision, owner = model.encode_image(inputs["images"]), inputs["study_index"]
        observed = model.resampler.visual(model.resampler(vision).tokens)
        found = vision.pooled[owner], observed.mean(1)[owner], observed[owner]
    else:
        features = read_organs(model, inputs)
        diagnosis = diagnosis_of(model, features, inputs)
        plain = model.anatomy_head is None or inputs.keys() == WHOLE_INPUTS
        found = features, diagnosis if plain else model.anatomy(features), diagnosis
    return OrganEmbeddings(*(value.float().cpu().numpy() for value in found))
