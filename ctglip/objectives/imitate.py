"""IMITATE (Liu et al., TMI 2024, arXiv 2310.07355) on radiographs and scans: findings meet what several levels of the
encoder see, impressions meet its last level, views of one image meet each other, and reports that are alike are soft
positives.

Where this differs from what is published:

- A missing section leaves its losses, row and column. The released line that should do so cannot run.
- The soft positives of two views want the correlation of impressions; a study without one is like no other.
- The backbone sees each view once; the released code runs it again for other channels.
- Channels are drawn once for a batch, as part of it, so that micro-batches and ranks see the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ctglip.data.collate import collate_reports
from ctglip.data.samples import ReportBatch, StudySample
from ctglip.errors import ConfigError
from ctglip.features.text_bank import TextBank
from ctglip.losses.contrastive import soft_contrastive
from ctglip.losses.targets import Kernel, clinical_prior, identity
from ctglip.models.aggregation import AggregationSettings, MultiLevelAggregator
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.heads import ProjectionHead
from ctglip.objectives.base import (
    START,
    BuildContext,
    Features,
    LogitScale,
    Losses,
    ModelNeeds,
    Objective,
    ObjectiveSettings,
    StepContext,
    StepReport,
)
from ctglip.objectives.mixture import weight_at
from ctglip.objectives.step_numbers import effective_rank, pair_similarity
from ctglip.objectives.texts import Texts, positions

_FAMILIES = 2
"""Draws of channels for each view: one for the comparison with reports, one for that of views."""


class ImitateSettings(ObjectiveSettings):
    """The defaults are those of the released code, but for ``gather``, and that the backbone sees each view
    once, not once for each draw of channels.

    Attributes:
        temperature: of images against reports.
        view_temperature: of views against each other.
        kernel, strength: how the correlation of frozen text embeddings becomes a soft positive
            (``losses.targets.clinical_prior``).
        findings_weight: of the losses of several levels: a number, or points (progress 0 to 1, weight) with straight
            lines between them. The released schedule is 1, from epoch 31 on 1.3 - (epoch - 30) / 20, at last 0.3, which
            its 20 epochs never reach.
        view_weight: of the comparison of views, which counts in either order, as in the released code; 0 leaves it out
            (and one copy of each image is enough).
        aggregation: of several levels.
        gather: compare with the reports of all ranks (the released code: each rank's own). The soft positives of a row
            then add up to more; ``soft_columns`` keeps their sum, which is this project's own way.
        soft_columns: soft positives weigh as among so many reports (128 a rank in the released code); null: as many as
            there are.
        chunk: rows at a time, for large batches; the same value and gradient.
    """

    name: Literal["imitate"] = "imitate"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = Field(default=0.07, gt=0)
    view_temperature: float = Field(default=0.2, gt=0)
    kernel: Kernel = "exp"
    strength: float = Field(default=0.2, ge=0)
    findings_weight: float | tuple[tuple[float, float], ...] = 1.0
    view_weight: float = Field(default=1.0, ge=0)
    aggregation: AggregationSettings = AggregationSettings()
    gather: bool = True
    soft_columns: int | None = Field(default=None, ge=2)
    chunk: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImitateBatch(ReportBatch):
    """Reports, and the channels that are read: for each view one draw for each family of losses.

    Attributes:
        channels: as ``MultiLevelAggregator.draw`` gives them; the same for all images.
    """

    channels: Int[Tensor, "v f k"]

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of images ``start .. stop - 1``."""
        return {**super().cut(start, stop), "channels": self.channels}


class Imitate(Objective):
    """The high level is the model's head for whole images, so the released model is asked with it; what reads several
    levels is needed in training alone.

    Args:
        model: with a head for whole images; its encoder has as many levels as ``aggregation.keep``.
        bank: text bank; samples hold indices into it.
        settings: temperatures, kernel, weights, switches.
    """

    Settings = ImitateSettings
    input_kind = "reports"

    @classmethod
    def needs(cls, settings: ImitateSettings) -> ModelNeeds:
        """What it needs of the model."""
        return ModelNeeds(image=True, views=settings.view_weight > 0)

    @classmethod
    def build(cls, context: BuildContext, settings: ImitateSettings) -> Imitate:
        """The objective of some settings."""
        shape, levels = settings.aggregation, context.model.encoder.level_channels
        if len(shape.keep) != len(levels) or len(shape.grid) != context.model.encoder.settings.spatial_dims:
            raise ConfigError(
                f"imitate draws channels of {len(shape.keep)} levels on a grid of {len(shape.grid)} axes; the "
                f"encoder has {len(levels)} levels.",
                code="objective",
                fix="Give objective.aggregation.keep one share for each level, and grid one side for each axis.",
            )
        return cls(context.model, context.bank, settings)

    def __init__(self, model: DualEncoder, bank: TextBank, settings: ImitateSettings | None = None) -> None:
        super().__init__()
        self.model = model
        self.settings = settings or ImitateSettings()
        self.texts = Texts(bank)
        self.scale = LogitScale(self.settings.temperature, learn=False)
        self.aggregator = MultiLevelAggregator(self.settings.aggregation, model.encoder.level_channels)
        width, shape = self.aggregator.dim, model.settings
        self.multi_head = ProjectionHead(width, shape.embedding_dim, width, shape.head_norm)

    @property
    def diagnosis_scale(self) -> LogitScale:
        """The temperature of images against reports."""
        return self.scale

    def collate(self, samples: Sequence[StudySample], context: StepContext = START) -> ImitateBatch:
        """Stack images, fetch the distinct findings and impressions, and draw channels."""
        batch = collate_reports(samples, self.texts.collate, ("findings", "impression"))
        rng = context.rng()
        views = batch.images.shape[1]
        channels = torch.stack([self.aggregator.draw(rng) for _ in range(views * _FAMILIES)])
        return ImitateBatch(**vars(batch), channels=channels.unflatten(0, (views, _FAMILIES)))

    def encode(self, batch: ImitateBatch) -> Features:
        """``high [B, V, ...]``, what the head for whole images reads, and ``multi [B, V, 2, D]``, what each draw of
        channels reads."""
        found = [
            self._view(images, chosen) for images, chosen in zip(batch.images.unbind(1), batch.channels, strict=True)
        ]
        return {
            "high": torch.stack([high for high, _ in found], dim=1),
            "multi": torch.stack([multi for _, multi in found], dim=1),
            "findings": batch.findings,
            "impression": batch.impression,
            "pool": self.texts(batch.pool),
            "pool_ids": batch.pool_ids,
        }

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:
        """Losses ``impression``, ``findings`` (summed over views), ``high_views``, ``multi_views`` (of pairs of views);
        report: temperature, similarities, effective ranks, the weight of findings."""
        settings = self.settings
        impression, findings = (self._section(features, name) for name in ("impression", "findings"))
        high = [self._image_vectors(view) for view in features["high"].unbind(1)]
        multi = [self._heads(self.multi_head, view) for view in features["multi"].unbind(1)]
        points = settings.findings_weight
        weight = points if isinstance(points, float | int) else weight_at(points, context.progress)
        report_terms = {
            "impression": [self._against(view, impression) for view in high],
            "findings": [weight * self._against(view[0], findings) for view in multi],
        }
        losses = {name: torch.stack(terms).sum() for name, terms in report_terms.items()}
        if settings.view_weight > 0 and len(high) > 1:
            share = 2 * settings.view_weight
            prior = impression.frozen
            above = [self._views(a, b, prior) for a, b in combinations(high, 2)]
            below = [self._views(a[-1], b[-1], None) for a, b in combinations(multi, 2)]
            losses["high_views"] = share * torch.stack(above).sum()
            losses["multi_views"] = share * weight * torch.stack(below).sum()
        rows = impression.valid
        numbers = {
            "temperature": self.scale.value(),
            "findings_weight": float(weight),
            **pair_similarity(high[0][rows], impression.text[rows], features["impression"][rows]),
            "image_rank": effective_rank(high[0]),
            "multi_rank": effective_rank(multi[0][0]),
            "text_rank": effective_rank(impression.text[rows]),
        }
        return losses, numbers

    # --- images

    def _view(self, images: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The last level, and what each draw of channels reads."""
        vision = self.model.encode_image(images)
        multi = [self.aggregator(vision.levels, channels) for channels in chosen]
        return self.model.global_head.select(vision), torch.stack(multi, dim=1)

    def _image_vectors(self, selected: Tensor) -> Float[Tensor, "b e"]:
        head = self.model.global_head
        return head(head.features(selected))

    @staticmethod
    def _heads(head: Any, view: Float[Tensor, "b f *c"]) -> list[Float[Tensor, "b e"]]:
        """Unit vectors for each draw, each with the statistics of its own batch."""
        return [head(one) for one in view.unbind(1)]

    # --- reports

    def _section(self, features: Features, name: str) -> _Section:
        """A section of all reports of the batch; a head with batch statistics sees the reports that have one."""
        ids = features[name]
        valid, pool = ids >= 0, features["pool"]
        raw = pool[positions(ids, features["pool_ids"]).clamp(min=0)]
        raw = raw.where(valid[:, None], 0)
        vectors = self.model.text(raw[valid])
        text = vectors.new_zeros(len(ids), vectors.shape[1]).index_put((valid.nonzero()[:, 0],), vectors)
        return _Section(text, raw.detach(), valid)

    # --- losses

    def _against(self, image: Float[Tensor, "b e"], section: _Section) -> Float[Tensor, ""]:
        """Images against one section of their reports."""
        return clinical_contrast(
            image, section.text, self.settings.temperature, self.settings, section.frozen, section.valid
        )

    def _views(self, one: Tensor, other: Tensor, prior: Tensor | None) -> Float[Tensor, ""]:
        """One view of all images against the other."""
        return clinical_contrast(one, other, self.settings.view_temperature, self.settings, prior)


@dataclass(frozen=True)
class _Section:
    """One section of the reports of a batch: unit vectors, the frozen embeddings, which reports have it."""

    text: Float[Tensor, "b e"]
    frozen: Float[Tensor, "b t"]
    valid: Bool[Tensor, " b"]


def clinical_contrast(
    one: Float[Tensor, "b e"],
    other: Float[Tensor, "b e"],
    temperature: float,
    settings: ImitateSettings,
    prior: Float[Tensor, "b t"] | None = None,
    valid: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """IMITATE's contrast: both directions summed, reports that correlate are soft positives.

    Args:
        one, other: paired unit vectors.
        temperature: of the similarities; the soft positives are multiplied by it.
        settings: kernel and its strength.
        prior: frozen embeddings of the reports; none: plain InfoNCE.
        valid: False removes the row and its column.
    """
    target = (
        identity
        if prior is None
        else clinical_prior(temperature, settings.kernel, settings.strength, settings.soft_columns)
    )
    return 2 * soft_contrastive(
        one,
        other,
        1 / temperature,
        target=target,
        context=prior,
        valid=valid,
        chunk=settings.chunk,
        gather=settings.gather,
    )
