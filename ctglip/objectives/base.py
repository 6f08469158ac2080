"""What every objective is: samples to a batch, a batch to features, features to losses and a report.

``encode`` holds what is expensive and independent from row to row (GradCache replays it in micro-batches);
``compute`` holds what couples the rows of a batch: heads, similarities, losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctglip.features.text_bank import TextBank

Features = dict[str, Tensor]
"""What ``encode`` gives: every tensor is a list of rows, so micro-batches are joined along the first axis."""
Losses = dict[str, Tensor]
"""Scalars, already weighted: their sum is the loss."""
Report = dict[str, float]


class OrganSample(Protocol):
    """One organ of one study with this step's text; ``data.organs.OrganSample`` is one (numpy or torch alike).

    Attributes:
        image: float16/32 ``[C, *S]``, the organ's crop.
        mask: ``[1, *S]``, the organ's voxels of it, 0 to 1.
        size: float32 ``[4]``, standardised log mm per voxel in x, y, z and log volume in ml.
        organ_id: index of the organ in the list of organs that the objective was built with.
        study_index: the same number for samples of one study.
        text_id: the text of this step, by its index in the text bank; -1 where nothing is said of the organ, which then
            teaches anatomy alone.
        text_key: equal texts share it, and so do "normal" texts of one organ, whatever their wording.
        negative_ids: int64 ``[K]``, dictionary negatives by their index in the text bank, -1 where there is none.
    """

    @property
    def image(self) -> Any: ...
    @property
    def mask(self) -> Any: ...
    @property
    def size(self) -> Any: ...
    @property
    def organ_id(self) -> int: ...
    @property
    def study_index(self) -> int: ...
    @property
    def text_id(self) -> int: ...
    @property
    def text_key(self) -> int: ...
    @property
    def negative_ids(self) -> Any: ...


@dataclass(frozen=True)
class OrganBatch:
    """M organs of one or more studies, one after the other, and the distinct texts that they need.

    Attributes:
        image, mask, size, organ_id, study_index, text_id, text_key, negative_ids: as in ``OrganSample``, stacked.
        pool_ids: int64 ``[P]``, ascending, every text-bank index in ``text_id`` and ``negative_ids`` once.
        pool: float32 ``[P, T]``, their embeddings.
    """

    image: Float[Tensor, "m c *s"]
    mask: Float[Tensor, "m 1 *s"]
    size: Float[Tensor, "m 4"]
    organ_id: Int[Tensor, " m"]
    study_index: Int[Tensor, " m"]
    text_id: Int[Tensor, " m"]
    text_key: Int[Tensor, " m"]
    negative_ids: Int[Tensor, "m k"]
    pool_ids: Int[Tensor, " p"]
    pool: Float[Tensor, "p t"]

    def to(self, device: torch.device | str) -> OrganBatch:
        """The batch on a device."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def __len__(self) -> int:
        return len(self.image)


class Objective(nn.Module, ABC):
    """One pretraining method. It owns the model that it trains, and temperatures and heads used in training alone.

    Attributes:
        batch_coupled: the loss of a row depends on the other rows (a contrast), so micro-batches cannot simply be
            added up: GradCache is needed.
    """

    batch_coupled: bool = True

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Any:
        """Samples to one batch, on the CPU; may run in a worker process."""

    @abstractmethod
    def encode(self, batch: Any) -> Features:
        """The expensive part, row by row: no row sees another."""

    @abstractmethod
    def compute(self, features: Features) -> tuple[Losses, Report]:
        """Weighted losses and numbers to log, from the features of the whole batch."""

    def forward(self, batch: Any) -> tuple[Losses, Report]:
        """``compute(encode(batch))``: what a training step of one batch calls, also through DDP."""
        return self.compute(self.encode(batch))


class Temperature(nn.Module):
    """An inverse temperature: learned through its logarithm, or fixed.

    Args:
        start: temperature at the start.
        learn: whether it changes.
        max_scale: largest inverse temperature (CLIP: 100).
    """

    def __init__(self, start: float = 0.07, learn: bool = True, max_scale: float = 100.0) -> None:
        super().__init__()
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)), requires_grad=learn)

    def forward(self) -> Float[Tensor, ""]:
        """The factor on similarities, 1 / temperature."""
        return self.log_scale.exp().clamp(max=self.max_scale)

    def value(self) -> float:
        """The temperature as a number to log."""
        return 1 / float(self().detach())


def total(losses: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The sum of an objective's losses."""
    return torch.stack([loss.float() for loss in losses.values()]).sum()


def join(parts: Sequence[Features]) -> Features:
    """The features of several micro-batches as those of one batch."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def positions(ids: Int[Tensor, "*n"], pool_ids: Int[Tensor, " p"]) -> Int[Tensor, "*n"]:
    """Where each text-bank index stands in ``pool_ids``; -1 stays -1."""
    order = pool_ids.argsort()
    found = order[torch.searchsorted(pool_ids[order], ids.clamp(min=0)).clamp(max=len(order) - 1)]
    return torch.where(ids < 0, ids, found)


def collate_organs(samples: Sequence[OrganSample], bank: TextBank) -> OrganBatch:
    """Samples of organs to one batch on the CPU, with the embeddings of the distinct texts that they name.

    Args:
        samples: at least one; all with the same number of negatives.
        bank: where the text indices point.
    """
    integers = {
        name: torch.tensor([int(getattr(sample, name)) for sample in samples])
        for name in ("organ_id", "study_index", "text_id", "text_key")
    }
    negatives = torch.stack([torch.as_tensor(sample.negative_ids, dtype=torch.long) for sample in samples])
    texts = integers["text_id"]
    wanted = torch.cat([texts[texts >= 0], negatives[negatives >= 0]]).unique()
    wanted = wanted if len(wanted) else torch.zeros(1, dtype=torch.long)
    return OrganBatch(
        image=torch.stack([torch.as_tensor(sample.image) for sample in samples]),
        mask=torch.stack([torch.as_tensor(sample.mask) for sample in samples]),
        size=torch.stack([torch.as_tensor(sample.size) for sample in samples]),
        negative_ids=negatives,
        pool_ids=wanted,
        pool=bank.vectors(wanted),
        **integers,
    )
