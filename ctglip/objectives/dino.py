"""Self-distillation (DINO, Caron et al., ICCV 2021, arXiv 2104.14294) of scans and radiographs: a student and its
moving average, the teacher, see random views of an image, and the student says of each what the teacher says of the
others. No text is read, and any encoder will do; the teacher's is what is released, to start an alignment from.

Differences from the publication: views of scans have three axes, are not blurred, and are mirrored where the settings
say so alone; the teacher takes in the student's weights before a step rather than after it, so it is a step behind.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from ctglip.data.samples import Batch, StudySample
from ctglip.data.views import ViewSettings, random_view
from ctglip.errors import ConfigError
from ctglip.losses.self_distillation import moved_center, self_distillation, teacher_answer
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.prototypes import PrototypeHead, PrototypeSettings
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
from ctglip.objectives.mim import all_channels, without_text
from ctglip.objectives.mixture import weight_at
from ctglip.objectives.step_numbers import effective_rank

_GLOBAL_VIEWS = 2


class DinoSettings(ObjectiveSettings):
    """DINO's terms and its published numbers; what changes over a run is a number, or points (progress 0 to 1, value)
    with straight lines between them.

    Attributes:
        views: what is seen.
        head: of student and teacher.
        student_temperature: of the student's answers.
        teacher_temperature: of the teacher's, over the run.
        momentum: share of the old teacher in the new one at the start; it rises to 1 as half a cosine.
        center_momentum: share of the old center in the new one.
        frozen_prototypes: share of the run in which prototypes stay as they are.
        release: whose encoder is released.
        gather: the mean, and the center, are over the images of all ranks.
    """

    name: Literal["dino"] = "dino"  # pyright: ignore[reportIncompatibleVariableOverride]
    views: ViewSettings = ViewSettings()
    head: PrototypeSettings = PrototypeSettings()
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: tuple[tuple[float, float], ...] = ((0.0, 0.04), (0.3, 0.07))
    momentum: float = Field(default=0.996, ge=0, le=1)
    center_momentum: float = Field(default=0.9, ge=0, le=1)
    frozen_prototypes: float = Field(default=0.01, ge=0, le=1)
    release: Literal["teacher", "student"] = "teacher"
    gather: bool = True

    def momentum_at(self, progress: float) -> float:
        """The teacher's momentum after a share of the run."""
        return 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class ViewBatch(Batch):
    """B images in views, none with a text.

    Attributes:
        global_views: what student and teacher see.
        local_views: what the student sees besides.
    """

    global_views: Float[Tensor, "b g c *s"]
    local_views: Float[Tensor, "b l c *t"]


class Dino(Objective):
    """Self-distillation; of several views of the data the first is taken, and random ones are drawn from it.

    Args:
        model: its image encoder is the student.
        settings: of views, head and teacher.

    Raises:
        ConfigError: code ``objective``: views that the encoder's stride does not divide.
    """

    Settings = DinoSettings
    input_kind = "images"
    model_needs = ModelNeeds(image=True)
    aligned = False
    center: Tensor

    @classmethod
    def build(cls, context: BuildContext, settings: DinoSettings) -> Dino:
        """The objective of some settings."""
        return cls(context.model, settings)

    def __init__(self, model: DualEncoder, settings: DinoSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or DinoSettings()
        self.encoder, self.channels = model.encoder, model.inputs.in_channels
        views, stride = self.settings.views, model.encoder.strides[-1]
        self.global_size = views.sides(views.global_size, len(stride))
        self.local_size = views.sides(views.local_size, len(stride))
        for sides in (self.global_size, self.local_size):
            if any(side % step for side, step in zip(sides, stride, strict=True)):
                raise ConfigError(
                    f"Views of {sides} must be multiples of {stride}, the encoder's stride.",
                    code="objective",
                    fix="Change objective.views.global_size and local_size.",
                )
        self.head = PrototypeHead(model.encoder.pooled_dim, self.settings.head)
        self.teacher = nn.ModuleList(copy.deepcopy(part) for part in self._student).requires_grad_(False)
        self.releases_teacher = self.settings.release == "teacher"
        self.register_buffer("center", torch.zeros(self.settings.head.count))

    @property
    def _student(self) -> tuple[nn.Module, nn.Module]:
        return self.encoder, self.head

    # --- batches

    def collate(self, samples: Sequence[StudySample], context: StepContext = START) -> ViewBatch:
        """Views of each image, drawn from the step and its own name, so that the number of ranks changes nothing."""
        rngs = [context.rng(zlib.crc32(sample.study_id.encode())) for sample in samples]
        views = self.settings.views
        large = [self._views(one, rng, _GLOBAL_VIEWS, self.global_size, views.global_share)
                 for one, rng in zip(samples, rngs, strict=True)]  # fmt: skip
        small = [self._views(one, rng, views.local_views, self.local_size, views.local_share)
                 for one, rng in zip(samples, rngs, strict=True)]  # fmt: skip
        columns = without_text(len(samples))
        return ViewBatch(**columns, global_views=torch.stack(large), local_views=torch.stack(small))

    def _views(
        self,
        sample: StudySample,
        rng: np.random.Generator,
        count: int,
        sides: tuple[int, ...],
        share: tuple[float, float],
    ) -> Float[Tensor, "n c *s"]:
        image = sample.image
        views = [random_view(image, sides, share, self.settings.views, rng) for _ in range(count)]
        return torch.stack(views) if views else torch.zeros(0, len(image), *sides)

    # --- networks

    def encode(self, batch: ViewBatch) -> Features:
        """``student [B, V, E]`` and ``teacher [B, 2, E]``, what meets the prototypes, and ``image [B, D]``, what the
        student makes of the first view."""
        kinds = [views for views in (batch.global_views, batch.local_views) if views.shape[1]]
        vectors = [self._pooled(self.encoder, views) for views in kinds]
        with torch.no_grad():
            encoder, head = self.teacher.eval()
            averaged = head(self._pooled(encoder, batch.global_views))
        return {
            "student": torch.cat([self.head(one) for one in vectors], dim=1),
            "teacher": averaged,
            "image": vectors[0][:, 0].detach(),
        }

    def _pooled(self, encoder: nn.Module, views: Float[Tensor, "b n c *s"]) -> Float[Tensor, "b n d"]:
        """One vector for each view."""
        images = all_channels(views.flatten(0, 1), self.channels, encoder)
        return encoder(images).pooled.unflatten(0, views.shape[:2])

    # --- losses

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:
        """Loss ``distillation``; report: how sharp the teacher is (entropy in nats, 0 to log K), how many directions
        images take. In training the teacher and the center then move on."""
        settings, progress = self.settings, context.progress
        temperature = weight_at(settings.teacher_temperature, progress)
        student = self.head.similarities(features["student"], learn=progress >= settings.frozen_prototypes)
        with torch.no_grad():
            teacher = self.teacher.get_submodule("1").similarities(features["teacher"])  # pyright: ignore
        probabilities = teacher_answer(teacher, self.center, temperature)
        loss = self_distillation(student, probabilities, settings.student_temperature, settings.gather)
        report = {
            "teacher_entropy": float(torch.special.entr(probabilities).sum(-1).mean())
            if len(probabilities)
            else math.nan,
            "image_rank": effective_rank(features["image"].float()),
        }
        if self.training:
            self._follow(settings.momentum_at(progress))
            self.center.copy_(moved_center(self.center, teacher, settings.center_momentum, settings.gather))
        return {"distillation": loss}, report

    @torch.no_grad()
    def _follow(self, momentum: float) -> None:
        """The teacher moves a little towards the student; called once a step."""
        for averaged, trained in zip(self.teacher, self._student, strict=True):
            for target, value in zip(averaged.parameters(), trained.parameters(), strict=True):
                target.lerp_(value, 1 - momentum)
            for target, value in zip(averaged.buffers(), trained.buffers(), strict=True):
                target.copy_(value)

    def finish(self) -> None:
        """The teacher's encoder is what is released, where the settings say so."""
        if self.releases_teacher:
            self.encoder.load_state_dict(self.teacher[0].state_dict())
