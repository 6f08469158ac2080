"""The organ-text model: organs of scans or radiographs on one side, texts on the other, one space between."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.config import Settings
from ctglip.errors import ModelError
from ctglip.models.decoders import QueryDecoder
from ctglip.models.encoders import AnyEncoderSettings, build_encoder
from ctglip.models.encoders.base import VisionFeatures
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.heads import HeadNorm, ProjectionHead
from ctglip.models.intensities import IntensityHistogram
from ctglip.models.observations import ObservationExtractor, Observations, ObservationSettings
from ctglip.models.pooling import (
    AttentionPool,
    BoxPooling,
    PeakPool,
    box_weights,
    coverage,
    label_coverage,
    masked_pool,
    pool_boxes,
    pool_labels,
    pool_organs,
)
from ctglip.models.tags import TagDecoder, TagSettings
from ctglip.models.whole import TokenHead, TokenPooling, joined_levels

Grounding = Literal["crop", "pool", "box", "query", "none"]


class OrganTextModelSettings(Settings):
    """What the model is made of.

    Attributes:
        encoder: the image encoder.
        in_channels: channels of an image (a crop's mask channel included).
        grounding: how an organ is found. ``crop``: each organ's crop is an image of its own. ``pool``: many organs in
            one image, by its label map. ``box``: by boxes. ``query``: learned queries look for them. ``none``: whole
            images alone.
        pooling: over an organ's voxels: ``mean``; ``mean_peak``, the mean beside a soft maximum (``crop`` alone); or
            ``attention`` with the organ's own query.
        context: what lies around an organ is pooled as well, over its whole crop (``crop`` with ``mean`` or
            ``mean_peak``): fluid beside a kidney, the muscle that a liver's density is compared with.
        histogram: bins of the histogram of each channel over the organ, one more input (``crop`` alone); 0: none.
        pool_levels: levels of the encoder that are pooled (``query`` reads the tokens).
        box_pooling: the mean over a box: exact area weights, or RoIAlign (radiographs).
        project: what the head of organs reads: what was ``pooled`` over an organ, or each ``token`` before that (ASG;
            one level, ``pool`` and ``box`` with ``mean`` alone, without size and anatomy).
        organs: number of organs with a query (``attention``, ``query``).
        query_layers: depth of the query decoder.
        use_size: the organ's scale and volume are inputs.
        anatomy: there is a head for anatomy.
        whole_image: there is a head for whole images.
        image_project: what that head reads: the encoder's ``pooled`` vector, or each ``token``. Then an image's vector
            is the direction of the mean of its tokens' (``models.whole``), so that what each token adds is known.
        image_levels, image_pooling: of ``token``: levels whose maps are its tokens, on the grid of the finest, and how
            they are averaged.
        observations: learned queries read whole images, each an observation to compare with sentences (PLACE,
            re-implemented from its abstract).
        dim: width of an organ's feature.
        embedding_dim: width of the common space.
        text_dim: width of the text embeddings that come in.
        head_norm: ``layer``, or the heads with ``batch`` norm that radiographs are published with (hidden width:
        ``dim``).
        tags: the model has a decoder of tags.
    """

    encoder: AnyEncoderSettings = CNNSettings()
    in_channels: int = 4
    grounding: Grounding = "crop"
    pooling: Literal["mean", "mean_peak", "attention"] = "mean"
    context: bool = False
    histogram: int = Field(default=0, ge=0)
    pool_levels: tuple[int, ...] = (-2, -1)
    box_pooling: BoxPooling = "area"
    project: Literal["pooled", "token"] = "pooled"
    organs: int = 0
    query_layers: int = 2
    use_size: bool = True
    anatomy: bool = True
    whole_image: bool = False
    image_project: Literal["pooled", "token"] = "pooled"
    image_levels: tuple[int, ...] = (-1,)
    image_pooling: TokenPooling = "mean"
    observations: ObservationSettings | None = None
    dim: int = 256
    embedding_dim: int = 128
    text_dim: int = 384
    head_norm: HeadNorm = "layer"
    tags: TagSettings | None = None


class OrganTextModel(nn.Module):
    """Organs and text embeddings to unit vectors that can be compared.

    Args:
        settings: widths and parts.

    Raises:
        ModelError: code ``model_settings``: learned queries without a number of organs, ``mean_peak`` without crops,
            tokens projected where that is not possible.
    """

    def __init__(self, settings: OrganTextModelSettings) -> None:
        super().__init__()
        self.encoder = build_encoder(settings.encoder, settings.in_channels)
        self.settings = settings.model_copy(update={"encoder": self.encoder.settings})
        if settings.grounding != "none":
            self._build_organs()
        if self.by_token:
            self.image_head = TokenHead(
                self._head(sum(self.encoder.level_channels[level] for level in settings.image_levels)),
                self.encoder.settings.spatial_dims,
                settings.image_pooling,
            )
        elif settings.whole_image:
            self.image_head = self._head(self.encoder.token_dim)
        hidden = settings.dim if settings.head_norm == "batch" else 0
        self.text_head = ProjectionHead(settings.text_dim, settings.embedding_dim, hidden, settings.head_norm)
        if settings.observations is not None:
            self.observer = ObservationExtractor(
                settings.observations,
                self.encoder.level_channels,
                self.encoder.settings.spatial_dims,
                settings.embedding_dim,
                settings.text_dim,
            )
        if settings.tags is not None:
            self.tag_decoder = TagDecoder(settings.tags, self.encoder.token_dim, settings.text_dim)

    def _head(self, width: int) -> ProjectionHead:
        settings = self.settings
        return ProjectionHead(width, settings.embedding_dim, settings.dim, settings.head_norm)

    def _build_organs(self) -> None:
        """What reads organs from the encoder's maps."""
        settings = self.settings
        widths = [self.encoder.level_channels[level] for level in settings.pool_levels]
        asks = settings.grounding == "query" or settings.pooling == "attention"
        if asks and settings.organs < 1:
            raise ModelError("Organ queries need model.organs, the number of organs.", code="model_settings")
        if settings.project == "token":
            wanted = settings.grounding in ("pool", "box") and settings.pooling == "mean" and not settings.anatomy
            if not wanted or len(widths) != 1:
                raise ModelError(
                    "project: token needs grounding: pool or box, pooling: mean, no anatomy and one of pool_levels.",
                    code="model_settings",
                )
            self.diagnosis_head = self._head(widths[0])
            return
        if settings.grounding == "query":
            width = self.encoder.token_dim
            self.queries = nn.Embedding(settings.organs, width)
            self.decoder = QueryDecoder(width, settings.query_layers, hidden=4 * width)
            widths = [width]
        elif settings.pooling == "attention":
            self.attention = nn.ModuleList(AttentionPool(width, settings.organs) for width in widths)
        elif settings.pooling == "mean_peak":
            if settings.grounding != "crop":
                raise ModelError("pooling: mean_peak needs grounding: crop.", code="model_settings")
            self.peaks = nn.ModuleList(PeakPool(width) for width in widths * (1 + settings.context))
            widths = [*widths, *widths]
        if settings.context:
            if settings.grounding != "crop" or settings.pooling == "attention":
                raise ModelError(
                    "context: true needs grounding: crop and pooling: mean or mean_peak.", code="model_settings"
                )
            widths = [*widths, *widths]
        self.organ_norm = nn.LayerNorm(sum(widths))
        self.organ = nn.Linear(sum(widths), settings.dim)
        if settings.use_size:
            self.size = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, settings.dim))
        if settings.histogram:
            if settings.grounding != "crop":
                raise ModelError("histogram needs grounding: crop.", code="model_settings")
            self.histogram = IntensityHistogram(settings.in_channels, settings.histogram, settings.dim)
        if settings.anatomy:
            self.anatomy_head = self._head(settings.dim)
        self.diagnosis_head = self._head(settings.dim)

    def organ_features(
        self,
        images: Float[Tensor, "m c *s"],
        masks: Float[Tensor, "m 1 *s"],
        sizes: Float[Tensor, "m 4"],
        organ_id: Int[Tensor, " m"] | None = None,
        vision: VisionFeatures | None = None,
    ) -> Float[Tensor, "m d"]:
        """One feature for each organ's crop: masked pooling at each of ``pool_levels`` and the organ's size.

        Args:
            images: crops; a float16 store of crops is welcome, the weights' type is used.
            masks: the organ in each crop, 0 to 1.
            sizes: standardised log mm per voxel (x, y, z) and log volume.
            organ_id: which query reads each crop; for ``pooling: attention`` alone.
            vision: what the encoder makes of the crops, where that is known.
        """
        levels, masks = self._levels(images, vision), masks.to(self._kind)
        told = self.histogram(images.to(self._kind), masks) if self.settings.histogram else 0
        weights = [coverage(masks, tuple(level.shape[2:])) for level in levels]
        if self.settings.pooling == "attention":
            assert organ_id is not None
            own = torch.arange(len(images), device=images.device)
            return self._attended(levels, [w.flatten(1) for w in weights], sizes, organ_id, own) + told
        regions = [weights, [torch.ones_like(w) for w in weights]] if self.settings.context else [weights]
        pairs = [pair for region in regions for pair in zip(levels, region, strict=True)]
        pooled = [masked_pool(*pair) for pair in pairs]
        if self.settings.pooling == "mean_peak":
            pooled += [peak(*pair) for peak, pair in zip(self.peaks, pairs, strict=True)]
        return self._feature(pooled, sizes) + told

    def study_features(
        self,
        images: Float[Tensor, "b c *s"],
        sizes: Float[Tensor, "m 4"],
        organ_id: Int[Tensor, " m"],
        study_index: Int[Tensor, " m"],
        labels: Int[Tensor, "b ..."] | None = None,
        member: Float[Tensor, "m l"] | None = None,
        boxes: Float[Tensor, "m e"] | None = None,
        vision: VisionFeatures | None = None,
    ) -> Float[Tensor, "m d"]:
        """One feature for each organ of whole images, each image encoded once.

        Args:
            images: scans, patches or radiographs.
            sizes: as in ``organ_features``.
            organ_id: the query of each organ.
            study_index: the image of each organ.
            labels: label maps of the images (``pool``).
            member: which labels make up each organ (``pool``).
            boxes: half-open ``(x0, x1, y0, y1, ...)`` in image voxels (``box``).
            vision: what the encoder makes of the images, where that is known.
        """
        seen: VisionFeatures = self.encoder(images.to(self._kind)) if vision is None else vision
        if self.settings.grounding == "query":
            found, _ = self.decoder(self.queries.weight.expand(len(seen.tokens), -1, -1), seen.tokens)
            return self._feature([found[study_index, organ_id]], sizes)
        levels = [seen.levels[level] for level in self.settings.pool_levels]
        if self.settings.project == "token":
            weights = self.organ_weights(images, levels[0], study_index, labels, member, boxes)
            return pool_organs(self.token_map(levels[0]), weights, study_index)
        if self.settings.pooling == "mean":
            if self.settings.grounding == "pool":
                assert labels is not None
                assert member is not None
                return self._feature([pool_labels(level, labels, member, study_index) for level in levels], sizes)
            pooled = [
                pool_boxes(level, self._on_grid(images, level, boxes), study_index, self.settings.box_pooling)
                for level in levels
            ]
            return self._feature(pooled, sizes)
        weights = [self.organ_weights(images, level, study_index, labels, member, boxes) for level in levels]
        return self._attended(levels, weights, sizes, organ_id, study_index)

    def organ_weights(
        self,
        images: Float[Tensor, "b c *S"],
        level: Float[Tensor, "b d *s"],
        study_index: Int[Tensor, " m"],
        labels: Int[Tensor, "b ..."] | None = None,
        member: Float[Tensor, "m l"] | None = None,
        boxes: Float[Tensor, "m e"] | None = None,
    ) -> Float[Tensor, "m n"]:
        """How much each voxel of a level belongs to each organ (``pool``, ``box``); arguments as ``study_features``."""
        grid = tuple(level.shape[2:])
        if self.settings.grounding == "box":
            return box_weights(self._on_grid(images, level, boxes), grid, self.settings.box_pooling)
        assert labels is not None
        assert member is not None
        filled = label_coverage(labels, member.shape[1], grid)
        return torch.einsum("ml,mln->mn", member.to(filled.dtype), filled[study_index])

    def token_map(self, level: Float[Tensor, "b d *s"]) -> Float[Tensor, "b e *s"]:
        """Each token of a level as a unit vector of the common space (``project: token``)."""
        return self.diagnosis_head(level.movedim(1, -1)).movedim(-1, 1)

    def tags(
        self, tokens: Float[Tensor, "b n c"], tag_embeddings: Float[Tensor, "t d"] | None = None
    ) -> Float[Tensor, "b t"]:
        """Logits of tags: their sigmoid is the probability that an image shows each (settings with ``tags``).

        Args:
            tokens: ``encoder(images).tokens``.
            tag_embeddings: raw text embeddings (``Release.embed``) of the tags asked; those of ``settings.tags.names``
                travel with the weights and are taken where None.
        """
        return self.tag_decoder(tokens, tag_embeddings)[0]

    def anatomy(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Unit vectors that are compared with organ prompts: which organ is this?"""
        return self.anatomy_head(features)

    def diagnosis(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Unit vectors that are compared with findings: what does it show?"""
        return F.normalize(features, dim=-1) if self.settings.project == "token" else self.diagnosis_head(features)

    def image(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b t"]:
        """One feature for each whole image; channels that only a crop has (the organ's) are zero in it."""
        return self.image_feature(self.image_input(self.encoder(self.filled(images))))

    def image_input(self, vision: VisionFeatures) -> Float[Tensor, "b c *s"]:
        """What the head for whole images reads: the pooled vector ``[b, c]``, or the tokens' map."""
        if not self.by_token:
            return vision.pooled
        return joined_levels([vision.levels[level] for level in self.settings.image_levels])

    def image_feature(self, seen: Float[Tensor, "b c *s"]) -> Float[Tensor, "b t"]:
        """One feature for each whole image from what its head reads; of tokens their mean in the common space."""
        return self.image_head(seen) if self.by_token else seen

    def image_parts(self, vision: VisionFeatures) -> Float[Tensor, "b e *s"]:
        """What each token adds to the unit vector of its image: their mean over tokens is that vector.

        Where the head reads the pooled vector this isn't known: each token as if it were a whole image.
        """
        if not self.by_token:
            return self.image_head(vision.tokens).transpose(1, 2).unflatten(2, vision.grid)
        assert isinstance(self.image_head, TokenHead)
        return self.image_head.parts(self.image_input(vision))

    def filled(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *s"]:
        """Whole images as the encoder sees them."""
        missing = self.settings.in_channels - images.shape[1]
        filled = torch.cat([images, images.new_zeros(len(images), missing, *images.shape[2:])], dim=1)
        return filled.to(self._kind)

    @property
    def by_token(self) -> bool:
        """There is a head for whole images, and it reads tokens."""
        return self.settings.whole_image and self.settings.image_project == "token"

    def observe(self, images: Float[Tensor, "b c *s"]) -> Observations:
        """What the learned queries find in whole images, and where they look (settings with ``observations``)."""
        return self.observer(self.encoder(self.filled(images)).levels)

    def whole(self, features: Float[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        """Unit vectors of whole images that are compared with reports (``whole_image``); of what ``image`` gave."""
        return F.normalize(features, dim=-1) if self.by_token else self.image_head(features)

    def text(self, embeddings: Float[Tensor, "n t"]) -> Float[Tensor, "n e"]:
        """Unit vectors of text embeddings as the text encoder gave them."""
        return self.text_head(embeddings.to(self._kind))

    @property
    def _kind(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _levels(self, images: Tensor, vision: VisionFeatures | None) -> list[Tensor]:
        seen: VisionFeatures = self.encoder(images.to(self._kind)) if vision is None else vision
        return [seen.levels[level] for level in self.settings.pool_levels]

    def _on_grid(self, images: Tensor, level: Tensor, boxes: Tensor | None) -> Tensor:
        """Boxes of the image in voxels of a level."""
        assert boxes is not None
        boxes = boxes.to(self._kind)
        step = boxes.new_tensor(level.shape[2:]) / boxes.new_tensor(images.shape[2:])
        return boxes * step.repeat_interleave(2)

    def _attended(
        self, levels: list[Tensor], weights: list[Tensor], sizes: Tensor, organ_id: Tensor, study_index: Tensor
    ) -> Tensor:
        pools = zip(self.attention, levels, weights, strict=True)
        return self._feature([pool(level, organ_id, study_index, each) for pool, level, each in pools], sizes)

    def _feature(self, pooled: list[Tensor], sizes: Tensor) -> Tensor:
        features = self.organ(self.organ_norm(torch.cat(pooled, dim=1)))
        return features + self.size(sizes.to(self._kind)) if self.settings.use_size else features
