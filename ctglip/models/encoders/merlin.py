"""Merlin's image encoder: ResNet-152 inflated to three dimensions (arXiv 2406.06512; MIT)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.scheme import KeyScheme


class MerlinSettings(ReleasedCtSettings):
    """Merlin's ResNet-152.

    Attributes:
        blocks: bottlenecks of each stage.
        width: channels of the stem; a stage gives 4, 8, 16, 32 times as many.
    """

    name: Literal["merlin"] = "merlin"  # pyright: ignore[reportIncompatibleVariableOverride]
    blocks: tuple[int, int, int, int] = (3, 8, 36, 3)
    width: int = 64


class MerlinEncoder(ReleasedEncoder):
    """The four stages, axes to head, right and front; pooled: the mean of the last, 2048 numbers."""

    Settings = MerlinSettings
    scheme = KeyScheme(
        outer=("state_dict", "model"),
        drop=(r"encode_text\..*", r"logit_scale", r"(?:.*\.)?(?:classifier|contrastive_head)\..*"),
        root=("encode_image.i3_resnet.", "i3_resnet."),
    )
    settings: MerlinSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: MerlinSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        self.network = InflatedResNet(settings.width, settings.blocks)
        self.anchor = self.kernel_anchor()
        self.level_channels = tuple(4 * settings.width * 2**stage for stage in range(4))
        self.token_dim = self.level_channels[-1]
        self.strides = tuple(self.turned((2 * step, 4 * step, 4 * step)) for step in (1, 2, 4, 8))

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """All stages' maps; the network sees three equal channels."""
        network = self.network
        x = network.maxpool(network.relu(network.bn1(network.conv1(image.expand(-1, 3, -1, -1, -1)))))
        return self.after_each((network.layer1, network.layer2, network.layer3, network.layer4), x), None


class InflatedResNet(nn.Module):
    """A ResNet of bottlenecks whose middle convolutions are cubes and whose stem sees three slices.

    Args:
        width: channels of the stem.
        blocks: bottlenecks of each stage.
    """

    def __init__(self, width: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        before = width
        for stage, count in enumerate(blocks):
            planes = width * 2**stage
            steps = [2 if stage else 1] + [1] * (count - 1)
            layers = [
                InflatedBottleneck(before if i == 0 else 4 * planes, planes, step) for i, step in enumerate(steps)
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            before = 4 * planes


class InflatedBottleneck(nn.Module):
    """A bottleneck; its stride is that of the middle convolution, along all three axes."""

    def __init__(self, before: int, planes: int, stride: int) -> None:
        super().__init__()
        after = 4 * planes
        self.conv1, self.bn1 = nn.Conv3d(before, planes, 1, bias=False), nn.BatchNorm3d(planes)
        self.conv2, self.bn2 = nn.Conv3d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm3d(planes)
        self.conv3, self.bn3 = nn.Conv3d(planes, after, 1, bias=False), nn.BatchNorm3d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv3d(before, after, 1, stride, bias=False), nn.BatchNorm3d(after))

    def forward(self, x: Tensor) -> Tensor:
        """What the three convolutions add to the (projected) input."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
