"""From feature maps to one vector for each organ: by mask, by label map, by box, by attention.

Organs are ragged: M rows, ``study_index`` says whose map each row reads (nothing is looped over, none is fine).
Coverage is soft: the part of each feature voxel that an organ fills, so an organ smaller than a voxel is still read.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

BoxPooling = Literal["area", "roi_align"]


def coverage(mask: Float[Tensor, "m k *S"], grid: tuple[int, ...]) -> Float[Tensor, "m k *s"]:
    """The part of each feature voxel that masks cover, 0 to 1 (area-weighted, so nothing small is lost).

    A mask that is on the features' grid already is its own coverage.
    """
    return mask if tuple(mask.shape[2:]) == grid else F.interpolate(mask, size=list(grid), mode="area")


def masked_pool(features: Float[Tensor, "m c *s"], mask: Float[Tensor, "m 1 *S"]) -> Float[Tensor, "m c"]:
    """Average of a feature map over a mask, weighted by how much of each feature voxel the mask covers.

    Args:
        features: one map for each organ.
        mask: the organ's voxels on the image's grid or its coverage on the features' own, 0 to 1.

    Returns:
        ``[m, c]``; where a mask is empty, the mean over the whole map.
    """
    weights = coverage(mask.to(features.dtype), tuple(features.shape[2:])).flatten(1)
    return (features.flatten(2) * _shares(weights)[:, None]).sum(-1)


def label_coverage(labels: Int[Tensor, "b ..."], count: int, grid: tuple[int, ...]) -> Float[Tensor, "b l n"]:
    """How much of each feature voxel each label fills.

    Args:
        labels: label maps, numbers below ``count``.
        count: number of labels L, the background's 0 included.
        grid: spatial shape of the features; N is its product.
    """
    position = torch.zeros(1, dtype=torch.long, device=labels.device)
    for size, cells in zip(labels.shape[1:], grid, strict=True):
        steps = torch.arange(size, device=labels.device) * cells // size
        position = position[..., None] * cells + steps
    cells, studies = math.prod(grid), len(labels)
    rows = labels.long() + count * torch.arange(studies, device=labels.device).view(-1, *[1] * len(grid))
    filled = torch.bincount((rows * cells + position).flatten(), minlength=studies * count * cells)
    filled = filled.view(studies, count, cells).float()
    return filled / filled.sum(1, keepdim=True).clamp(min=1)


def label_shares(labels: Num[Tensor, "b ..."], count: int, grid: tuple[int, ...]) -> Float[Tensor, "b l n"]:
    """``label_coverage`` of label maps; or of what it gave on a grid ``[b, l, *s]`` whose cells these are groups of."""
    if labels.is_floating_point():
        return coverage(labels, grid).flatten(2)
    return label_coverage(labels.long().where(labels < count, 0), count, grid)


def label_weights(
    filled: Float[Tensor, "b l n"], member: Float[Tensor, "m l"], study_index: Int[Tensor, " m"]
) -> Float[Tensor, "m n"]:
    """How much of each feature voxel of its study each organ fills.

    Args:
        filled: how much each label fills (``label_shares``).
        member: which labels make up each organ, 0 or 1.
        study_index: the study of each organ.
    """
    slot, most = organ_slots(study_index, len(filled))
    padded = filled.new_zeros(len(filled), most, filled.shape[1])
    padded[study_index, slot] = member.to(filled.dtype)
    return (padded @ filled)[study_index, slot]


def box_coverage(boxes: Float[Tensor, "m e"], grid: tuple[int, ...]) -> Float[Tensor, "m n"]:
    """How much of each feature voxel a box fills.

    Args:
        boxes: half-open ``(x0, x1, y0, y1, ...)`` in feature voxels, fractions allowed.
        grid: spatial shape of the features; N is its product.
    """
    filled = boxes.new_ones(len(boxes), 1)
    for axis, cells in enumerate(grid):
        low, high = boxes[:, 2 * axis, None], boxes[:, 2 * axis + 1, None]
        start = torch.arange(cells, device=boxes.device, dtype=boxes.dtype)
        side = (torch.minimum(high, start + 1) - torch.maximum(low, start)).clamp(min=0)
        filled = (filled[:, :, None] * side[:, None, :]).flatten(1)
    return filled


def pool_organs(
    features: Float[Tensor, "b c *s"], weights: Float[Tensor, "m n"], study_index: Int[Tensor, " m"]
) -> Float[Tensor, "m c"]:
    """Weighted mean of each organ's study's feature map.

    Args:
        features: one map for each study.
        weights: coverage of each organ; a row of zeros reads the whole map.
        study_index: the study of each organ, 0 .. b - 1.
    """
    slot, most = organ_slots(study_index, len(features))
    padded = features.new_zeros(len(features), most, weights.shape[1])
    padded[study_index, slot] = _shares(weights.to(features.dtype))
    return (padded @ features.flatten(2).transpose(1, 2))[study_index, slot]


def pool_labels(
    features: Float[Tensor, "b c *s"],
    labels: Num[Tensor, "b ..."],
    member: Float[Tensor, "m l"],
    study_index: Int[Tensor, " m"],
) -> Float[Tensor, "m c"]:
    """Mean of the feature map over each organ of a label map.

    Args:
        features: one map for each study.
        labels: label maps of the images, where numbers that no organ has count as background; or the share of each
            cell that each label fills (``label_shares``).
        member: which labels make up each organ (a group has several), 0 or 1.
        study_index: the study of each organ.

    Returns:
        ``[m, c]``; the mean over the whole map for an organ that is not there.
    """
    grid, count = tuple(features.shape[2:]), member.shape[1]
    flat = features.flatten(2)
    filled = label_shares(labels, count, grid).to(features.dtype)
    sums, sizes = flat @ filled.transpose(1, 2), filled.sum(2)
    member = member.to(features.dtype)
    slot, most = organ_slots(study_index, len(features))
    padded = member.new_zeros(len(features), most, count)
    padded[study_index, slot] = member
    total = (padded @ sums.transpose(1, 2))[study_index, slot]
    size = (sizes[study_index] * member).sum(1, keepdim=True)
    return torch.where(size > 0, total / size.clamp(min=1e-12), flat.mean(2)[study_index])


def pool_boxes(
    features: Float[Tensor, "b c *s"],
    boxes: Float[Tensor, "m e"],
    study_index: Int[Tensor, " m"],
    how: BoxPooling = "area",
) -> Float[Tensor, "m c"]:
    """Mean of the feature map over each box.

    Args:
        features: one map for each study, 2D or 3D.
        boxes: half-open ``(x0, x1, y0, y1, ...)`` in feature voxels (radiographs: rows first).
        study_index: the study of each box.
        how: exact area weights, or torchvision's RoIAlign to one cell, 2D only (ASG).
    """
    return pool_organs(features, box_weights(boxes.to(features.dtype), tuple(features.shape[2:]), how), study_index)


def box_weights(boxes: Float[Tensor, "m e"], grid: tuple[int, ...], how: BoxPooling = "area") -> Float[Tensor, "m n"]:
    """How much each feature voxel counts in the mean over a box, up to a factor for each box.

    Args:
        boxes: half-open ``(x0, x1, y0, y1, ...)`` in feature voxels, fractions allowed.
        grid: spatial shape of the features; N is its product.
        how: as for ``pool_boxes``. RoIAlign is linear in the features, so its weights are what it makes of a map with
            one channel for each voxel.
    """
    if how == "area":
        return box_coverage(boxes, grid)
    if len(grid) != 2:
        raise ValueError(f"RoIAlign is for radiographs; these features have {len(grid)} spatial axes. Use 'area'.")
    from torchvision.ops import roi_align

    cells = torch.eye(math.prod(grid), dtype=boxes.dtype, device=boxes.device).view(1, -1, *grid)
    corners = torch.cat([boxes.new_zeros(len(boxes), 1), boxes[:, [2, 0, 3, 1]]], dim=1)
    return roi_align(cells, corners, 1, sampling_ratio=-1, aligned=False).flatten(1)


class PeakPool(nn.Module):
    """Where a channel is high inside the mask: a soft maximum whose sharpness is learned for each channel.

    A mean over an organ dilutes a small lesion; a plain maximum is taken up by what leaks in at the organ's border. The
    softmax over voxels is weighted by how much of each the organ covers, so both are tempered.

    Args:
        channels: of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.ones(channels))

    def forward(self, features: Float[Tensor, "m c *s"], mask: Float[Tensor, "m 1 *S"]) -> Float[Tensor, "m c"]:
        """``sum_n softmax_n(sharpness * f_n + log coverage_n) f_n``; an empty mask reads the whole map."""
        weights = coverage(mask.to(features.dtype), tuple(features.shape[2:])).flatten(2)
        flat = features.flatten(2)
        attention = (flat * self.sharpness[None, :, None] + weights.clamp(min=1e-6).log()).softmax(-1)
        return (attention * flat).sum(-1)


class AttentionPool(nn.Module):
    """Each organ's query attends to the voxels that the organ covers (all voxels where no coverage is given).

    Args:
        channels: of the feature map.
        organs: number of learned queries.
    """

    heads = 4

    def __init__(self, channels: int, organs: int) -> None:
        super().__init__()
        self.queries = nn.Embedding(organs, channels)
        nn.init.normal_(self.queries.weight, std=0.02)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(
        self,
        features: Float[Tensor, "b c *s"],
        organ_id: Int[Tensor, " m"],
        study_index: Int[Tensor, " m"],
        weights: Float[Tensor, "m n"] | None = None,
    ) -> Float[Tensor, "m c"]:
        """One vector for each organ; coverage enters as the logarithm of a prior on where to look."""
        slot, most = organ_slots(study_index, len(features))
        tokens = features.flatten(2).transpose(1, 2)
        query = tokens.new_zeros(len(features), most, tokens.shape[2])
        query[study_index, slot] = self.queries(organ_id).to(query.dtype)
        prior = None
        if weights is not None:
            bias = weights.to(tokens.dtype).clamp(min=torch.finfo(tokens.dtype).tiny).log()
            prior = tokens.new_zeros(len(features), 1, most, tokens.shape[1])
            prior[study_index, 0, slot] = torch.where(weights.sum(1, keepdim=True) > 0, bias, 0.0)
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=prior)
        return self.out(found.transpose(1, 2).flatten(2)[study_index, slot])


def _shares(weights: Tensor) -> Tensor:
    """Weights that sum to one in each row; equal ones where a row is empty."""
    total = weights.sum(-1, keepdim=True)
    return (weights / total.clamp(min=1e-12)).where(total > 0, 1.0 / weights.shape[-1])


def organ_slots(study_index: Tensor, studies: int) -> tuple[Tensor, int]:
    """The position of each organ among those of its study, and the largest number of organs in a study."""
    counts = torch.bincount(study_index, minlength=studies)
    order = study_index.argsort(stable=True)
    starts = (counts.cumsum(0) - counts)[study_index[order]]
    slot = torch.empty_like(study_index)
    slot[order] = torch.arange(len(order), device=order.device) - starts
    return slot, int(counts.max()) if len(counts) else 0
