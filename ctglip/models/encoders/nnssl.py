"""nnssl's residual encoder L, a masked autoencoder of MR images (arXiv 2412.17041; CC-BY-SA-4.0)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.scheme import KeyScheme
from ctglip.resources import require


class NNSSLSettings(ReleasedCtSettings):
    """nnssl's ResEnc-L.

    Attributes:
        widths, blocks: of the stages.
    """

    name: Literal["nnssl"] = "nnssl"  # pyright: ignore[reportIncompatibleVariableOverride]
    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)


class NNSSLEncoder(ReleasedEncoder):
    """All stages of nnU-Net's residual encoder."""

    Settings = NNSSLSettings
    scheme = KeyScheme(
        outer=("network_weights", "state_dict"),
        strip=("module.", "_orig_mod."),
        drop=(r"decoder\..*", r".*\.all_modules\..*"),
        root=("encoder.",),
    )
    settings: NNSSLSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: NNSSLSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        if len(settings.widths) != len(settings.blocks):
            raise ValueError(f"widths {settings.widths} and blocks {settings.blocks} must be of equal length.")
        encoders = require("dynamic_network_architectures.building_blocks.residual_encoders", extra="weights")
        stages = len(settings.widths)
        self.network = encoders.ResidualEncoder(
            1, stages, list(settings.widths), nn.Conv3d, 3, [1] + [2] * (stages - 1), list(settings.blocks),
            conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, return_skips=True,
        )  # fmt: skip
        self.anchor = self.kernel_anchor()
        self.level_channels = tuple(settings.widths)
        self.token_dim = self.level_channels[-1]
        self.strides = tuple((2**level,) * 3 for level in range(stages))

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """All stages' maps."""
        return self.after_each(self.network.stages, self.network.stem(image)), None
