"""The dual encoder: images and their organs on one side, texts on the other, one space between."""

from __future__ import annotations

from typing import Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.config import Settings
from ctglip.errors import ModelError
from ctglip.models.encoders import AnyEncoderSettings, build_encoder
from ctglip.models.encoders.base import Encoder, VisionFeatures
from ctglip.models.encoders.cached import CachedEncoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.heads import HeadNorm, ProjectionHead
from ctglip.models.image_heads import IMAGE_HEADS, AnyImageHeadSettings, PooledHead, TokenHead
from ctglip.models.region_readers import (
    REGION_READERS,
    AnyReaderSettings,
    ModelInputs,
    ReaderParts,
    RegionReader,
    Regions,
)
from ctglip.models.resampler import Resampler, ResamplerSettings
from ctglip.models.tags import TagDecoder, TagSettings


class DualEncoderSettings(Settings):
    """What the model is made of. What follows from data, texts and objective is in ``ModelInputs``.

    Attributes:
        encoder: the image encoder.
        regions: how organs are read (``models.region_readers``); null: not at all.
        image: the head for whole images (``models.image_heads``); null: none.
        resampler: learned queries that read whole images, to compare with sentences (PLACE, re-implemented from its
            abstract).
        tags: the decoder of tags.
        dim: width of an organ's feature, and hidden width of the heads.
        head_hidden: hidden width of the images' and organs' heads, where it is another; 0 for one linear layer.
        text_hidden: that of the texts' head; where it is not set, ``dim`` of heads with ``batch`` or ``weight`` norm,
            and one linear layer of others.
        embedding_dim: width of the common space.
        head_norm: kind of the heads (``models.heads.ProjectionHead``).
    """

    encoder: AnyEncoderSettings = CNNSettings()
    regions: AnyReaderSettings = None
    image: AnyImageHeadSettings = None
    resampler: ResamplerSettings | None = None
    tags: TagSettings | None = None
    dim: int = 256
    head_hidden: int | None = Field(default=None, ge=0)
    text_hidden: int | None = Field(default=None, ge=0)
    embedding_dim: int = 128
    head_norm: HeadNorm = "layer"


class DualEncoder(nn.Module):
    """Images, organs and text embeddings to unit vectors that can be compared.

    Args:
        settings: its parts.
        inputs: what is known of images and texts.

    Attributes:
        region_reader, image_head, resampler, tag_decoder, anatomy_head, diagnosis_head: None where the model has none.

    Raises:
        ModelError: code ``model_settings``: the encoder's settings do not fit each other.
    """

    def __init__(self, settings: DualEncoderSettings, inputs: ModelInputs | None = None) -> None:
        super().__init__()
        inputs = inputs or ModelInputs()
        self.encoder: Encoder = build_encoder(settings.encoder, inputs.in_channels)
        self.settings, self.inputs = settings.model_copy(update={"encoder": self.encoder.settings}), inputs
        self.region_reader: RegionReader | None = None
        self.anatomy_head = self.diagnosis_head = None
        if settings.regions is not None:
            parts = ReaderParts(self.encoder, inputs, settings.dim, self._head, settings.embedding_dim)
            reader = self.region_reader = REGION_READERS[settings.regions.name](settings.regions, parts)
            self.anatomy_head = self._head(reader.dim) if inputs.anatomy else None
            self.diagnosis_head = None if reader.aligned else self._head(reader.dim)
        self.image_head: PooledHead | TokenHead | None = None
        if settings.image is not None:
            self.image_head = IMAGE_HEADS[settings.image.name](settings.image, self.encoder, self._head)
        hidden = settings.dim if settings.head_norm in ("batch", "weight") else 0
        hidden = hidden if settings.text_hidden is None else settings.text_hidden
        self.text_head = ProjectionHead(inputs.text_dim, settings.embedding_dim, hidden, settings.head_norm)
        self.resampler = self.tag_decoder = None
        if settings.resampler is not None:
            widths = (settings.embedding_dim, inputs.text_dim)
            self.resampler = Resampler(settings.resampler, self.encoder, *widths)
        if settings.tags is not None:
            self.tag_decoder = TagDecoder(settings.tags, inputs.tags, self.encoder.token_dim, inputs.text_dim)

    def _head(self, width: int) -> ProjectionHead:
        settings = self.settings
        hidden = settings.dim if settings.head_hidden is None else settings.head_hidden
        return ProjectionHead(width, settings.embedding_dim, hidden, settings.head_norm)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.settings.encoder.train.hold(self.encoder)
        return self

    @property
    def reads_crops(self) -> bool:
        """Organs are read from crops, not in whole images."""
        return self.settings.regions is not None and self.settings.regions.name == "crop"

    @property
    def reading(self) -> str:
        """The name of its region reader, ``none`` without one."""
        return "none" if self.settings.regions is None else self.settings.regions.name

    @property
    def region_inputs(self) -> tuple[str, ...]:
        """The fields of ``Regions`` that the reader needs, ``size`` among them where it counts; none without one."""
        if self.region_reader is None:
            return ()
        return (*self.region_reader.reads, *(("size",) if self.inputs.sizes else ()))

    @property
    def read_levels(self) -> tuple[int, ...]:
        """Levels of the encoder that answers are read from."""
        return (-1,) if self.region_reader is None else self.region_reader.levels

    @property
    def feature_dim(self) -> int:
        """Width of an organ's feature."""
        return self.settings.dim if self.region_reader is None else self.region_reader.dim

    @property
    def image_dim(self) -> int:
        """Width of a whole image's feature."""
        return self.encoder.pooled_dim if self.image_head is None else self.image_head.dim

    @property
    def global_head(self) -> PooledHead | TokenHead:
        """The head for whole images, of a model that has one."""
        assert self.image_head is not None
        return self.image_head

    def encode_image(self, images: Float[Tensor, "b c *s"]) -> VisionFeatures:
        """What the encoder makes of images (any float type); channels that only a crop has are zero in others."""
        return self.encoder(self.pad_channels(images))

    def pad_channels(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b d *s"]:
        """Images with all channels that the encoder reads, in the weights' type.

        Raises:
            ModelError: code ``channels``: more than it reads.
        """
        missing = self.inputs.in_channels - images.shape[1]
        if missing and not isinstance(self.encoder, CachedEncoder):
            if missing < 0:
                raise ModelError(
                    f"The images have {images.shape[1]} channels, the model reads {self.inputs.in_channels}.",
                    code="channels",
                    fix="Make them as the model's config says (model_input of a loaded model).",
                )
            images = torch.cat([images, images.new_zeros(len(images), missing, *images.shape[2:])], dim=1)
        return images.to(self._dtype)

    def forward(
        self, images: Float[Tensor, "b c *s"], regions: Regions, vision: VisionFeatures | None = None
    ) -> Float[Tensor, "m d"]:
        """One feature for each region; each image is encoded once.

        Args:
            images: crops of the regions, or the whole images that they lie in, as the reader wants them.
            regions: what is read.
            vision: what the encoder makes of the images, where that is known.
        """
        assert self.region_reader is not None
        images = self.pad_channels(images)
        return self.region_reader(images, self.encoder(images) if vision is None else vision, regions)

    def anatomy(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Unit vectors that are compared with organ prompts: which organ is this? Without a head: ``diagnosis``."""
        return self.diagnosis(features) if self.anatomy_head is None else self.anatomy_head(features)

    def diagnosis(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Unit vectors that are compared with findings: what does it show?"""
        return F.normalize(features, dim=-1) if self.diagnosis_head is None else self.diagnosis_head(features)

    def image_features(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b t"]:
        """One feature for each whole image: the mean token, or what the head makes of single tokens."""
        vision = self.encode_image(images)
        return vision.pooled if self.image_head is None else self.image_head.features(self.image_head.select(vision))

    def text(self, embeddings: Float[Tensor, "n t"]) -> Float[Tensor, "n e"]:
        """Unit vectors of text embeddings as the text encoder gave them."""
        return self.text_head(embeddings.to(self._dtype))

    def tags(
        self, tokens: Float[Tensor, "b n c"], tag_embeddings: Float[Tensor, "t d"] | None = None
    ) -> Float[Tensor, "b t"]:
        """Logits of tags: their sigmoid is the probability that an image shows each (settings with ``tags``).

        Args:
            tokens: ``encode_image(images).tokens``.
            tag_embeddings: raw text embeddings (``Release.embed``) of the tags asked; those of ``inputs.tags`` travel
                with the weights and are taken where None.
        """
        assert self.tag_decoder is not None
        return self.tag_decoder(tokens, tag_embeddings)[0]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
