"""Masked image modelling (MAE, He et al., CVPR 2022, arXiv 2111.06377) of scans and radiographs: most patches are
hidden, and a small decoder fills them in from the tokens of the others. No text is read: the image encoder is what is
released, to start an alignment from (``model.encoder.weights``).

Differences from the publication: the encoder's positions are those of its settings, and it has a class token where they
say so.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctglip.data.collate import column
from ctglip.data.samples import Batch, StudySample
from ctglip.data.views import random_part
from ctglip.losses.masked import masked_pixel, normalized_patches, patchify
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.vit import ViTEncoder, ViTSettings
from ctglip.models.masked import MaskedDecoder, MaskedPatchSettings, draw_patches, hidden_patches
from ctglip.objectives.base import (
    START,
    BuildContext,
    Features,
    Losses,
    ModelNeeds,
    Objective,
    ObjectiveSettings,
    StepContext,
    StepReport,
)
from ctglip.objectives.step_numbers import effective_rank


class MimSettings(ObjectiveSettings):
    """MAE's terms and its published numbers.

    Attributes:
        image: how patches are hidden and decoded.
        normalize: each patch is told with mean 0 and deviation 1 (MAE's better target), else in the units of the input.
        part: sides of a part of each image that is seen, drawn anew at each step; null: the whole image.
        gather: denominators count all ranks.
    """

    name: Literal["mim"] = "mim"  # pyright: ignore[reportIncompatibleVariableOverride]
    image: MaskedPatchSettings = MaskedPatchSettings()
    normalize: bool = True
    part: tuple[int, ...] | None = None
    gather: bool = True


@dataclass(frozen=True)
class HiddenPatchBatch(Batch):
    """B images, none with a text.

    Attributes:
        image: what is seen and told.
        visible_patches: numbers of the patches that the encoder sees.
    """

    image: Float[Tensor, "b c *s"]
    visible_patches: Int[Tensor, "b n"]


class Mim(Objective):
    """Masked image modelling; of several views the first is taken.

    Args:
        model: its image encoder, a ViT, is what is trained.
        settings: of masks and decoder.
    """

    Settings = MimSettings
    input_kind = "images"
    model_needs = ModelNeeds(image=True, patches=True)
    batch_coupled = False
    aligned = False

    @classmethod
    def build(cls, context: BuildContext, settings: MimSettings) -> Mim:
        """The objective of some settings."""
        return cls(context.model, settings)

    def __init__(self, model: DualEncoder, settings: MimSettings | None = None) -> None:
        super().__init__()
        assert isinstance(model.encoder, ViTEncoder)
        vit = model.encoder.settings
        assert isinstance(vit, ViTSettings)
        self.settings = settings or MimSettings()
        self.encoder, self.channels, self.patch = model.encoder, model.inputs.in_channels, vit.sides("patch")
        self.decoder = MaskedDecoder(self.settings.image, vit.dim, self.patch, self.channels)

    def collate(self, samples: Sequence[StudySample], context: StepContext = START) -> HiddenPatchBatch:
        """Stack images and hide patches: parts and patches are drawn for each sample from the step and its own name, so
        that the number of ranks changes nothing.

        Raises:
            ConfigError: the patch does not divide the image, or code ``objective``: the part is larger than it.
        """
        generators = [context.rng(zlib.crc32(sample.study_id.encode())) for sample in samples]
        image = self._images(samples, generators)
        self.encoder.check_sides(image)
        patches, ratio = prod(self._grid(image)), self.settings.image.ratio
        visible = torch.from_numpy(np.stack([draw_patches(patches, ratio, rng) for rng in generators]))
        return HiddenPatchBatch(**without_text(len(samples)), image=image, visible_patches=visible)

    def _images(self, samples: Sequence[StudySample], generators: Sequence[np.random.Generator]) -> Tensor:
        part = self.settings.part
        if part is None:
            return column(samples, "image")
        cut = [random_part(one.image, part, rng) for one, rng in zip(samples, generators, strict=True)]
        return torch.from_numpy(np.stack(cut))

    def _grid(self, image: Tensor) -> tuple[int, ...]:
        return tuple(side // edge for side, edge in zip(image.shape[2:], self.patch, strict=True))

    def encode(self, batch: HiddenPatchBatch) -> Features:
        """``prediction``, ``target [B, N, F]`` of all patches, ``covered [B, N]``, and ``seen [B, D]``, the mean of the
        tokens."""
        image, grid = batch.image, self._grid(batch.image)
        tokens = self.encoder.visible(all_channels(image, self.channels, self.encoder), batch.visible_patches)
        decoded = self.decoder(tokens, batch.visible_patches, grid)
        prediction = decoded.unflatten(2, (-1, self.channels))[..., : image.shape[1]].flatten(2)
        target = patchify(image.float(), self.patch)
        return {
            "prediction": prediction,
            "target": normalized_patches(target) if self.settings.normalize else target,
            "covered": hidden_patches(batch.visible_patches, prod(grid)),
            "seen": tokens.mean(1).detach(),
        }

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:  # noqa: ARG002
        """Loss ``image``, the mean squared error of hidden pixels; report: how many directions images take."""
        pictures = (features["prediction"], features["target"], features["covered"])
        error = masked_pixel(*pictures, gather=self.settings.gather)
        return {"image": error}, {"image_rank": effective_rank(features["seen"].float())}


def all_channels(images: Float[Tensor, "b c *s"], channels: int, encoder: nn.Module) -> Float[Tensor, "b d *s"]:
    """Images with all channels that an encoder reads, in its weights' type; those that images have not are zero."""
    missing = channels - images.shape[1]
    if missing:
        images = torch.cat([images, images.new_zeros(len(images), missing, *images.shape[2:])], dim=1)
    return images.to(next(encoder.parameters()).dtype)


def without_text(count: int) -> dict[str, Tensor]:
    """The columns of a batch of images that no text goes with."""
    none = torch.full((count,), -1)
    return {
        "text_id": none,
        "text_key": none,
        "negative_ids": none.new_zeros(count, 0),
        "pool_ids": torch.zeros(1, dtype=torch.long),
        "pool": torch.zeros(1, 0),
    }
