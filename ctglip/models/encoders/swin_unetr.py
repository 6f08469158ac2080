"""Encoders that were released as parts of MONAI's Swin UNETR: VoCo, and SuPreM, which also has a SegResNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.scheme import KeyScheme

_WIDTHS = {"segresnet": 16, "unet": 64}
_DECODER = r"(?:encoder\d+|decoder\d+|out)\..*"


class VoCoSettings(ReleasedCtSettings):
    """VoCo's Swin transformer.

    Attributes:
        dim: width of the first level: 48 (B), 96 (L) or 192 (H).
        depths, heads: of the four stages.
    """

    name: Literal["voco"] = "voco"  # pyright: ignore[reportIncompatibleVariableOverride]
    dim: int = 48
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)


class SuPreMSettings(ReleasedCtSettings):
    """SuPreM's encoders.

    Attributes:
        architecture: which of the released networks.
        dim: width of the first level; null: 48 of the Swin transformer, 16 of the SegResNet, 64 of the U-Net.
        depths: blocks of the four stages; null: 2 of each, and 1, 2, 2, 4 of the SegResNet. A U-Net has two always.
    """

    name: Literal["suprem"] = "suprem"  # pyright: ignore[reportIncompatibleVariableOverride]
    architecture: Literal["swinunetr", "segresnet", "unet"] = "segresnet"
    dim: int | None = None
    depths: tuple[int, int, int, int] | None = None

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {**super().unread(), **({"depths": "a U-Net has two"} if self.architecture == "unet" else {})}


class VoCoEncoder(ReleasedEncoder):
    """The embedded patches and the four stages, normalised as Swin UNETR reads them."""

    Settings = VoCoSettings
    scheme = KeyScheme(
        outer=("state_dict", "network_weights"),
        strip=("module.", "model.", "student.", "backbone."),
        drop=(_DECODER, r"(?:student|teacher|proj_head|.*head)\..*"),
        root=("swinViT.", "swin_vit."),
    )

    def __init__(self, settings: VoCoSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        _build_swin(self, settings.dim, settings.depths, settings.heads, v2=True)

    @property
    def released_files(self) -> tuple[str, ...]:
        """Those of the size that the width says."""
        size = {48: "_B", 96: "_L", 192: "_H"}.get(self.level_channels[0], "")
        return tuple(name for name in self.card.files if size in name)

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Five levels."""
        return tuple(self.network(image)), None


class SuPreMEncoder(ReleasedEncoder):
    """The encoder of the Swin UNETR (first version), of the SegResNet, or of Models Genesis' 3D U-Net."""

    Settings = SuPreMSettings
    scheme = KeyScheme(
        outer=("net", "state_dict"),
        strip=("module.", "backbone."),
        drop=(_DECODER, r"(?:up_layers|up_samples|conv_final|up_tr\d+|out_tr)\..*"),
        root=("swinViT.",),
    )
    settings: SuPreMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: SuPreMSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        if settings.architecture == "swinunetr":
            _build_swin(self, settings.dim or 48, settings.depths or (2, 2, 2, 2), (3, 6, 12, 24), v2=False)
            return
        self.level_channels = tuple((settings.dim or _WIDTHS[settings.architecture]) * 2**level for level in range(4))
        self.token_dim = self.level_channels[-1]
        self.strides = tuple((2**level,) * 3 for level in range(4))
        if settings.architecture == "unet":
            self.network = genesis_unet(self.level_channels[0])
            return
        from monai.networks.nets.segresnet import SegResNet

        filters, blocks = self.level_channels[0], settings.depths or (1, 2, 2, 4)
        net = SegResNet(init_filters=filters, in_channels=1, out_channels=1, blocks_down=blocks, blocks_up=(1, 1, 1))
        del net.up_layers, net.up_samples, net.conv_final
        self.network = net
        self.anchor = self.kernel_anchor()

    @property
    def released_files(self) -> tuple[str, ...]:
        """That of the architecture."""
        return tuple(name for name in self.card.files if self.settings.architecture in name)

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Five levels of the Swin transformer, four of the others."""
        if self.settings.architecture == "swinunetr":
            return tuple(self.network(image)), None
        if self.settings.architecture == "unet":
            levels = []
            for number, part in enumerate(self.network.values()):
                image = self.stage(part["ops"], F.max_pool3d(image, 2) if number else image)
                levels.append(image)
            return tuple(levels), None
        return self.after_each(self.network.down_layers, self.network.convInit(image)), None


def _build_swin(encoder: ReleasedEncoder, dim: int, depths: Any, heads: Any, v2: bool) -> None:
    """MONAI's Swin transformer with Swin UNETR's windows and patches, as an encoder's network."""
    from monai.networks.nets.swin_unetr import SwinTransformer

    encoder.network = SwinTransformer(
        1, dim, (7, 7, 7), (2, 2, 2), depths, heads, use_checkpoint=encoder.settings.checkpointing, use_v2=v2
    )
    encoder.level_channels = tuple(dim * 2**level for level in range(5))
    encoder.token_dim = encoder.level_channels[-1]
    encoder.strides = tuple((2 * 2**level,) * 3 for level in range(5))


def genesis_unet(width: int) -> nn.ModuleDict:
    """The way down of Models Genesis' 3D U-Net (arXiv 1908.06912): two convolutions a stage, normalised by the batch.

    Args:
        width: of the first stage, 64 in the released one; its first convolution has half of it.
    """
    stages, before = {}, 1
    for stage, name in enumerate(("down_tr64", "down_tr128", "down_tr256", "down_tr512")):
        middle = width // 2 * 2**stage
        steps = [GenesisStep(before, middle), GenesisStep(middle, 2 * middle)]
        stages[name], before = nn.ModuleDict({"ops": nn.Sequential(*steps)}), 2 * middle
    return nn.ModuleDict(stages)


class GenesisStep(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(before, after, 3, padding=1), nn.BatchNorm3d(after)

    def forward(self, x: Tensor) -> Tensor:
        """Same grid."""
        return self.bn1(self.conv1(x)).relu()
