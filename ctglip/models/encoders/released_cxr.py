"""What the released encoders of chest radiographs have: grey values as they want them, and the transformer of most."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from ctglip.encoder_cards import CxrEncoderInput
from ctglip.models.encoders.released import ReleasedEncoder, ReleasedSettings
from ctglip.resources import require

RunParts = Callable[[Iterable[nn.Module], Tensor], tuple[Tensor, ...]]
"""Runs parts one after the other and gives what each of them gives (``Encoder.after_each``)."""


class ReleasedCxrSettings(ReleasedSettings):
    """A released encoder of chest radiographs. It sees grey values from 0 to 1 (``data.mean: 0``, ``data.std: 1``) and
    takes its own mean and deviation from them."""

    spatial_dims: Literal[2, 3] = 2


class ReleasedCxrEncoder(ReleasedEncoder, ABC):
    """Base of released encoders of chest radiographs; see ``ReleasedEncoder``."""

    def __init__(self, settings: ReleasedCxrSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        if settings.spatial_dims != 2:
            raise ValueError(f"{settings.name} reads radiographs (spatial_dims: 2)")

    @property
    def cxr_input(self) -> CxrEncoderInput:
        """What it wants to see."""
        assert self.card.cxr is not None
        return self.card.cxr

    def standardize(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
        """The network's channels, all of the same radiograph."""
        wanted = self.cxr_input
        mean, std = (image.new_tensor(numbers).view(-1, 1, 1) for numbers in (wanted.mean, wanted.std))
        return (image - mean) / std

    def restored(self, level: Float[Tensor, "b d *s"]) -> Float[Tensor, "b d *s"]:
        """The same: rows and columns are ours."""
        return level


class ReleasedViTSettings(ReleasedCxrSettings):
    """A released vision transformer, ViT-B by default.

    Attributes:
        image_size: side of the square that its positions belong to; they are interpolated to other sizes.
        patch: side of a patch.
        dim, depth, heads: width, blocks, attention heads.
        pool: the pooled vector is the class token (``cls``), or the mean of the others.
    """

    image_size: int = 224
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    pool: Literal["cls", "mean"] = "mean"


class ReleasedViT(ReleasedCxrEncoder):
    """timm's vision transformer under timm's names; levels are the tokens after half of the blocks and after all."""

    settings: ReleasedViTSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    layer_scale: bool = False

    def __init__(self, settings: ReleasedViTSettings, in_channels: int) -> None:
        super().__init__(settings, in_channels)
        model = require("timm.models.vision_transformer", extra="weights").VisionTransformer
        self.network = model(
            img_size=settings.image_size, patch_size=settings.patch, in_chans=len(self.cxr_input.mean), num_classes=0,
            global_pool="", embed_dim=settings.dim, depth=settings.depth, num_heads=settings.heads,
            init_values=1e-5 if self.layer_scale else None, norm_layer=partial(nn.LayerNorm, eps=1e-6),
            dynamic_img_size=True,
        )  # fmt: skip
        self.network.set_grad_checkpointing(settings.checkpointing)
        self.level_channels, self.token_dim = (settings.dim,) * 2, settings.dim
        self.strides = ((settings.patch,) * 2,) * 2

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Tokens after half of the blocks, and after the last with its norm; the class token."""
        net = self.network
        middle = max(self.settings.depth // 2 - 1, 0)
        x, (half,) = net.forward_intermediates(image, indices=[middle])  # pyright: ignore[reportCallIssue]
        last = x[:, net.num_prefix_tokens :].transpose(1, 2).unflatten(2, half.shape[2:])
        return (half, last), x[:, 0] if self.settings.pool == "cls" else None


class ReleasedResNetSettings(ReleasedCxrSettings):
    """A released ResNet-50.

    Attributes:
        blocks: of each of the four stages.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)


class ResNetStages(nn.Module):
    """torchvision's ResNet of bottlenecks under its own names, without the head for classes.

    Args:
        blocks: of each of the four stages.
    """

    def __init__(self, blocks: Sequence[int]) -> None:
        super().__init__()
        from torchvision.models.resnet import Bottleneck, ResNet

        for name, child in ResNet(Bottleneck, list(blocks)).named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, child)

    def levels(self, image: Float[Tensor, "b c h w"], run: RunParts) -> tuple[Tensor, ...]:
        """What the four stages give."""
        *stem, first, second, third, fourth = self.children()
        return run((first, second, third, fourth), nn.Sequential(*stem)(image))


RESNET_WIDTHS = (256, 512, 1024, 2048)
RESNET_STRIDES = ((4, 4), (8, 8), (16, 16), (32, 32))
