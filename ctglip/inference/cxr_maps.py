"""Where on a radiograph does an answer come from? How similar each patch of it is to the words.

Where the head for whole radiographs reads tokens (``model.image: tokens``) a map says what each adds to the answer:
the mean over tokens is the answer. Else a patch is asked as an organ would be: as a box of one cell of the finest
pooled level, or as a token through the head for whole radiographs, which never saw a single one in training. Models
with learned queries see no patch alone; there a map says how much each patch adds to the answer
(``inference.heatmap``). Of a radiograph read by its observations the best one answers, and the map is where its query
looks (PLACE, re-implemented from the abstract, arXiv 2506.10573; reading it so is this project's own).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F

from ctglip.inference.encoding import evaluating
from ctglip.inference.heatmap import contributions, on_pixels
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.region_readers import Regions


def cxr_maps(
    model: DualEncoder,
    image: Float[np.ndarray, "1 h w"],
    box: Float[np.ndarray, " 4"],
    query: int,
    reading: str,
    axes: Float[np.ndarray, "p e"],
) -> Float[np.ndarray, "p h w"]:
    """Maps of several answers about one organ of a radiograph, which passes the encoder once.

    Args:
        image: the window of the radiograph that the model sees.
        box: of the organ, in pixels of the window; outside of it the map is NaN where the model reads boxes.
        query: the number of the organ's learned query.
        axes: the directions that the answers are measured along (see ``Scorer.axes``).
        reading: how the organ is read.

    Returns:
        On the pixels of the radiograph's window: differences of cosine similarities, with the positive minus with the
        negative prompts (of learned queries: contributions to that difference; of tokens of whole radiographs:
        contributions times the number of tokens).
    """
    device = next(model.parameters()).device
    images, size = torch.from_numpy(image[None]).to(device), image.shape[1:]
    if reading == "query":
        ids, first = torch.tensor([query], device=device), torch.zeros(1, dtype=torch.long, device=device)
        blank = torch.zeros(1, 4, device=device)
        found = contributions(
            model,
            lambda: model.diagnosis(model(images, Regions(size=blank, organ_id=ids, study_index=first))),
            [(0, axis) for axis in axes],
            size,
        )
        return np.stack(list(found)).astype(np.float32)
    with evaluating(model):
        patches = _tokens(model, images) if reading == "whole" else _cells(model, images, query)
    cells = torch.from_numpy(axes).to(patches) @ patches.flatten(1)
    maps = cells.reshape(len(axes), *patches.shape[1:]).float()
    values = on_pixels(maps, size, model.encoder.anchor).cpu().numpy()
    if reading == "whole":
        return values
    inside = np.zeros(size, bool)
    inside[int(box[0]) : int(np.ceil(box[1])), int(box[2]) : int(np.ceil(box[3]))] = True
    return np.where(inside, values, np.nan).astype(np.float32)


def _tokens(model: DualEncoder, images: torch.Tensor) -> Float[torch.Tensor, "e h w"]:
    """What each token adds to the radiograph's vector, where the model projects tokens; each as if it were a whole
    radiograph."""
    assert model.image_head is not None
    return model.image_head.contributions(model.encode_image(images))[0]


def _cells(model: DualEncoder, images: torch.Tensor, query: int) -> Float[torch.Tensor, "e h w"]:
    """Each cell of the finest pooled level as if it were an organ's box."""
    vision = model.encode_image(images)
    levels = [vision.levels[level] for level in model.read_levels]
    rows, columns = max((tuple(level.shape[2:]) for level in levels), key=lambda grid: grid[0] * grid[1])
    cell_height, cell_width = images.shape[2] / rows, images.shape[3] / columns
    position = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    boxes = torch.stack(
        [
            position[:, 0] * cell_height,
            (position[:, 0] + 1) * cell_height,
            position[:, 1] * cell_width,
            (position[:, 1] + 1) * cell_width,
        ],
        dim=1,
    ).to(images.device)
    owner = torch.zeros(len(boxes), dtype=torch.long, device=images.device)
    blank = torch.zeros(len(boxes), 4, device=images.device)
    features = model(images, Regions(size=blank, organ_id=owner + query, study_index=owner, boxes=boxes), vision)
    return model.diagnosis(features).T.unflatten(1, (rows, columns))


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
