"""A stored scan as a peer's own preprocessing has it: its range, its axes, cut or filled up to its size; and windows
around organs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ctglip.data.scans import ScanSettings, render_scans
from ctglip.evaluation.peers.card import PeerOrgans
from ctglip.models.encoders.released import ReleasedEncoder, axes_of


def whole_input(encoder: ReleasedEncoder, hu: np.ndarray) -> Float[Tensor, "1 1 *t"]:
    """A whole scan in an encoder's range and on its axes.

    Args:
        hu: int16 ``[x, y, z]`` (RAS+), as the store that was made for the encoder has it.
    """
    windows = ScanSettings(windows_hu=(encoder.ct_input.window_hu,))
    return encoder.standardize(torch.from_numpy(render_scans(hu, windows))[None])


def peer_input(encoder: ReleasedEncoder, hu: np.ndarray, size: Sequence[int]) -> Float[Tensor, "1 1 *t"]:
    """What an encoder sees of a scan: its middle, as large as ``size`` (x, y, z), filled up where the scan is smaller.

    Args:
        hu: see ``whole_input``.
    """
    image = whole_input(encoder, hu)
    outside = lowest(encoder) if encoder.ct_input.pad == "window" else float(image.min())
    return centred(image, on_its_axes(encoder, size), outside, encoder.ct_input.round_up)


def lowest(encoder: ReleasedEncoder) -> float:
    """The lower end of the window in an encoder's range."""
    return (encoder.ct_input.range[0] - encoder.ct_input.mean) / encoder.ct_input.std


def on_its_axes(encoder: ReleasedEncoder, sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes along our axes in the order of an encoder's."""
    return tuple(sizes[axis] for axis in axes_of(encoder.ct_input.orientation)[0])


def centred(
    image: Float[Tensor, "*b d h w"], size: Sequence[int], outside: float, round_up: bool = False
) -> Float[Tensor, "*b d2 h2 w2"]:
    """The middle of an image.

    Args:
        size: of the result.
        outside: value around a smaller image.
        round_up: of an odd number of voxels too many or too few the larger half is at the beginning.
    """
    halves = [((have - want + round_up) // 2, (want - have + round_up) // 2)
              for have, want in zip(image.shape[-3:], size, strict=True)]  # fmt: skip
    cut = tuple(slice(max(start, 0), max(start, 0) + want) for (start, _), want in zip(halves, size, strict=True))
    image = image[(..., *cut)]
    ends = [(max(before, 0), want - have - max(before, 0))
            for (_, before), have, want in zip(halves, image.shape[-3:], size, strict=True)]  # fmt: skip
    if not any(end for pair in ends for end in pair):
        return image
    return F.pad(image, [end for pair in reversed(ends) for end in pair], value=outside)


def organ_region(
    encoder: ReleasedEncoder,
    image: Float[Tensor, "1 1 d h w"],
    organs: Bool[Tensor, "o d h w"],
    settings: PeerOrgans,
    size: Sequence[int],
) -> tuple[Float[Tensor, "1 1 d2 h2 w2"], Bool[Tensor, "o d2 h2 w2"]]:
    """A scan and its organs' masks, cut to the organs with a margin and filled up to a size at least (x, y, z)."""
    voxels = organs.any(0).nonzero()
    margin = torch.tensor(on_its_axes(encoder, settings.margin))
    low = (voxels.amin(0) - margin).clamp(min=0)
    high = torch.minimum(voxels.amax(0) + margin, torch.tensor(organs.shape[1:]))
    cut = tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    image, organs = image[(..., *cut)], organs[(..., *cut)]
    least = [max(have, want) for have, want in zip(organs.shape[1:], on_its_axes(encoder, size), strict=True)]
    return centred(image, least, lowest(encoder)), centred(organs.float(), least, 0.0) > 0


def organ_window(
    encoder: ReleasedEncoder,
    image: Float[Tensor, "1 1 d h w"],
    organ: Bool[Tensor, "d h w"],
    settings: PeerOrgans,
) -> tuple[Float[Tensor, "1 1 d2 h2 w2"], Bool[Tensor, "d2 h2 w2"]]:
    """The window around an organ, moved inside of the image, and the organ's mask in it; filled up at its ends."""
    voxels = organ.nonzero()
    low, high = voxels.amin(0).tolist(), voxels.amax(0).tolist()
    cut = []
    sizes = zip(organ.shape, low, high, on_its_axes(encoder, settings.window), strict=True)
    for have, first, last, least in sizes:
        want = max(least, last - first)
        start = max(0, (first + last) // 2 - want // 2)
        end = min(have, start + want)
        cut.append(slice(max(0, end - want), end))
    image, organ = image[(..., *cut)], organ[tuple(cut)]
    ends = [-have % step for have, step in zip(organ.shape, on_its_axes(encoder, settings.multiple), strict=True)]
    filled = [end for side in reversed(ends) for end in (0, side)]
    return F.pad(image, filled, value=lowest(encoder)), F.pad(organ, filled)


def tokens_inside(organ: Bool[Tensor, "d h w"], grid: Sequence[int]) -> Bool[Tensor, " n"]:
    """The cells of a grid over an image that an organ has a voxel in."""
    steps = [have // cells for have, cells in zip(organ.shape, grid, strict=True)]
    return F.max_pool3d(organ.float()[None, None], steps, steps).flatten() > 0
