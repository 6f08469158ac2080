"""Answers from a radiograph's observations: the best of them answers, and the map is where its query looks.

PLACE (re-implementation from the abstract, arXiv 2506.10573); reading it so is this project's own.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F

from ctglip.data.cxr import CxrInput
from ctglip.models.dual_encoder import DualEncoder


@torch.no_grad()
def observation_maps(
    model: DualEncoder, radiograph: CxrInput, directions: Float[np.ndarray, "p e"]
) -> Float[np.ndarray, "p h w"]:
    """Maps of several answers about one radiograph, which passes the encoder once.

    Args:
        model: with a resampler.
        radiograph: as ``data.cxr_input.cxr_input`` gives it.
        directions: of the positive prompts of each answer (``Scorer.sides``): the query whose observation is most
            like them gives the answer.

    Returns:
        On the pixels of the radiograph's window: attention of the answering query, 1 where it is spread evenly.
    """
    was_training = model.training
    model.eval()
    assert model.resampler is not None
    found = model.resampler(model.encode_image(torch.from_numpy(radiograph.image[None]).to(next(model.parameters()))))
    vectors = model.resampler.visual(found.tokens)[0]
    answering = (torch.from_numpy(directions).to(vectors) @ vectors.T).argmax(1)
    heat = _attention_map(found.attention, answering, radiograph.image.shape[1:])
    model.train(was_training)
    return heat.cpu().numpy().astype(np.float32)


def _attention_map(where: tuple[torch.Tensor, ...], answering: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """The attention of some queries at all levels: each level's share for each pixel, added up, times the pixels."""
    found = torch.zeros(len(answering), *size, device=answering.device)
    for level in where:
        share = level[:, answering].float() * math.prod(level.shape[2:])
        found += F.interpolate(share, size=list(size), mode="bilinear")[0]
    return found
