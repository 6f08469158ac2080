"""What every objective is: samples to a batch, a batch to features, features to losses and a report.

``encode`` holds what is expensive and independent from row to row (GradCache replays it in micro-batches);
``compute`` holds what couples the rows of a batch: heads, similarities, losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctglip.config import Settings
from ctglip.features.text_bank import TextBank
from ctglip.models.dual_encoder import DualEncoder
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import OrganDictionary

Features = dict[str, Tensor]
"""What ``encode`` gives: every tensor is a list of rows, so micro-batches are joined along the first axis."""
Losses = dict[str, Tensor]
"""Scalars, already weighted: their sum is the loss."""
WHOLE_IMAGE_READERS = ("mask", "box", "query")
StepReport = dict[str, float]


InputKind = Literal["organs", "pairs", "reports", "images"]
"""What an objective reads: organs with texts (as crops, or in whole images); images with their report as one text;
images with all that their report says; images alone (``data.samples.StudySample``)."""


class ObjectiveSettings(Settings):
    """What the settings of all objectives have: a ``name``."""

    name: str = ""

    @property
    def dictionary_negatives(self) -> Strategy:
        """Which descriptions of the dictionary that are false are compared with; ``batch`` where none are."""
        return "batch"


@dataclass(frozen=True)
class ModelNeeds:
    """What an objective needs of the model that it trains.

    Attributes:
        readers: the region readers that it can train; none: it reads whole images alone.
        optional: it does without a region reader too.
        sizes: regions come with their size (those of scans).
        anatomy, image, resampler, tags: heads and decoders that it trains.
        scale: how many times finer samples are than what the encoder sees.
        views: it compares several views of an image.
        tag_labels: it learns from the tags of reports.
        patches: it hides patches from a transformer over patches, which the encoder must be (``vit``).
    """

    readers: tuple[str, ...] = ()
    optional: bool = False
    sizes: bool = True
    anatomy: bool = False
    image: bool = False
    resampler: bool = False
    tags: bool = False
    scale: int = 1
    views: bool = False
    tag_labels: bool = False
    patches: bool = False


@dataclass(frozen=True)
class BuildContext:
    """What objectives are built from.

    Attributes:
        model: the model to train.
        bank: the text bank; samples hold indices into it.
        organs, abnormalities: the dictionaries that the store was made with.
        organ_names: in the order of organ ids.
        prompt_ids, prompt_organ: ``[Q]``, the organ prompts in the bank, and the organ of each.
        keys: what each text key of the samples stands for: an organ, and what is affirmed in it.
        regions: what ``region_id`` counts through, for the input kind ``reports``.
        run: the run's folder.
        texts: every text that can be drawn.
    """

    model: DualEncoder
    bank: TextBank
    organs: OrganDictionary
    abnormalities: AbnormalityDictionary
    organ_names: tuple[str, ...]
    prompt_ids: Int[Tensor, " q"]
    prompt_organ: Int[Tensor, " q"]
    keys: Sequence[tuple[str, frozenset[str]]] = ()
    regions: tuple[str, ...] = ()
    run: Path = Path()
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class StepContext:
    """A step of a run: what is drawn at random in it, and weights that change over a run, follow from this alone.

    Attributes:
        seed: the run's.
        step: steps done.
        progress: the share of the training that is done, 0 to 1.
    """

    seed: int = 0
    step: int = 0
    progress: float = 0.0

    def rng(self, *more: int) -> np.random.Generator:
        """A generator for this step, and for what ``more`` numbers."""
        return np.random.default_rng((self.seed, self.step, *more))


START = StepContext()
"""The first step of a run with seed 0."""


class Objective(nn.Module, ABC):
    """One pretraining method. It owns the model that it trains, and temperatures and heads used in training alone.

    Attributes:
        Settings: what it is built from, with a ``name`` of its own.
        input_kind: what it reads.
        model_needs: what it needs of the model.
        batch_coupled: the loss of a row depends on the other rows (a contrast), so micro-batches cannot simply be
            added up: GradCache is needed.
        aligned: images and texts are brought into one space, so that the model can be asked in words.
    """

    Settings: ClassVar[type[ObjectiveSettings]]
    input_kind: ClassVar[InputKind]
    model_needs: ClassVar[ModelNeeds] = ModelNeeds()
    batch_coupled: bool = True
    aligned: bool = True

    @classmethod
    def needs(cls, settings: Any) -> ModelNeeds:  # noqa: ARG003
        """What it needs of the model; by default ``model_needs`` whatever the settings."""
        return cls.model_needs

    @classmethod
    def build(cls, context: BuildContext, settings: Any) -> Objective:
        """The objective of some settings.

        Raises:
            ConfigError: code ``objective``: they do not suit the model.
        """
        raise NotImplementedError

    @property
    def diagnosis_scale(self) -> LogitScale | None:
        """The temperature that turns similarities of images and texts into probabilities at inference, if any."""
        return None

    @abstractmethod
    def collate(self, samples: Any, context: StepContext = START) -> Any:
        """Samples to one batch, on the CPU; may run in a worker process. All that is random is drawn here and travels
        in the batch."""

    @abstractmethod
    def encode(self, batch: Any) -> Features:
        """The expensive part, row by row: no row sees another."""

    @abstractmethod
    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:
        """Weighted losses and numbers to log, from the features of the whole batch."""

    def finish(self) -> None:
        """Put into the model what is to be released, after the last step; by default it is there."""

    def forward(self, batch: Any, context: StepContext = START) -> tuple[Losses, StepReport]:
        """``compute(encode(batch))``: of a batch in one piece, as validation and accumulated gradients need it."""
        return self.compute(self.encode(batch), context)


class LogitScale(nn.Module):
    """An inverse temperature: learned through its logarithm, or fixed.

    Args:
        start: temperature at the start.
        learn: whether it changes.
        max_scale: largest inverse temperature (CLIP: 100); None: none is too large.
        min_scale: smallest inverse temperature.
    """

    def __init__(
        self, start: float = 0.07, learn: bool = True, max_scale: float | None = 100.0, min_scale: float = 0.0
    ) -> None:
        super().__init__()
        self.max_scale, self.min_scale = max_scale, min_scale
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)), requires_grad=learn)

    def forward(self) -> Float[Tensor, ""]:
        """The factor on similarities, 1 / temperature."""
        return self.log_scale.exp().clamp(self.min_scale, self.max_scale)

    def value(self) -> float:
        """The temperature as a number to log."""
        scale = float(self().detach())
        return 1 / scale if scale else math.inf


def total(losses: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The sum of an objective's losses."""
    return torch.stack([loss.float() for loss in losses.values()]).sum()


def join(parts: Sequence[Features]) -> Features:
    """The features of several micro-batches as those of one batch."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
