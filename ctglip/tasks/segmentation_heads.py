"""Heads that segment one thing on radiographs from an encoder's features, their loss, and how masks are compared.

The loss is that of MGCA's public code: ten times the focal loss minus the logarithm of the soft Dice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders.base import Encoder, VisionFeatures
from ctglip.tasks.settings import SegmentationTaskSettings

_STEPS = 4


def _convolution(channels: int, width: int) -> nn.Sequential:
    norm = nn.GroupNorm(math.gcd(8, width), width)
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), norm, nn.ReLU(inplace=True))


def _enlarged(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, shape, mode="bilinear", align_corners=False)


class UNetHead(nn.Module):
    """From the coarsest level up: enlarge, put beside the finer level, convolve twice; then up to the radiograph.

    Args:
        channels: of the encoder's levels, fine to coarse.
        width: channels of the finest step; they double with each coarser one, up to eight times.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        widths = [width * 2 ** min(step, 3) for step in range(len(channels))]
        self.start = _convolution(channels[-1], widths[-1])
        self.steps = nn.ModuleList(
            nn.Sequential(_convolution(widths[step + 1] + channels[step], widths[step]),
                          _convolution(widths[step], widths[step]))
            for step in reversed(range(len(channels) - 1))
        )  # fmt: skip
        self.end = nn.Sequential(_convolution(widths[0], widths[0]), nn.Conv2d(widths[0], 1, 1))

    def forward(self, features: VisionFeatures, shape: tuple[int, ...]) -> Float[Tensor, "b 1 h w"]:
        """Logits of every pixel."""
        x = self.start(features.levels[-1])
        for step, level in zip(self.steps, reversed(features.levels[:-1]), strict=True):
            x = step(torch.cat([_enlarged(x, tuple(level.shape[2:])), level], dim=1))
        return _enlarged(self.end(_enlarged(x, tuple((n + 1) // 2 for n in shape))), shape)


class SETRHead(nn.Module):
    """From tokens on their grid: convolve and double, until the radiograph's size is reached (SETR-PUP, arXiv
    2012.15840).

    Args:
        dim: width of a token.
        width: channels of the first step; they halve with each one.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        widths = [max(width // 2**step, 8) for step in range(_STEPS)]
        pairs = zip([dim, *widths], widths, strict=False)
        self.steps = nn.ModuleList(_convolution(channels, out) for channels, out in pairs)
        self.end = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, features: VisionFeatures, shape: tuple[int, ...]) -> Float[Tensor, "b 1 h w"]:
        """Logits of every pixel."""
        x = features.tokens.transpose(1, 2).unflatten(2, features.grid)
        for step in self.steps:
            x = step(x)
            x = _enlarged(x, tuple(min(2 * n, most) for n, most in zip(x.shape[2:], shape, strict=True)))
        return _enlarged(self.end(x), shape)


class UPerNetHead(nn.Module):
    """Transformers' UPerNet on an encoder's levels; in training a second answer from the last but one level alone,
    where it is asked for.

    Args:
        channels: of the encoder's levels, fine to coarse.
        width: channels of the head.
        auxiliary: there is a second answer.
    """

    def __init__(self, channels: tuple[int, ...], width: int, auxiliary: bool) -> None:
        super().__init__()
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

        config = UperNetConfig(hidden_size=width, auxiliary_channels=max(width // 2, 8))
        config.num_labels = 1
        self.main = UperNetHead(config, in_channels=list(channels))
        second = max(len(channels) - 2, 0)
        self.second = UperNetFCNHead(config, in_channels=list(channels), in_index=second) if auxiliary else None

    def forward(self, features: VisionFeatures, shape: tuple[int, ...]) -> Float[Tensor, "b k h w"]:
        """Logits of every pixel; in training those of the second answer beside them."""
        logits = [self.main(features.levels)]
        if self.second is not None and self.training:
            logits.append(self.second(features.levels))
        return torch.cat([_enlarged(one, shape) for one in logits], dim=1)


class HeadOnEncoder(nn.Module):
    """An encoder, which learns or is left as it is, and a head on its features.

    Args:
        encoder: of images.
        head: reads features.
        frozen: the encoder is left as it is, batch statistics too.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, frozen: bool) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not frozen)
        self.head = head
        self.frozen = frozen

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, images: Float[Tensor, "b c *s"]) -> VisionFeatures:
        """What the encoder makes of images."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder(images)


class SegmentationNetwork(HeadOnEncoder):
    """An encoder of radiographs and a head.

    Args:
        encoder: of a radiograph model.
        settings: which head.
        frozen: the encoder is left as it is.
    """

    def __init__(self, encoder: Encoder, settings: SegmentationTaskSettings, frozen: bool) -> None:
        super().__init__(encoder, _head(encoder, settings), frozen)

    def forward(self, inputs: Mapping[str, Tensor], studies: int) -> Float[Tensor, "b k h w"]:  # noqa: ARG002
        """Logits of every pixel of ``images``; in training those of a second answer beside them."""
        images = inputs["images"]
        return self.head(self.features(images), tuple(images.shape[2:]))


def _head(encoder: Encoder, settings: SegmentationTaskSettings) -> nn.Module:
    width = settings.width
    if settings.head == "upernet":
        return UPerNetHead(encoder.level_channels, width, settings.auxiliary > 0)
    unet = settings.head == "unet"
    return UNetHead(encoder.level_channels, width) if unet else SETRHead(encoder.token_dim, width)


def segmentation_loss(settings: SegmentationTaskSettings) -> Callable[[Tensor, Tensor], Tensor]:
    """``loss(logits [b, k, h, w], masks [b, 1, h, w])``: of the first answer, and of the second with its weight."""
    single: Callable[[Tensor, Tensor], Tensor] = F.binary_cross_entropy_with_logits
    if settings.loss == "focal_dice":
        single = partial(mask_loss, focal=settings.focal, gamma=settings.gamma)

    def both(logits: Tensor, masks: Tensor) -> Tensor:
        loss = single(logits[:, :1].float(), masks.float())
        second = logits[:, 1:]
        return loss + settings.auxiliary * single(second.float(), masks.float()) if second.shape[1] else loss

    return both


def mask_loss(
    logits: Float[Tensor, "b 1 h w"], masks: Float[Tensor, "b 1 h w"], focal: float = 10.0, gamma: float = 2.0
) -> Float[Tensor, ""]:
    """``focal * mean(focal loss) - log(soft Dice of the batch)``, smoothed by 1, in fp32."""
    logits, masks = logits.float(), masks.float()
    plain = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    hard = ((1 - torch.exp(-plain)) ** gamma * plain).mean()
    predicted = torch.sigmoid(logits)
    dice = (2 * (predicted * masks).sum() + 1) / (predicted.sum() + masks.sum() + 1)
    return focal * hard - torch.log(dice)


@dataclass(frozen=True)
class MaskAgreement:
    """How some masks agree with the truth, radiograph by radiograph.

    Attributes:
        dice: of each radiograph; where the truth is empty 1 if nothing was drawn, else 0.
        empty: whether the truth is empty.
        counts: true positive, false positive, false negative and true negative pixels of each.
    """

    dice: Float[np.ndarray, " n"]
    empty: Bool[np.ndarray, " n"]
    counts: Float[np.ndarray, "n 4"]


def pooled_dice(counts: Float[np.ndarray, "draws 4"]) -> Float[np.ndarray, " draws"]:
    """mDice: the mean of the Dice of the target and of the rest, each over the pixels of all radiographs.

    Args:
        counts: sums of ``MaskAgreement.counts``.
    """
    tp, fp, fn, tn = counts.T
    return np.mean([2 * hit / np.maximum(2 * hit + fp + fn, 1.0) for hit in (tp, tn)], axis=0)


def compare_masks(predicted: Bool[np.ndarray, "n h w"], truth: Bool[np.ndarray, "n h w"]) -> MaskAgreement:
    """Compare masks with the truth."""
    axes = (1, 2)
    tp, fp = (predicted & truth).sum(axes), (predicted & ~truth).sum(axes)
    fn, tn = (~predicted & truth).sum(axes), (~predicted & ~truth).sum(axes)
    total = 2 * tp + fp + fn
    dice = np.where(total > 0, 2 * tp / np.maximum(total, 1), 1.0)
    return MaskAgreement(dice, tp + fn == 0, np.stack([tp, fp, fn, tn], axis=1).astype(np.float64))
