"""torchvision's convolutional networks as encoders of radiographs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctglip.errors import ModelError
from ctglip.models.encoders.base import Encoder, EncoderSettings, inflated, read_weights
from ctglip.models.weights.matching import fill
from ctglip.models.weights.zoo import torchvision_weights

_OWN = "torchvision:"


class TorchvisionSettings(EncoderSettings):
    """A convolutional network of torchvision (ResNet, DenseNet, ConvNeXt, EfficientNet, MobileNet), for radiographs.
    ``weights``: a file, or ``torchvision:NAME`` (``torchvision:IMAGENET1K_V2``) of which there is a copy on this
    machine. They want ImageNet's mean and deviation (``data.mean: 0.449``, ``data.std: 0.226`` for grey)."""

    name: Literal["torchvision"] = "torchvision"  # pyright: ignore[reportIncompatibleVariableOverride]
    spatial_dims: Literal[2, 3] = 2
    model: str = "resnet50"


class TorchvisionEncoder(Encoder):
    """The maps of a network before each halving of its grid, and the last.

    Args:
        settings: the model's name.
        in_channels: channels of the radiographs.

    Raises:
        ModelError: code ``torchvision``: a scan, an unknown model, or one without feature maps.
    """

    Settings = TorchvisionSettings
    anchor = "first"

    def __init__(self, settings: TorchvisionSettings, in_channels: int) -> None:
        super().__init__()
        if settings.spatial_dims != 2:
            raise ModelError("torchvision's encoders are for radiographs (spatial_dims: 2).", code="torchvision")
        self.settings = settings
        self.net = _convolutions(settings.model)
        _take_channels(self.net, in_channels)
        self._ends, self.strides, self.level_channels = _levels(self.net, in_channels, settings.model)
        self.token_dim = self.level_channels[-1]

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The maps before each halving, and the last."""
        found, x = [], image
        for number, part in enumerate(_parts(self.net)):
            x = self.stage(part, x)
            if number in self._ends:
                found.append(x)
        return tuple(found)

    def fill_from(self, source: str) -> float:
        """From a file, or torchvision's own."""
        assert isinstance(self.settings, TorchvisionSettings)
        own = torchvision_weights(self.settings.model, source.removeprefix(_OWN)) if source.startswith(_OWN) else None
        return fill(self.net, own or read_weights(source), source, self.settings.partial, inflated)


def _convolutions(name: str) -> nn.Module:
    """The network without its head, under its own names."""
    from torchvision.models import get_model, list_models

    try:
        net = get_model(name, weights=None)
    except ValueError as error:
        near = [known for known in list_models() if known.startswith(name[:4])][:5]
        raise ModelError(
            f"torchvision has no model {name!r}.",
            code="torchvision",
            fix=f"Some it has: {', '.join(near or list_models()[:5])}.",
        ) from error
    for head in ("fc", "classifier", "head", "avgpool"):
        if hasattr(net, head):
            delattr(net, head)
    return net


def _parts(net: nn.Module) -> Iterator[nn.Module]:
    """The parts that a radiograph passes one after the other."""
    for name, child in net.named_children():
        if name == "features":
            yield from child.children()
        else:
            yield child
    if type(net).__name__ == "DenseNet":
        yield nn.ReLU()


def _take_channels(net: nn.Module, channels: int) -> None:
    """A first convolution for so many channels."""
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                if child.in_channels != channels:
                    sizes: Any = (channels, child.out_channels, child.kernel_size, child.stride, child.padding)
                    setattr(module, name, nn.Conv2d(*sizes, bias=child.bias is not None))
                return


@torch.no_grad()
def _levels(
    net: nn.Module, channels: int, name: str
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """The numbers of the parts that end a level, and strides and channels of the levels.

    Raises:
        ModelError: code ``torchvision``: the network's parts are no maps of shrinking grids.
    """
    side, steps = 128, list[tuple[int, int]]()
    x = torch.zeros(1, channels, side, side)
    training = net.training
    net.eval()
    try:
        for part in _parts(net):
            x = part(x)
            if x.dim() != 4 or x.shape[2] != x.shape[3] or side % x.shape[2]:
                raise _no_maps(name)
            steps.append((side // x.shape[2], x.shape[1]))
    except (RuntimeError, TypeError, NotImplementedError, ValueError, AssertionError) as error:
        raise _no_maps(name) from error
    net.train(training)
    ends = [number for number, step in enumerate(steps) if number + 1 == len(steps) or steps[number + 1][0] > step[0]]
    ends = [number for number in ends if steps[number][0] > 1]
    return tuple(ends), tuple((steps[n][0],) * 2 for n in ends), tuple(steps[n][1] for n in ends)


def _no_maps(name: str) -> ModelError:
    return ModelError(
        f"torchvision's {name!r} has no feature maps, one part after the other.",
        code="torchvision",
        fix="Take a ResNet, DenseNet, ConvNeXt, EfficientNet or MobileNet, or {name: timm}.",
    )
