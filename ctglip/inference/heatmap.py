"""Where does an answer come from? How much each voxel of an organ adds to the answer's similarity.

To first order, a feature voxel adds ``(f - mean f) . d s / d f`` to the similarity s of the organ with the question's
axis (positive minus negative prompts): exact where pooling and heads are linear, and defined for every pooling. The
contributions of the pooled levels are laid on the input's voxels and summed. What an organ's size adds has no
place, and is not on the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ctglip.data.crops import OrganCrop, voxel_mm
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.base import CellAnchor, VisionFeatures
from ctglip.pages.pictures import LEAST_HEAT
from ctglip.types import OrganRow, spacing_of


@dataclass(frozen=True)
class HeatMap:
    """A map on the grid that the model saw: the organ's crop, the whole scan's, or the radiograph's window.

    Attributes:
        organ, abnormality: of the question.
        values: of scans float32 ``[x, y, z]``, 1 where most is added, negative where it is taken away, 0 outside the
            organ (without masks it is nonzero everywhere); of radiographs ``[h, w]``, see ``cxr_maps``.
        affine: voxel index, or (row, column, 0), to mm.
        coverage: how much of each voxel the organ covers, 0 to 1, where that is known.
    """

    organ: str
    abnormality: str
    values: Float[np.ndarray, "*s"]
    affine: Float[np.ndarray, "4 4"]
    coverage: Float[np.ndarray, "*s"] | None = None

    @property
    def speaks(self) -> bool:
        """Something in the map speaks for the answer: its highest value can be seen beside what speaks against."""
        return float(self.values.max(initial=0.0)) >= LEAST_HEAT


def crop_affine(crop: OrganCrop, row: OrganRow, affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Voxel index of a crop to mm; the crop lies about the middle of the organ's box.

    Args:
        row: the organ's row in the volume that the crop was cut from; affine: that volume's.
    """
    step = voxel_mm(crop.size) / np.array(spacing_of(affine))
    middle = np.array(row.box, dtype=np.float64).reshape(3, 2).mean(axis=1)
    return grid_affine(middle - step * np.array(crop.hu.shape) / 2, step, affine)


def grid_affine(
    low: Float[np.ndarray, " 3"], step: Float[np.ndarray, " 3"], affine: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "4 4"]:
    """Voxel index of a grid laid over a volume to mm.

    Args:
        low: the grid's lower faces in voxels of the volume (a voxel i reaches from i to i + 1).
        step: edges of the grid's voxels, in voxels of the volume.
        affine: the volume's.
    """
    inside = np.diag([*step, 1.0])
    inside[:3, 3] = low + 0.5 * step - 0.5
    return affine @ inside


def contributions(
    model: DualEncoder,
    vectors: Callable[[], Float[Tensor, "m e"]],
    axes: Sequence[tuple[int, Float[np.ndarray, " e"]]],
    shape: tuple[int, ...],
) -> Iterator[Float[np.ndarray, "*s"]]:
    """What each voxel adds to some similarities, in the order asked.

    Args:
        model: whose encoder runs, once.
        vectors: runs the model.
        axes: which of the vectors, and the axis that it is compared with.
        shape: of the input, which the maps are laid on.
    """
    recorded = _Levels(model)
    with recorded, torch.enable_grad():
        found = vectors()
    for row, axis in axes:
        similarity = found[row] @ torch.from_numpy(axis).to(found)
        gradients = torch.autograd.grad(similarity, recorded.maps, allow_unused=True, retain_graph=True)
        yield _added(recorded.maps, gradients, shape, model.encoder.anchor)


def scaled(added: Float[np.ndarray, "*s"], coverage: Float[np.ndarray, "*s"] | None = None) -> Float[np.ndarray, "*s"]:
    """Contributions as a map: 0 outside of the organ, 1 (or -1) where most is added (or taken away)."""
    values = np.where(coverage > 0, added, 0.0) if coverage is not None and coverage.any() else added
    return (values / max(float(np.abs(values).max()), 1e-12)).astype(np.float32)


class _Levels:
    """Keeps the maps that an answer is read from while the model runs, so that gradients can be asked of them."""

    def __init__(self, model: DualEncoder) -> None:
        self.model = model
        self.maps: list[Tensor] = []

    def __enter__(self) -> None:
        self._was_training = self.model.training
        self.model.eval()
        self._hook = self.model.encoder.register_forward_hook(self._keep)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self.model.train(self._was_training)

    def _keep(self, _module: object, _inputs: object, output: VisionFeatures) -> None:
        self.maps = [output.levels[level] for level in self.model.read_levels]


def _added(
    levels: Sequence[Tensor], gradients: Sequence[Tensor | None], shape: tuple[int, ...], anchor: CellAnchor = "middle"
) -> Float[np.ndarray, "*s"]:
    total = torch.zeros(1, *shape, device=levels[0].device)
    for level, gradient in zip(levels, gradients, strict=True):
        if gradient is not None:
            centred = level - level.mean(tuple(range(2, level.dim())), keepdim=True)
            total += on_pixels((centred * gradient).sum(1).detach().float(), shape, anchor)
    return total[0].cpu().numpy()


def on_pixels(cells: Float[Tensor, "p ..."], shape: tuple[int, ...], anchor: CellAnchor) -> Float[Tensor, "p ..."]:
    """Values of an encoder's cells on the pixels or voxels of its input, interpolated linearly.

    Args:
        cells: on the grid of a level.
        shape: of the input.
        anchor: where cells are centred, see ``models.encoders.base``.
    """
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    if anchor == "middle":
        return F.interpolate(cells[None], size=list(shape), mode=mode)[0]
    reach = [(count - 1) * (side // count) + 1 for count, side in zip(cells.shape[1:], shape, strict=True)]
    interpolated = F.interpolate(cells[None], size=reach, mode=mode, align_corners=True)
    rest = [side - end for side, end in zip(shape, reach, strict=True)]
    ends = (anchor,) * len(shape) if isinstance(anchor, str) else anchor
    pads = [(0, left) if end == "first" else (left, 0) for end, left in zip(ends, rest, strict=True)]
    return F.pad(interpolated, [part for pad in reversed(pads) for part in pad], mode="replicate")[0]
