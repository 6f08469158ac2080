"""A decoder of MONAI's blocks on the levels of an encoder of scans, and what it is taught by.

Levels of several resolutions are joined as a U-Net does; tokens, whose levels share one grid, are enlarged step by step
first, as UNETR does (arXiv 2103.10504). Where the finest level is coarser than the image, the image itself is joined
last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from monai.inferers.inferer import SlidingWindowInferer
from monai.losses.dice import DiceCELoss
from monai.losses.ds_loss import DeepSupervisionLoss
from monai.networks.blocks.dynunet_block import UnetOutBlock, get_conv_layer
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.errors import ModelError
from ctglip.models.encoders.base import Encoder
from ctglip.tasks.segmentation_heads import HeadOnEncoder
from ctglip.tasks.settings import CtSegmentationTaskSettings

_MOST = 320
_NORM = ("group", {"num_groups": 8, "affine": True})
Strides = tuple[int, ...]


def scales_of(strides: Sequence[Strides]) -> tuple[Strides, ...]:
    """Steps of the image's voxels at which a decoder works, fine to coarse, from the image itself on.

    Args:
        strides: of the encoder's levels, fine to coarse; where all are the same, the way from them to the image is
            cut into their prime factors.

    Raises:
        ModelError: code ``levels``: a coarser level's stride is no multiple of a finer one's.
    """
    found = list(dict.fromkeys(strides))
    if len(found) == 1:
        found = [tuple(one) for one in _factored(found[0])]
    one = (1,) * len(found[0])
    found = found if found[0] == one else [one, *found]
    for fine, coarse in pairwise(found):
        if any(b % a for a, b in zip(fine, coarse, strict=True)):
            raise ModelError(f"Levels with strides {fine} and {coarse} cannot be joined by a decoder.", code="levels")
    return tuple(found)


def _factored(stride: Strides) -> list[list[int]]:
    """``(16, 16, 8)`` as ``(2, 2, 1), (4, 4, 2), (8, 8, 4), (16, 16, 8)``: the last steps are in all axes."""
    factors = []
    for side in stride:
        mine, rest, divisor = [], side, 2
        while rest > 1:
            while rest % divisor:
                divisor += 1
            mine.append(divisor)
            rest //= divisor
        factors.append(mine)
    most = max(map(len, factors))
    padded = [[1] * (most - len(mine)) + mine for mine in factors]
    steps, total = [], [1] * len(stride)
    for step in zip(*padded, strict=True):
        total = [a * b for a, b in zip(total, step, strict=True)]
        steps.append(list(total))
    return steps


def _ratio(fine: Strides, coarse: Strides) -> Strides:
    return tuple(b // a for a, b in zip(fine, coarse, strict=True))


class PyramidDecoder(nn.Module):
    """From the coarsest scale up: enlarge, put beside what the encoder has there, convolve; logits at each scale.

    Args:
        encoder: whose levels are read.
        images: channels of the images.
        classes: the background among them.
        width, supervision: see ``CtSegmentationTaskSettings``.
    """

    def __init__(self, encoder: Encoder, images: int, classes: int, width: int, supervision: int) -> None:
        super().__init__()
        dims, strides = len(encoder.strides[0]), [tuple(stride) for stride in encoder.strides]
        self.scales = scales_of(strides)
        widths = [min(width * 2**step, _MOST) for step in range(len(self.scales))]
        tokens = len(set(strides)) == 1 and len(self.scales) > 1
        self.read: list[int | None] = []
        self.skips = nn.ModuleList()
        for step, scale in enumerate(self.scales):
            level = self._level(step, scale, strides, tokens)
            self.read.append(level)
            if level is None:
                self.skips.append(UnetrBasicBlock(dims, images, widths[step], 3, 1, _NORM, res_block=True))
            elif tokens:
                self.skips.append(self._enlarging(dims, encoder.level_channels[level], widths, step))
            else:
                self.skips.append(UnetrBasicBlock(dims, encoder.level_channels[level], widths[step], 1, 1, _NORM))
        self.ups = nn.ModuleList(
            UnetrUpBlock(dims, widths[step + 1], widths[step], 3, _ratio(*self.scales[step : step + 2]), _NORM, True)
            for step in range(len(self.scales) - 1)
        )
        scored = min(1 + supervision, max(len(self.ups), 1))
        self.outs = nn.ModuleList(UnetOutBlock(dims, widths[step], classes) for step in range(scored))

    def _level(self, step: int, scale: Strides, strides: list[Strides], tokens: bool) -> int | None:
        """The encoder's level that is read at a scale; None: the image."""
        if tokens:
            return round(step / (len(self.scales) - 1) * (len(strides) - 1)) if step else None
        return len(strides) - 1 - strides[::-1].index(scale) if scale in strides else None

    def _enlarging(self, dims: int, channels: int, widths: Sequence[int], to: int) -> nn.Module:
        """From tokens to the grid of a finer scale; at the coarsest their width alone changes."""
        steps: list[nn.Module] = []
        for step in range(len(self.scales) - 2, to - 1, -1):
            ratio = _ratio(*self.scales[step : step + 2])
            up = get_conv_layer(dims, channels, widths[step], ratio, ratio, conv_only=True, is_transposed=True)
            steps += [up, UnetrBasicBlock(dims, widths[step], widths[step], 3, 1, _NORM, res_block=True)]
            channels = widths[step]
        return nn.Sequential(*steps) if steps else UnetrBasicBlock(dims, channels, widths[to], 1, 1, _NORM)

    def forward(self, image: Tensor, levels: Sequence[Tensor]) -> list[Float[Tensor, "b k *s"]]:
        """Logits, fine to coarse, each on its own grid."""
        found = [
            skip(image if level is None else levels[level]) for skip, level in zip(self.skips, self.read, strict=True)
        ]
        x, logits = found[-1], []
        for step in reversed(range(len(self.ups))):
            x = self.ups[step](x, found[step])
            if step < len(self.outs):
                logits.insert(0, self.outs[step](x))
        return logits or [self.outs[0](x)]


class CtSegmentationNetwork(HeadOnEncoder):
    """An encoder of scans and a decoder.

    Args:
        encoder: what its ``in_channels`` are beyond the images' windows is zero, as for whole scans.
        in_channels: of the encoder.
        windows: channels of the images.
        classes: the background among them.
        settings: of the decoder.
        frozen: the encoder is left as it is, batch statistics too.
    """

    head: PyramidDecoder

    def __init__(
        self,
        encoder: Encoder,
        in_channels: int,
        windows: int,
        classes: int,
        settings: CtSegmentationTaskSettings,
        frozen: bool,
    ) -> None:
        head = PyramidDecoder(encoder, windows, classes, settings.width, settings.supervision)
        super().__init__(encoder, head, frozen)
        self.in_channels = in_channels

    def forward(self, inputs: Mapping[str, Tensor], studies: int) -> Float[Tensor, "b l k x y z"]:  # noqa: ARG002
        """Logits of every voxel of ``images``: in training one row for each scale that is judged, else the finest."""
        images = inputs["images"]
        missing = self.in_channels - images.shape[1]
        padded = (
            torch.cat([images, images.new_zeros(len(images), missing, *images.shape[2:])], 1) if missing else images
        )
        logits = self.head(images, self.features(padded).levels)
        answers = logits if self.training else logits[:1]
        shape = images.shape[2:]
        return torch.stack([one if one.shape[2:] == shape else F.interpolate(one, shape, mode="trilinear")
                            for one in answers], dim=1)  # fmt: skip


def supervised_loss(settings: CtSegmentationTaskSettings) -> Callable[[Tensor, Tensor], Tensor]:
    """``loss(logits [b, l, k, x, y, z], classes [b, 1, x, y, z])``: MONAI's Dice (of the batch, without the background)
    and cross entropy at each scale, halved with each coarser one; their weights add up to 1."""
    loss = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, lambda_dice=settings.dice,
        lambda_ce=settings.ce,
    )  # fmt: skip

    def deep(logits: Tensor, classes: Tensor) -> Tensor:
        scales = list(logits.float().unbind(1))
        halves = [0.5**step for step in range(len(scales))]
        return DeepSupervisionLoss(loss, weights=[one / sum(halves) for one in halves])(scales, classes)

    return deep


def segment_volume(
    network: nn.Module, image: Float[Tensor, "1 c x y z"], patch: Sequence[int], settings: CtSegmentationTaskSettings
) -> Float[Tensor, "k x y z"]:
    """Probabilities of the classes of each voxel of a whole scan, window by window (MONAI), on the CPU.

    Windows overlap and are weighed by a Gaussian; beyond the scan there is air.
    """
    device = next(network.parameters()).device

    def answer(windows: Tensor) -> Tensor:
        return network({"images": windows}, len(windows))[:, 0].float().softmax(1)

    inferer = SlidingWindowInferer(
        tuple(patch), settings.windows, settings.overlap, mode="gaussian", cval=-1.0, sw_device=device, device="cpu"
    )
    with torch.no_grad():
        found = inferer(image, answer)
    assert isinstance(found, Tensor)
    return found[0]
