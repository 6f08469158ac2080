"""How a model reads regions (organs) from images: from crops, or from whole images by mask, by box or by query.

A new reader is a class with its settings, and a line in ``REGION_READERS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from ctglip.config import OneOf, Settings
from ctglip.models.decoders import QueryDecoder
from ctglip.models.encoders.base import Encoder, VisionFeatures
from ctglip.models.heads import ProjectionHead, RegionProjection
from ctglip.models.image_heads import joined_levels
from ctglip.models.organ_attention import load_organ_attention, organ_attention
from ctglip.models.pooling import (
    AttentionPool,
    BoxPooling,
    PeakPool,
    box_weights,
    coverage,
    label_shares,
    label_weights,
    masked_pool,
    pool_boxes,
    pool_labels,
    pool_organs,
)


class ModelInputs(Settings):
    """What follows from data, texts and objective when a model is built; saved with it.

    Attributes:
        in_channels: channels of an image (a crop's mask channel included).
        text_dim: width of the text embeddings.
        sizes: a region's scale and volume are known.
        anatomy: there is a head for anatomy.
        organs: number of organs, as ``organ_id`` counts them.
        organ_labels: the numbers in a label map that make up each organ, for the reader ``mask``.
        tags: names of the tags, in order.
    """

    in_channels: int = 4
    text_dim: int = 384
    sizes: bool = True
    anatomy: bool = True
    organs: int = 0
    organ_labels: tuple[tuple[int, ...], ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Regions:
    """M regions of B images; each reader needs some of the fields (``RegionReader.reads``).

    Attributes:
        size: standardised log mm per voxel (x, y, z) and log volume.
        organ_id: which organ each is.
        study_index: the image of each.
        mask: the organ in each crop, 0 to 1.
        labels: label maps; or the share of each cell that each label fills, ``[b, l, *s]`` (``pooling.label_shares``).
        boxes: half-open ``(x0, x1, y0, y1, ...)`` in image voxels.
    """

    size: Float[Tensor, "m 4"] | None = None
    organ_id: Int[Tensor, " m"] | None = None
    study_index: Int[Tensor, " m"] | None = None
    mask: Float[Tensor, "m 1 *s"] | None = None
    labels: Num[Tensor, "b ..."] | None = None
    boxes: Float[Tensor, "m e"] | None = None


class RegionReaderSettings(Settings):
    """What all readers have: a ``name``."""

    name: str


@dataclass(frozen=True)
class ReaderParts:
    """What a reader is built from: the encoder, what is known of the inputs, the widths of a feature and of the common
    space, and what builds a projection head for a width."""

    encoder: Encoder
    inputs: ModelInputs
    dim: int
    head: Callable[[int], ProjectionHead]
    embedding_dim: int

    def widths(self, levels: tuple[int, ...]) -> list[int]:
        """Channels of some levels of the encoder."""
        return [self.encoder.level_channels[level] for level in levels]


class RegionReader(nn.Module, ABC):
    """Base of every reader: ``forward(images, vision, regions) -> [M, dim]``.

    Attributes:
        Settings: what it is built from, with a ``name`` of its own.
        reads: the fields of ``Regions`` that it needs (``size`` where it is known).
        levels: levels of the encoder that answers are read from.
        dim: width of a feature.
        knows_size: a region's size is known with it.
        aligned: features are in the common space already.
    """

    Settings: ClassVar[type[RegionReaderSettings]]
    reads: ClassVar[tuple[str, ...]]
    levels: tuple[int, ...] = (-1,)
    dim: int
    knows_size: ClassVar[bool] = True
    aligned: bool = False

    @abstractmethod
    def prepare(self, images: Tensor, vision: VisionFeatures, regions: Regions) -> dict[str, Tensor]:
        """The part that looks at each image alone: rows of regions or of images, by name.

        Args:
            images: crops (m = b), or whole images.
            vision: what the encoder makes of them.
            regions: what is read.
        """

    def load_pretrained(self, organs: Sequence[str]) -> None:
        """Fill it with weights that its settings name; ``organs``: their names, in the order of their ids."""

    def finish(self, prepared: Mapping[str, Tensor], study_index: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:  # noqa: ARG002
        """Features from what was prepared; ``study_index`` is the row of each region's image."""
        return prepared["region"]

    def forward(self, images: Tensor, vision: VisionFeatures, regions: Regions) -> Float[Tensor, "m d"]:
        """One feature for each region."""
        study_index = torch.arange(len(images)) if regions.study_index is None else regions.study_index
        return self.finish(self.prepare(images, vision, regions), study_index)


class CropReaderSettings(RegionReaderSettings):
    """Each organ's crop is an image of its own; the organ's voxels are pooled.

    Attributes:
        pooling: the mean over voxels; or ``mean_peak``, beside it a soft maximum.
        context: what lies around the organ is pooled as well, over its whole crop: fluid beside a kidney, the muscle
            that a liver's density is compared with.
        size: the organ's scale and volume are an input.
        levels: levels of the encoder that are pooled.
    """

    name: Literal["crop"] = "crop"  # pyright: ignore[reportIncompatibleVariableOverride]
    pooling: Literal["mean", "mean_peak"] = "mean"
    context: bool = False
    size: bool = True
    levels: tuple[int, ...] = (-2, -1)


class CropReader(RegionReader):
    """Organs from their crops."""

    Settings = CropReaderSettings
    reads = ("mask",)

    def __init__(self, settings: CropReaderSettings, parts: ReaderParts) -> None:
        super().__init__()
        self.settings, self.levels, self.dim = settings, settings.levels, parts.dim
        widths = parts.widths(settings.levels) * (1 + settings.context)
        if settings.pooling == "mean_peak":
            self.peaks = nn.ModuleList(PeakPool(width) for width in widths)
        repeats = 2 if settings.pooling == "mean_peak" else 1
        self.project = RegionProjection(repeats * sum(widths), parts.dim, parts.inputs.sizes and settings.size)

    def prepare(self, images: Tensor, vision: VisionFeatures, regions: Regions) -> dict[str, Tensor]:
        """``region``: the features."""
        assert regions.mask is not None
        levels, masks = [vision.levels[level] for level in self.levels], regions.mask.to(images.dtype)
        weights = [coverage(masks, tuple(level.shape[2:])) for level in levels]
        pairs = list(zip(levels, weights, strict=True))
        if self.settings.context:
            pairs += [(level, torch.ones_like(weight)) for level, weight in pairs]
        pooled = [masked_pool(*pair) for pair in pairs]
        if self.settings.pooling == "mean_peak":
            pooled += [peak(*pair) for peak, pair in zip(self.peaks, pairs, strict=True)]
        return {"region": self.project(pooled, regions.size)}


class MapReaderSettings(RegionReaderSettings):
    """Regions of whole images, each image encoded once.

    Attributes:
        pooling: the ``mean`` over a region's voxels; ``attention`` with the organ's own query; ``tokens``: each is
            projected into the common space before it is averaged (ASG); ``organ_attention``: the organ's query reads
            the voxels of all levels, and the organ has its own projection into the common space (fVLM).
        levels: levels of the encoder that are pooled; ``tokens`` joins them on the finest grid, and
            ``organ_attention`` wants one grid.
        weights: fVLM's released file, for its organ attention; none: random.
    """

    pooling: Literal["mean", "attention", "tokens", "organ_attention"] = "mean"
    levels: tuple[int, ...] = (-2, -1)
    weights: str | None = None

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        read = self.weights is None or self.pooling == "organ_attention"
        return {} if read else {"weights": f"pooling is {self.pooling}"}


class MapReader(RegionReader):
    """Regions that cover a part of each voxel of a feature map."""

    def __init__(self, settings: MapReaderSettings, parts: ReaderParts) -> None:
        super().__init__()
        self.settings, self.levels = settings, settings.levels
        widths = parts.widths(settings.levels)
        self.aligned = settings.pooling in ("tokens", "organ_attention")
        self.dim = parts.embedding_dim if self.aligned else parts.dim
        if settings.pooling == "organ_attention":
            self.organ_attention = organ_attention(parts.encoder, settings.levels, parts.inputs.organs, self.dim)
        elif self.aligned:
            self.head = parts.head(sum(widths))
        if self.aligned:
            return
        if settings.pooling == "attention":
            self.attention = nn.ModuleList(AttentionPool(width, parts.inputs.organs) for width in widths)
        self.project = RegionProjection(sum(widths), parts.dim, parts.inputs.sizes)

    @abstractmethod
    def weights(self, level: Float[Tensor, "b d *s"], images: Tensor, regions: Regions) -> Float[Tensor, "m n"]:
        """How much each voxel of a level belongs to each region."""

    @abstractmethod
    def mean(self, level: Float[Tensor, "b d *s"], images: Tensor, regions: Regions) -> Float[Tensor, "m d"]:
        """The mean of a level over each region."""

    def prepare(self, images: Tensor, vision: VisionFeatures, regions: Regions) -> dict[str, Tensor]:
        """``region``: the features; or the ``level`` and the ``weights`` of each region's voxels (``tokens``)."""
        levels = [vision.levels[level] for level in self.levels]
        if self.settings.pooling == "organ_attention":
            inside = self.weights(levels[-1], images, regions) > 0
            return {"region": self.organ_attention(levels, inside, regions.organ_id, regions.study_index)}
        if self.aligned:
            level = joined_levels(levels)
            return {"level": level, "weights": self.weights(level, images, regions)}
        if self.settings.pooling == "mean":
            pooled = [self.mean(level, images, regions) for level in levels]
        else:
            pooled = [
                pool(level, regions.organ_id, regions.study_index, self.weights(level, images, regions))
                for pool, level in zip(self.attention, levels, strict=True)
            ]
        return {"region": self.project(pooled, regions.size)}

    def load_pretrained(self, organs: Sequence[str]) -> None:
        """Fill the organ attention; see ``organ_attention.load_organ_attention``."""
        if self.settings.weights:
            load_organ_attention(self.organ_attention, self.settings.weights, organs)

    def finish(self, prepared: Mapping[str, Tensor], study_index: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Features; of ``tokens`` the mean of unit vectors."""
        if "region" in prepared:
            return prepared["region"]
        tokens = self.head(prepared["level"].movedim(1, -1)).movedim(-1, 1)
        return pool_organs(tokens, prepared["weights"], study_index)


class MaskReaderSettings(MapReaderSettings):
    """Regions by the label map of a whole image."""

    name: Literal["mask"] = "mask"  # pyright: ignore[reportIncompatibleVariableOverride]


class MaskReader(MapReader):
    """Organs by their masks."""

    Settings = MaskReaderSettings
    reads = ("study_index", "organ_id", "labels")
    members: Tensor

    def __init__(self, settings: MaskReaderSettings, parts: ReaderParts) -> None:
        super().__init__(settings, parts)
        labels = parts.inputs.organ_labels
        members = torch.zeros(len(labels), 1 + max((max(numbers, default=0) for numbers in labels), default=0))
        for organ, numbers in enumerate(labels):
            members[organ, list(numbers)] = 1
        self.register_buffer("members", members, persistent=False)

    def weights(self, level: Float[Tensor, "b d *s"], images: Tensor, regions: Regions) -> Float[Tensor, "m n"]:  # noqa: ARG002
        """How much of each voxel the organ's labels fill."""
        labels, members, study_index = self._labels(regions)
        filled = label_shares(labels, members.shape[1], tuple(level.shape[2:]))
        return label_weights(filled, members, study_index)

    def mean(self, level: Float[Tensor, "b d *s"], images: Tensor, regions: Regions) -> Float[Tensor, "m d"]:  # noqa: ARG002
        """The mean over the organ's labels; over the whole map for an organ that is not there."""
        return pool_labels(level, *self._labels(regions))

    def _labels(self, regions: Regions) -> tuple[Tensor, Tensor, Tensor]:
        """Label maps, and members and image of each region."""
        assert regions.labels is not None
        assert regions.organ_id is not None
        assert regions.study_index is not None
        return regions.labels, self.members[regions.organ_id], regions.study_index


class BoxReaderSettings(MapReaderSettings):
    """Regions by boxes in a whole image.

    Attributes:
        box_pooling: the mean over a box: exact ``area`` weights, or ``roi_align`` (radiographs alone).
    """

    name: Literal["box"] = "box"  # pyright: ignore[reportIncompatibleVariableOverride]
    box_pooling: BoxPooling = "area"


class BoxReader(MapReader):
    """Regions by their boxes."""

    Settings = BoxReaderSettings
    reads = ("study_index", "boxes")
    settings: BoxReaderSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: BoxReaderSettings, parts: ReaderParts) -> None:
        super().__init__(settings, parts)
        if settings.pooling in ("attention", "organ_attention"):
            self.reads = (*BoxReader.reads, "organ_id")  # pyright: ignore[reportAttributeAccessIssue]

    def weights(self, level: Float[Tensor, "b d *s"], images: Tensor, regions: Regions) -> Float[Tensor, "m n"]:
        """How much of each voxel the box fills."""
        return box_weights(_on_grid(images, level, regions), tuple(level.shape[2:]), self.settings.box_pooling)

    def mean(self, level: Float[Tensor, "b d *s"], images: Tensor, regions: Regions) -> Float[Tensor, "m d"]:
        """The mean over the box."""
        assert regions.study_index is not None
        boxes = _on_grid(images, level, regions)
        return pool_boxes(level, boxes, regions.study_index, self.settings.box_pooling)


def _on_grid(images: Tensor, level: Tensor, regions: Regions) -> Tensor:
    """Boxes of the image in voxels of a level."""
    assert regions.boxes is not None
    boxes = regions.boxes.to(images.dtype)
    step = boxes.new_tensor(level.shape[2:]) / boxes.new_tensor(images.shape[2:])
    return boxes * step.repeat_interleave(2)


class QueryReaderSettings(RegionReaderSettings):
    """Learned queries, one for each organ, look for the organs among a whole image's tokens.

    Attributes:
        layers: depth of the decoder.
    """

    name: Literal["query"] = "query"  # pyright: ignore[reportIncompatibleVariableOverride]
    layers: int = 2


class QueryReader(RegionReader):
    """Organs by learned queries."""

    Settings = QueryReaderSettings
    reads = ("study_index", "organ_id")
    knows_size = False

    def __init__(self, settings: QueryReaderSettings, parts: ReaderParts) -> None:
        super().__init__()
        width = parts.encoder.token_dim
        self.settings, self.dim = settings, parts.dim
        self.queries = nn.Embedding(parts.inputs.organs, width)
        self.decoder = QueryDecoder(width, settings.layers, hidden=4 * width)
        self.project = RegionProjection(width, parts.dim, parts.inputs.sizes)

    def prepare(self, images: Tensor, vision: VisionFeatures, regions: Regions) -> dict[str, Tensor]:  # noqa: ARG002
        """``region``: the features."""
        found, _ = self.decoder(self.queries.weight.expand(len(vision.tokens), -1, -1), vision.tokens)
        return {"region": self.project([found[regions.study_index, regions.organ_id]], regions.size)}


REGION_READERS: dict[str, type[Any]] = {
    "crop": CropReader,
    "mask": MaskReader,
    "box": BoxReader,
    "query": QueryReader,
}
"""Readers by the ``name`` of their settings."""

AnyReaderSettings = Annotated[RegionReaderSettings | None, OneOf(REGION_READERS, optional=True)]
