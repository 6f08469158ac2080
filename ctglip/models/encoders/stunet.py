"""STU-Net's encoder (arXiv 2304.06716; Apache-2.0)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ctglip.models.encoders.nnunet import total_strides
from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.scheme import KeyScheme

_SIZES = {"small": (16, 1), "base": (32, 1), "large": (64, 2), "huge": (96, 3)}
_STEPS = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))


class STUNetSettings(ReleasedCtSettings):
    """STU-Net.

    Attributes:
        size: which of the released networks.
        width: of the first stage; null: that of the size.
    """

    name: Literal["stunet"] = "stunet"  # pyright: ignore[reportIncompatibleVariableOverride]
    size: Literal["small", "base", "large", "huge"] = "base"
    width: int | None = None


class STUNetEncoder(ReleasedEncoder):
    """The six stages; the last one halves the third axis alone."""

    Settings = STUNetSettings
    scheme = KeyScheme(
        outer=("state_dict",),
        drop=(r"(?:upsample_layers|conv_blocks_localization|seg_outputs|upscale_logits_ops)\..*",),
        root=("conv_blocks_context.",),
    )
    settings: STUNetSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: STUNetSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        width, depth = _SIZES[settings.size]
        widths = [(settings.width or width) * times for times in (1, 2, 4, 8, 16, 16)]
        stages, before = [], 1
        for after, step in zip(widths, _STEPS, strict=True):
            first = STUNetBlock(before, after, step, True)
            stages.append(
                nn.Sequential(first, *(STUNetBlock(after, after, (1, 1, 1), False) for _ in range(depth - 1)))
            )
            before = after
        self.network = nn.ModuleList(stages)
        self.anchor = self.kernel_anchor()
        self.level_channels, self.token_dim = tuple(widths), widths[-1]
        self.strides = tuple(self.turned(steps) for steps in total_strides(_STEPS, 3))

    @property
    def released_files(self) -> tuple[str, ...]:
        """That of the size."""
        return tuple(name for name in self.card.files if name.startswith(self.settings.size))

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """All stages' maps."""
        return self.after_each(self.network, image), None


class STUNetBlock(nn.Module):
    """Two convolutions with instance normalisation beside the input, which ``conv3`` projects in a stage's first."""

    def __init__(self, before: int, after: int, stride: tuple[int, int, int], project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, after, 3, stride, 1)
        self.norm1 = nn.InstanceNorm3d(after, affine=True)
        self.conv2 = nn.Conv3d(after, after, 3, 1, 1)
        self.norm2 = nn.InstanceNorm3d(after, affine=True)
        self.conv3 = nn.Conv3d(before, after, 1, stride) if project else nn.Identity()
        self.act = nn.LeakyReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """A stage's step."""
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return self.act(y + self.conv3(x))
