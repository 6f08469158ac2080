"""The Swin transformer, from MONAI."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ctglip.models.encoders.base import Encoder, EncoderSettings


class SwinSettings(EncoderSettings):
    """MONAI's Swin transformer: attention in shifted windows, five levels."""

    name: Literal["swin"] = "swin"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: int = 2
    dim: int = 24
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window: int = 7


class SwinEncoder(Encoder):
    """MONAI's Swin transformer: the embedded patches and four stages, normalised.

    Args:
        settings: widths, depths, window.
        in_channels: channels of the images.
    """

    Settings = SwinSettings

    def __init__(self, settings: SwinSettings, in_channels: int) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinTransformer

        self.settings = settings
        dims = settings.spatial_dims
        self.net = SwinTransformer(
            in_chans=in_channels,
            embed_dim=settings.dim,
            window_size=(settings.window,) * dims,
            patch_size=(settings.patch,) * dims,
            depths=settings.depths,
            num_heads=settings.heads,
            spatial_dims=dims,
            use_checkpoint=settings.checkpointing,
        )
        self.level_channels = tuple(settings.dim * 2**level for level in range(5))
        self.token_dim = self.level_channels[-1]
        self.strides = tuple((settings.patch * 2**level,) * dims for level in range(5))

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The embedded patches and the four stages."""
        return tuple(self.net(image))

    @property
    def body(self) -> nn.Module:
        """The network with the project's own names."""
        return self.net
