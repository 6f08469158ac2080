"""The organ-text model: crops of organs on one side, texts on the other, one space between."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.config import Settings
from ctglip.models.encoders import CNNSettings, EncoderSettings, build_encoder
from ctglip.models.heads import ProjectionHead
from ctglip.models.pooling import masked_pool


class OrganTextModelSettings(Settings):
    """What the model is made of.

    Attributes:
        encoder: the image encoder.
        in_channels: channels of a crop (the mask channel included).
        pool_levels: levels of the encoder over which the mask is pooled.
        use_size: the organ's scale and volume are inputs.
        dim: width of an organ's feature.
        embedding_dim: width of the common space.
        text_dim: width of the text embeddings that come in.
    """

    encoder: EncoderSettings = CNNSettings()
    in_channels: int = 4
    pool_levels: tuple[int, ...] = (-2, -1)
    use_size: bool = True
    dim: int = 256
    embedding_dim: int = 128
    text_dim: int = 384


class OrganTextModel(nn.Module):
    """Organ crops and text embeddings to unit vectors that can be compared.

    Args:
        settings: widths and parts.
    """

    def __init__(self, settings: OrganTextModelSettings) -> None:
        super().__init__()
        self.encoder = build_encoder(settings.encoder, settings.in_channels)
        self.settings = settings.model_copy(update={"encoder": self.encoder.settings})
        pooled = sum(self.encoder.level_channels[level] for level in settings.pool_levels)
        self.organ_norm = nn.LayerNorm(pooled)
        self.organ = nn.Linear(pooled, settings.dim)
        self.size = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, settings.dim))
        self.anatomy_head = ProjectionHead(settings.dim, settings.embedding_dim, hidden=settings.dim)
        self.diagnosis_head = ProjectionHead(settings.dim, settings.embedding_dim, hidden=settings.dim)
        self.text_head = ProjectionHead(settings.text_dim, settings.embedding_dim)

    def organ_features(
        self,
        images: Float[Tensor, "m c *s"],
        masks: Float[Tensor, "m 1 *s"],
        sizes: Float[Tensor, "m 4"],
    ) -> Float[Tensor, "m d"]:
        """One feature for each organ: masked pooling at each of ``pool_levels`` and the organ's size.

        Args:
            images: crops; a float16 store of crops is welcome, the weights' type is used.
            masks: the organ in each crop, 0 to 1.
            sizes: standardised log mm per voxel (x, y, z) and log volume.
        """
        kind = self.organ.weight.dtype
        levels = self.encoder(images.to(kind)).levels
        pooled = [masked_pool(levels[level], masks.to(kind)) for level in self.settings.pool_levels]
        features = self.organ(self.organ_norm(torch.cat(pooled, dim=1)))
        return features + self.size(sizes.to(kind)) if self.settings.use_size else features

    def anatomy(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Unit vectors that are compared with organ prompts: which organ is this?"""
        return self.anatomy_head(features)

    def diagnosis(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Unit vectors that are compared with findings: what does it show?"""
        return self.diagnosis_head(features)

    def text(self, embeddings: Float[Tensor, "n t"]) -> Float[Tensor, "n e"]:
        """Unit vectors of text embeddings as the text encoder gave them."""
        return self.text_head(embeddings.to(self.organ.weight.dtype))
