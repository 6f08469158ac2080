"""Where on a radiograph does an answer come from? How similar each patch of it is to the words.

Where the head for whole radiographs reads tokens (``model.image: tokens``) a map says what each adds to the answer:
the mean over tokens is the answer. Else a patch is asked as an organ would be: as a box of one cell of the finest
pooled level, or as a token through the head for whole radiographs, which never saw a single one in training. Models
with learned queries see no patch alone; there a map says how much each patch adds to the answer
(``inference.heatmap``).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from ctglip.data.cxr import CxrInput
from ctglip.inference.heatmap import contributions, on_pixels
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.region_readers import Regions
from ctglip.types import OrganRegion


def cxr_maps(
    model: DualEncoder,
    radiograph: CxrInput,
    row: OrganRegion,
    query: int,
    reading: str,
    axes: Float[np.ndarray, "p e"],
) -> Float[np.ndarray, "p h w"]:
    """Maps of several answers about one organ of a radiograph, which passes the encoder once.

    Args:
        row: the organ; outside of its box the map is NaN where the model reads boxes.
        query: the number of the organ's learned query.
        axes: the directions that the answers are measured along (see ``Scorer.axes``).
        reading: how the organ is read.

    Returns:
        On the pixels of the radiograph's window: differences of cosine similarities, with the positive minus with the
        negative prompts (of learned queries: contributions to that difference; of tokens of whole radiographs:
        contributions times the number of tokens).
    """
    device = next(model.parameters()).device
    images = torch.from_numpy(radiograph.image[None]).to(device)
    size = radiograph.image.shape[1:]
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
    was_training = model.training
    if was_training:
        model.eval()
    with torch.no_grad():
        patches = _tokens(model, images) if reading == "whole" else _cells(model, images, query)
    if was_training:
        model.train()
    cells = torch.from_numpy(axes).to(patches) @ patches.flatten(1)
    maps = cells.reshape(len(axes), *patches.shape[1:]).float()
    values = on_pixels(maps, size, model.encoder.anchor).cpu().numpy()
    return values if reading == "whole" else np.where(_inside(radiograph, row), values, np.nan).astype(np.float32)


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


def _inside(radiograph: CxrInput, row: OrganRegion) -> np.ndarray:
    row0, row1, column0, column1 = radiograph.boxes(np.array([row.box]))[0]
    inside = np.zeros(radiograph.image.shape[1:], bool)
    inside[int(row0) : int(np.ceil(row1)), int(column0) : int(np.ceil(column1))] = True
    return inside
