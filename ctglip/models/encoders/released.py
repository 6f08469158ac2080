"""What encoders have in common that others released: a card, names of weights, a way to see a scan."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from ctglip.encoder_cards import CtEncoderInput, EncoderCard, encoder_card
from ctglip.models.encoders.base import CellAnchor, Encoder, EncoderSettings, EndOfStride, VisionFeatures
from ctglip.models.weights.matching import same_shape
from ctglip.models.weights.reading import find_weights, read_state
from ctglip.models.weights.scheme import KeyScheme, fill_by_scheme

_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
_BACKWARDS = "LPI"
_LEAST_STD = 1e-6


class ReleasedSettings(EncoderSettings):
    """A released encoder. ``weights``: its file, a folder with it, or a name on the hub (``owner/name``, or
    ``owner/name/file``) of which there is a copy on this machine.

    Attributes:
        channel: which of the images' channels it sees; filled in from the data's windows.
    """

    channel: int = 0


class ReleasedCtSettings(ReleasedSettings):
    """A released encoder of scans."""

    spatial_dims: Literal[3] = 3  # pyright: ignore[reportIncompatibleVariableOverride]

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {**super().unread(), "channel": "its window says which"}


class ReleasedEncoder(Encoder):
    """Base of encoders that others released: a new one names its ``Settings`` and ``scheme``, sets ``network`` (whose
    weights have the scheme's names), ``level_channels``, ``token_dim`` and ``strides`` (of our axes: ``turned``), and
    has ``features``. Its card is a file of its name in ``configs/encoders/``.

    Args:
        settings: sizes, those of the released one by default.
        in_channels: channels of the images; it sees one of them.

    Raises:
        ValueError: the images have no such channel.
    """

    Settings: ClassVar[type[ReleasedSettings]]  # pyright: ignore[reportIncompatibleVariableOverride]
    scheme: ClassVar[KeyScheme]
    network: Any

    def __init__(self, settings: ReleasedSettings, in_channels: int) -> None:
        super().__init__()
        if not 0 <= settings.channel < in_channels:
            raise ValueError(f"channel {settings.channel} of images with {in_channels} channels")
        self.settings: ReleasedSettings = settings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def card(self) -> EncoderCard:
        """What is known of the released encoder."""
        return encoder_card(self.settings.name)

    @property
    def released_files(self) -> tuple[str, ...]:
        """Names of files with weights of this size, the usual one first."""
        return self.card.files

    @property
    def body(self) -> nn.Module:
        """The network with the project's own names."""
        return self.network

    @abstractmethod
    def features(self, image: Float[Tensor, "b 1 *s"]) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Levels, fine to coarse, and the pooled vector of images as the network wants them (its axes, its range).

        None for the vector: the mean of the last level.
        """

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The levels, on our axes."""
        return self(image).levels

    def forward(self, image: Float[Tensor, "b c *s"]) -> VisionFeatures:
        """Features of a batch of images; see ``Encoder``."""
        self.check_sides(image)
        found, pooled = self.features(self.standardize(self.seen(image)))
        return VisionFeatures.of(tuple(self.restored(level) for level in found), pooled)

    def seen(self, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *s"]:
        """The channel that it sees."""
        return image[:, self.settings.channel : self.settings.channel + 1]

    def standardize(self, image: Float[Tensor, "b 1 *s"]) -> Float[Tensor, "b 1 *t"]:
        """The network's input from a channel that shows its window as -1 to 1."""
        return self.turned_image(in_range(image, self.ct_input))

    def restored(self, level: Float[Tensor, "b d *t"]) -> Float[Tensor, "b d *s"]:
        """A feature map of the network's on our axes."""
        order, flips = axes_of(self.ct_input.orientation)
        level = level.flip([2 + axis for axis in flips]) if flips else level
        return level.permute(0, 1, *(2 + order.index(axis) for axis in range(3)))

    def turned_image(self, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *t"]:
        """An image of ours on the network's axes."""
        order, flips = axes_of(self.ct_input.orientation)
        image = image.permute(0, 1, *(2 + axis for axis in order))
        return image.flip([2 + axis for axis in flips]) if flips else image

    def kernel_anchor(self) -> CellAnchor:
        """Where the cells of odd kernels are centred, along our axes (``Encoder.anchor``)."""
        order, flips = axes_of(self.ct_input.orientation)
        ends: list[EndOfStride] = ["last" if order.index(axis) in flips else "first" for axis in range(3)]
        return tuple(ends)

    def turned(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes along the network's axes in the order of ours."""
        order, _ = axes_of(self.ct_input.orientation)
        return tuple(sizes[order.index(axis)] for axis in range(3))

    @property
    def ct_input(self) -> CtEncoderInput:
        """What it wants to see, of an encoder of scans."""
        assert self.card.ct is not None
        return self.card.ct

    def fill_from(self, source: str) -> float:
        """From the released file."""
        path = find_weights(source, self.card.hub, self.released_files)
        return fill_by_scheme(self.network, read_state(path), self.scheme, source, self.settings.partial, self.fit)

    @staticmethod
    def fit(name: str, new: Tensor, mine: Tensor) -> Tensor | None:
        """A released weight in the shape of ours, or None where that cannot be; see ``weights.match``."""
        return same_shape(name, new, mine)


def axes_of(orientation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of our axes (x to the right, y to the front, z to the head) each axis of an orientation is, and which of
    its axes run the other way."""
    order = tuple(_AXIS[letter] for letter in orientation)
    if sorted(order) != [0, 1, 2]:
        raise ValueError(f"orientation {orientation!r} does not name three axes")
    return order, tuple(axis for axis, letter in enumerate(orientation) if letter in _BACKWARDS)


def in_range(image: Float[Tensor, "b 1 *s"], expected: CtEncoderInput) -> Float[Tensor, "b 1 *s"]:
    """A window that is shown as -1 to 1 in the range that an encoder wants."""
    low, high = expected.range
    image = low + (image + 1) * ((high - low) / 2)
    if expected.per_image != "none":
        flat = image.flatten(1)
        if expected.per_image == "z_score":
            middle, width = flat.mean(1), flat.std(1)
        else:
            middle, width = flat.amin(1), flat.amax(1) - flat.amin(1)
        shape = (-1, *[1] * (image.dim() - 1))
        image = (image - middle.view(shape)) / width.clamp(min=_LEAST_STD).view(shape)
    return (image - expected.mean) / expected.std


def released_window(name: str) -> tuple[float, float]:
    """The window, in HU, that a released encoder of scans sees."""
    expected = encoder_card(name).ct
    assert expected is not None
    return expected.window_hu


def channel_of(name: str, windows: Sequence[tuple[float, float]]) -> int:
    """Which of the windows of some data a released encoder of scans sees.

    Raises:
        ValueError: none is the encoder's.
    """
    low, high = released_window(name)
    for number, window in enumerate(windows):
        if (window[0], window[1]) == (low, high):
            return number
    raise ValueError(f"{name} sees HU {low:g} to {high:g}, which no window shows")
