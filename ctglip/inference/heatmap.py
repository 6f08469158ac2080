"""Where does an answer come from? How much each voxel of an organ adds to the answer's similarity.

To first order, a feature voxel adds ``(f - mean f) . d s / d f`` to the similarity s of the organ with the question's
axis (positive minus negative prompts): exact where pooling and heads are linear, and defined for every pooling. The
contributions of the pooled levels are laid on the finest of them and summed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ctglip.data.crops import CropSettings, OrganCrop, render, voxel_mm
from ctglip.errors import ModelError
from ctglip.models.towers import OrganTextModel
from ctglip.types import OrganRow, spacing_of


@dataclass(frozen=True)
class HeatMap:
    """A map on the crop's grid.

    Attributes:
        organ, abnormality: of the question.
        values: float32 ``[x, y, z]``, 1 where most is added, negative where it is taken away, 0 outside the organ.
        affine: voxel index to mm.
    """

    organ: str
    abnormality: str
    values: Float[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]


def crop_affine(crop: OrganCrop, row: OrganRow, affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Voxel index of a crop to mm; the crop lies about the middle of the organ's box.

    Args:
        row: the organ's row in the volume that the crop was cut from; affine: that volume's.
    """
    step = voxel_mm(crop.size) / np.array(spacing_of(affine))
    middle = np.array(row.box, dtype=np.float64).reshape(3, 2).mean(axis=1)
    low = middle - step * np.array(crop.hu.shape) / 2
    inside = np.diag([*step, 1.0])
    inside[:3, 3] = low + 0.5 * step - 0.5
    return affine @ inside


def heat_map(
    model: OrganTextModel,
    crop: OrganCrop,
    settings: CropSettings,
    axis: Float[np.ndarray, " e"],
    pair: tuple[str, str],
    affine: Float[np.ndarray, "4 4"],
    query: int | None = None,
) -> HeatMap:
    """The map of one answer.

    Args:
        model: a model that reads organ crops.
        crop: the organ.
        settings: how crops are rendered.
        axis: the direction that the answer is measured along (see ``Scorer.axes``).
        pair: (organ, abnormality).
        affine: of the crop (``crop_affine``).
        query: the organ's number, for models that pool by attention.

    Raises:
        ModelError: code ``no_maps``: the model reads whole scans.
    """
    if model.settings.grounding != "crop":
        raise ModelError("Maps are drawn for models that read organ crops; this one reads whole scans.", code="no_maps")
    device = next(model.parameters()).device
    image = render(crop.hu[None], crop.mask[None], np.array([crop.median_hu]), settings)
    mask = torch.from_numpy(crop.mask[None, None].astype(np.float32) / 255.0).to(device)
    size = torch.from_numpy(crop.size[None]).to(device)
    ids = (torch.tensor([query or 0], device=device),) if model.settings.pooling == "attention" else ()
    levels = _Levels(model)
    with levels, torch.enable_grad():
        features = model.organ_features(torch.from_numpy(image).to(device), mask, size, *ids)
        similarity = (model.diagnosis(features) @ torch.from_numpy(axis).to(features)).sum()
        gradients = torch.autograd.grad(similarity, levels.maps, allow_unused=True)
    added = _added(levels.maps, gradients, crop.hu.shape)
    inside = crop.mask > 0
    values = np.where(inside, added, 0.0) if inside.any() else added
    return HeatMap(*pair, (values / max(float(np.abs(values).max()), 1e-12)).astype(np.float32), affine)


class _Levels:
    """Keeps the feature maps that the encoder gives while the model runs, so that gradients can be asked of them."""

    def __init__(self, model: OrganTextModel) -> None:
        self.model = model
        self.maps: list[Tensor] = []

    def __enter__(self) -> _Levels:
        self._was_training = self.model.training
        self.model.eval()
        self._hook = self.model.encoder.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self.model.train(self._was_training)

    def _keep(self, _module: object, _inputs: object, output: object) -> None:
        every = output.levels  # type: ignore[attr-defined]
        self.maps = [every[level] for level in self.model.settings.pool_levels]


def _added(
    levels: list[Tensor], gradients: tuple[Tensor | None, ...], shape: tuple[int, ...]
) -> Float[np.ndarray, "x y z"]:
    finest = max((tuple(level.shape[2:]) for level in levels), key=np.prod)
    total = torch.zeros(1, 1, *finest, device=levels[0].device)
    for level, gradient in zip(levels, gradients, strict=True):
        if gradient is not None:
            part = ((level - level.mean((2, 3, 4), keepdim=True)) * gradient).sum(1, keepdim=True)
            total += F.interpolate(part.detach().float(), size=list(finest), mode="trilinear")
    return F.interpolate(total, size=list(shape), mode="trilinear")[0, 0].cpu().numpy()
