"""Answers from a radiograph's observations: the best of them answers, and the map is where its query looks.

PLACE (re-implementation from the abstract, arXiv 2506.10573); reading it so is this project's own.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F

from ctglip.inference.encoding import evaluating
from ctglip.models.dual_encoder import DualEncoder


def observation_maps(
    model: DualEncoder, image: Float[np.ndarray, "1 h w"], directions: Float[np.ndarray, "p e"]
) -> Float[np.ndarray, "p h w"]:
    """Maps of several answers about one radiograph, which passes the encoder once.

    Args:
        model: with a resampler.
        image: the window of the radiograph that the model sees.
        directions: of the positive prompts of each answer (``Scorer.sides``): the query whose observation is most
            like them gives the answer.

    Returns:
        On the pixels of the radiograph's window: attention of the answering query, 1 where it is spread evenly.
    """
    assert model.resampler is not None
    images = torch.from_numpy(image[None]).to(next(model.parameters()))
    with evaluating(model):
        found = model.resampler(model.encode_image(images))
        vectors = model.resampler.visual(found.tokens)[0]
        answering = (torch.from_numpy(directions).to(vectors) @ vectors.T).argmax(1)
        heat = _attention_map(found.attention, answering, image.shape[1:])
    return heat.cpu().numpy().astype(np.float32)


def _attention_map(where: tuple[torch.Tensor, ...], answering: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """The attention of some queries at all levels: each level's share for each pixel, added up, times the pixels."""
    found = torch.zeros(len(answering), *size, device=answering.device)
    for level in where:
        share = level[:, answering].float() * math.prod(level.shape[2:])
        found += F.interpolate(share, size=list(size), mode="bilinear")[0]
    return found
