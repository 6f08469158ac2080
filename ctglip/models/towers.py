"""The organ-text model: crops of organs on one side, texts on the other, one space between."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from ctglip.config import Settings
from ctglip.models.encoders import CNNSettings, EncoderSettings


class OrganTextModelSettings(Settings):
    """What the model is made of.

    Attributes:
        encoder: the image encoder.
        in_channels: channels of a crop (the mask channel included).
        pool_levels: levels of the encoder over which the mask is pooled.
        dim: width of an organ's feature.
        embedding_dim: width of the common space.
        text_dim: width of the text embeddings that come in.
    """

    encoder: EncoderSettings = CNNSettings()
    in_channels: int = 4
    pool_levels: tuple[int, ...] = (-2, -1)
    dim: int = 256
    embedding_dim: int = 128
    text_dim: int = 384


class OrganTextModel(nn.Module):
    """Organ crops and text embeddings to unit vectors that can be compared."""

    def __init__(self, settings: OrganTextModelSettings) -> None:
        super().__init__()
        self.settings = settings

    def organ_features(
        self,
        images: Float[Tensor, "m c *s"],
        masks: Float[Tensor, "m 1 *s"],
        sizes: Float[Tensor, "m 4"],
    ) -> Float[Tensor, "m d"]:
        """One feature for each organ: masked pooling at each of ``pool_levels`` and the organ's size."""
        raise NotImplementedError

    def anatomy(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Unit vectors that are compared with organ prompts: which organ is this?"""
        raise NotImplementedError

    def diagnosis(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m e"]:
        """Unit vectors that are compared with findings: what does it show?"""
        raise NotImplementedError

    def text(self, embeddings: Float[Tensor, "n t"]) -> Float[Tensor, "n e"]:
        """Unit vectors of text embeddings as the text encoder gave them."""
        raise NotImplementedError
