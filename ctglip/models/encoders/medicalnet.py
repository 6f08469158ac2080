"""MedicalNet's residual networks, dilated in their last stages (arXiv 1904.00625; MIT), on MONAI's ResNet."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.scheme import KeyScheme

_BLOCKS = {
    10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}  # fmt: skip
_PADDED = (18, 34)
"""Depths whose shortcuts have no weights: channels are filled with zeros (type A)."""


class MedicalNetSettings(ReleasedCtSettings):
    """MedicalNet's ResNets.

    Attributes:
        depth: which one.
        widths: planes of the four stages.
    """

    name: Literal["medicalnet"] = "medicalnet"  # pyright: ignore[reportIncompatibleVariableOverride]
    depth: Literal[10, 18, 34, 50, 101, 152, 200] = 50
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)


class MedicalNetEncoder(ReleasedEncoder):
    """The four stages; the last two keep the grid of the second and look wider instead."""

    Settings = MedicalNetSettings
    scheme = KeyScheme(outer=("state_dict",), drop=(r"(?:conv_seg|fc)\..*",))
    settings: MedicalNetSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: MedicalNetSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        from monai.networks.nets.resnet import ResNet

        wide = settings.depth >= 50
        net: Any = ResNet(
            "bottleneck" if wide else "basic", list(_BLOCKS[settings.depth]), list(settings.widths),
            n_input_channels=1, conv1_t_size=7, conv1_t_stride=2, shortcut_type="B", bias_downsample=False,
            feed_forward=False,
        )  # fmt: skip
        if settings.depth in _PADDED:
            _pad_shortcuts(net)
        _dilate(net.layer3, 2)
        _dilate(net.layer4, 4)
        self.network = net
        self.anchor = self.kernel_anchor()
        self.level_channels = tuple(width * (4 if wide else 1) for width in settings.widths)
        self.token_dim = self.level_channels[-1]
        self.strides = tuple((step,) * 3 for step in (4, 8, 8, 8))

    @property
    def released_files(self) -> tuple[str, ...]:
        """Those of the depth."""
        return tuple(name.replace("_50", f"_{self.settings.depth}") for name in self.card.files)

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """All stages' maps."""
        net = self.network
        x = net.maxpool(net.act(net.bn1(net.conv1(image))))
        return self.after_each((net.layer1, net.layer2, net.layer3, net.layer4), x), None


class PaddedShortcut(nn.Module):
    """Every so many-th voxel, and channels of zeros behind."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """More channels on the coarser grid."""
        x = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.channels - x.shape[1]))


def _pad_shortcuts(net: Any) -> None:
    """Shortcuts without weights in place of projections."""
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        if isinstance(project := stage[0].downsample, nn.Sequential):
            conv: Any = project[0]
            stage[0].downsample = PaddedShortcut(conv.out_channels, conv.stride[0])


def _dilate(stage: Any, dilation: int) -> None:
    """No stride; convolutions of three voxels look ``dilation`` voxels far."""
    for module in stage.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = (1, 1, 1)
            if module.kernel_size == (3, 3, 3):
                module.dilation = module.padding = (dilation,) * 3  # pyright: ignore[reportAttributeAccessIssue]
        elif isinstance(module, PaddedShortcut):
            module.stride = 1
