"""CT-FM's encoder, from MONAI (arXiv 2501.09001; Apache-2.0)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.scheme import KeyScheme


class CTFMSettings(ReleasedCtSettings):
    """CT-FM: a residual encoder whose stages double the width and halve the grid.

    Attributes:
        filters: width of the first stage.
        blocks: residual blocks of each stage.
    """

    name: Literal["ct_fm"] = "ct_fm"  # pyright: ignore[reportIncompatibleVariableOverride]
    filters: int = 32
    blocks: tuple[int, ...] = (1, 2, 2, 4, 4)


class CTFMEncoder(ReleasedEncoder):
    """The feature extractor, and the encoder of the segmentation network."""

    Settings = CTFMSettings
    scheme = KeyScheme(
        outer=("state_dict",),
        strip=("module.", "model.", "backbone."),
        drop=(r"up_layers\..*", r"head\..*", r"heads?_module\..*"),
        root=("encoder.",),
    )

    def __init__(self, settings: CTFMSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        from monai.networks.nets.segresnet_ds import SegResEncoder

        self.network = SegResEncoder(init_filters=settings.filters, in_channels=1, blocks_down=settings.blocks)
        self.anchor = self.kernel_anchor()
        self.level_channels = tuple(settings.filters * 2**level for level in range(len(settings.blocks)))
        self.token_dim = self.level_channels[-1]
        self.strides = tuple((2**level,) * 3 for level in range(len(settings.blocks)))

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Each stage before it is halved; pooled is the mean of the last."""
        levels, x = [], self.network.conv_init(image)
        for part in self.network.layers:
            x = self.stage(part["blocks"], x)
            levels.append(x)
            x = part["downsample"](x)
        return tuple(levels), None
