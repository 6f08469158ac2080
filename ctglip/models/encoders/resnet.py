"""MONAI's ResNet as an encoder of radiographs and scans."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctglip.models.encoders.base import Encoder, EncoderSettings


class ResNetSettings(EncoderSettings):
    """MONAI's ResNet. ``weights``: a file with the weights of a 2D ResNet (torchvision's names), inflated in 3D, or
    ``timm:NAME``, which downloads (``torchvision:NAME``: a copy).

    Attributes:
        layers, widths: blocks and planes of the four stages (34 layers; 50 layers: the same with ``bottleneck``).
        norm: ``group`` sees each image alone; ``batch`` is what ImageNet weights were trained with.
    """

    name: Literal["resnet"] = "resnet"  # pyright: ignore[reportIncompatibleVariableOverride]
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    block: Literal["basic", "bottleneck"] = "basic"
    norm: Literal["group", "batch"] = "group"
    stem_kernel: int = 7
    max_pool: bool = True


class ResNetEncoder(Encoder):
    """The four stages of MONAI's ResNet; parameters have torchvision's names.

    Args:
        settings: depth, widths, norm.
        in_channels: channels of the images.
    """

    Settings = ResNetSettings
    anchor = "first"

    def __init__(self, settings: ResNetSettings, in_channels: int) -> None:
        super().__init__()
        from monai.networks.nets.resnet import ResNet

        self.settings = settings
        self.net = ResNet(
            block=settings.block,
            layers=list(settings.layers),
            block_inplanes=list(settings.widths),
            spatial_dims=settings.spatial_dims,
            n_input_channels=in_channels,
            conv1_t_size=settings.stem_kernel,
            conv1_t_stride=2,
            no_max_pool=not settings.max_pool,
            bias_downsample=False,
            feed_forward=False,
        )
        if settings.norm == "group":
            _use_groups(self.net)
        expansion = 4 if settings.block == "bottleneck" else 1
        self.level_channels = tuple(width * expansion for width in settings.widths)
        self.token_dim = self.level_channels[-1]
        first = 4 if settings.max_pool else 2
        self.strides = tuple((first * 2**level,) * settings.spatial_dims for level in range(4))

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """All stages' maps."""
        net = self.net
        x = net.act(net.bn1(net.conv1(image)))
        x = x if net.no_max_pool else net.maxpool(x)
        return self.after_each((net.layer1, net.layer2, net.layer3, net.layer4), x)

    @property
    def body(self) -> nn.Module:
        """The network with the project's own names."""
        return self.net


def _use_groups(module: nn.Module, groups: int = 8) -> None:
    """Put group normalisation in place of batch normalisation (MONAI's ``norm`` argument reaches the stem alone)."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            _use_groups(child, groups)
