"""ASG (Li et al., MICCAI 2024, arXiv 2403.09294) on radiographs and scans: an image meets its report, its regions meet
their sentences, tags are recognised, and reports with similar tags are soft positives.

Where this differs from what is published:

- A region's text is the mean of the unit vectors of its *sentences*. The released code averages the words at a
  region's positions inside one reading of the whole report: the same mean, of words that have seen their context. Each
  sentence alone can be read by a frozen encoder, once, and is what the released model is asked with.
- Reports and sentences share one text head, which sees each distinct text of the batch once.
- ``same_sentences``: in the released code two regions of a radiograph with the same sentences are negatives of each
other.
- A batch without regions gives zero, not NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ctglip.data.collate import collate_reports
from ctglip.data.images import organ_of_region
from ctglip.data.samples import ReportBatch, StudySample
from ctglip.features.text_bank import TextBank
from ctglip.losses.contrastive import soft_contrastive
from ctglip.losses.gather import ranked_mean
from ctglip.losses.tags import tag_bce
from ctglip.losses.targets import PairTarget, equal_ignored, equal_key, identity, tag_overlap
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.region_readers import Regions
from ctglip.objectives.base import (
    START,
    WHOLE_IMAGE_READERS,
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
from ctglip.objectives.step_numbers import effective_rank, pair_similarity
from ctglip.objectives.texts import Texts, positions

_SAME: dict[str, PairTarget] = {"negative": identity, "positive": equal_key, "ignored": equal_ignored}


class ASGSettings(ObjectiveSettings):
    """Four losses and their weights; the defaults are the published ones, but for ``same_sentences`` and ``gather``.

    Attributes:
        image_report: weight of the contrast of images and reports (IRA).
        region_sentence: weight of the contrast of the regions and sentences of one image (ARSA).
        recognition: weight of the tags' cross-entropy (IRL); with it the model has a decoder of tags.
        soft_labels: weight of the contrast whose targets are the overlap of tags (ERL).
        temperature: of all contrasts.
        learn_temperature: whether it is learned.
        overlap: share of the overlap in the soft targets.
        same_sentences: regions of one image that have the same sentences are positives, ``ignored``, or negatives as
            in the released code.
        unsaid: a tag that the report does not speak of is ``absent``, as published, or ``ignored``.
        gather: images are compared with the reports of all ranks (the released code: each rank's own). The hard share
            of the soft targets is then less; ``soft_columns`` keeps it, which is this project's own way.
        soft_columns: other reports weigh as among so many (72 a rank in the released code); null: as many as there are.
    """

    name: Literal["asg"] = "asg"  # pyright: ignore[reportIncompatibleVariableOverride]
    image_report: float = Field(default=1.0, ge=0)
    region_sentence: float = Field(default=1.0, ge=0)
    recognition: float = Field(default=5.0, ge=0)
    soft_labels: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    learn_temperature: bool = False
    overlap: float = Field(default=0.2, ge=0, le=1)
    same_sentences: Literal["positive", "ignored", "negative"] = "positive"
    unsaid: Literal["absent", "ignored"] = "absent"
    gather: bool = True
    soft_columns: int | None = Field(default=None, ge=2)


class ASG(Objective):
    """Each image is encoded once; its regions are read by the model's region reader.

    Args:
        model: with a head for whole images; with ``tags`` where they are recognised; with a region reader for whole
            images where regions are compared.
        bank: text bank; samples hold indices into it.
        settings: weights, temperature, switches.
        queries: which of the model's learned queries looks for each region, -1 where none does and the region is left
            out; for the reader ``query``. By default they are counted alike.
    """

    Settings = ASGSettings
    input_kind = "reports"
    queries: Tensor | None

    @classmethod
    def needs(cls, settings: ASGSettings) -> ModelNeeds:
        """What it needs of the model."""
        readers = WHOLE_IMAGE_READERS if settings.region_sentence > 0 else ()
        labels = settings.recognition > 0 or settings.soft_labels > 0
        return ModelNeeds(
            readers, optional=True, sizes=False, image=True, tags=settings.recognition > 0, tag_labels=labels
        )

    @classmethod
    def build(cls, context: BuildContext, settings: ASGSettings) -> ASG:
        """The objective of some settings."""
        queries = None
        if context.model.reading == "query" and context.model.encoder.settings.spatial_dims == 2:
            numbers = {name: number for number, name in enumerate(context.organ_names)}
            queries = torch.tensor([numbers.get(organ_of_region(name) or "", -1) for name in context.regions])
        return cls(context.model, context.bank, settings, queries)

    def __init__(
        self,
        model: DualEncoder,
        bank: TextBank,
        settings: ASGSettings | None = None,
        queries: Int[Tensor, " o"] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings or ASGSettings()
        self.texts = Texts(bank)
        self.scale = LogitScale(self.settings.temperature, self.settings.learn_temperature)
        self.register_buffer("queries", queries, persistent=False)
        if model.tag_decoder is not None:
            model.tag_decoder.embeddings.copy_(bank.vectors(bank.ids(model.inputs.tags)))

    @property
    def diagnosis_scale(self) -> LogitScale:
        """The temperature of all contrasts."""
        return self.scale

    @property
    def reads_regions(self) -> bool:
        """Regions are compared with their sentences."""
        return self.settings.region_sentence > 0 and self.model.region_reader is not None

    def collate(self, samples: Sequence[StudySample], context: StepContext = START) -> ReportBatch:  # noqa: ARG002
        """Stack images, concatenate regions and sentences, and fetch the distinct texts."""
        return collate_reports(samples, self.texts.collate)

    def encode(self, batch: ReportBatch) -> Features:
        """What the encoder makes of each study's first view, with the tags and regions that were read from it.

        ``region_row`` says whose region each is, as ``row`` numbers the studies.
        """
        model = self.model
        vision = model.encode_image(batch.image)
        features = {
            "image": model.global_head.select(vision),
            "row": batch.row,
            "tags": batch.tags,
            "report": batch.report,
        }
        features |= {"pool": self.texts(batch.pool), "pool_ids": batch.pool_ids}
        if self.settings.recognition > 0:
            features["tag_logits"] = model.tags(vision.tokens)
        if not self.reads_regions:
            return features
        assert model.region_reader is not None
        text, organ_id = batch.region_text, batch.region_id
        if self.queries is not None:
            organ_id = self.queries[batch.region_id]
            text = text.where(organ_id >= 0, -1)
        regions = Regions(
            organ_id=organ_id.clamp(min=0),
            study_index=batch.region_study,
            labels=batch.labels,
            boxes=batch.boxes[:, 0],
        )
        features |= model.region_reader.prepare(model.pad_channels(batch.image), vision, regions)
        row = batch.row[batch.region_study]
        return features | {"region_row": row, "region_text": text, "region_sentences": batch.region_sentences}

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:  # noqa: ARG002
        """Losses ``image_report``, ``region_sentence``, ``recognition``, ``soft_labels`` (those with a weight); report:
        temperature, similarities, effective ranks."""
        ids, pool = distinct(features["pool_ids"], features["pool"])
        texts = self.model.text(pool)
        head = self.model.global_head
        image = head(head.features(features["image"]))
        report = texts[positions(features["report"], ids)]
        has_report = features["report"] >= 0
        losses = self._global(image, report, has_report, features["tags"] == 1)
        if self.settings.recognition > 0:
            losses["recognition"] = self._recognition(features["tag_logits"], features["tags"], has_report)
        if self.reads_regions:
            sentences = mean_of_texts(texts, positions(features["region_sentences"], ids))
            losses["region_sentence"] = self._local(self._regions(features), sentences, features)
        numbers = {
            "temperature": self.scale.value(),
            **pair_similarity(image[has_report], report[has_report], features["report"][has_report]),
            "image_rank": effective_rank(image),
            "text_rank": effective_rank(texts),
        }
        return losses, numbers

    def _global(self, image: Tensor, report: Tensor, has_report: Tensor, tags: Tensor) -> Losses:
        """IRA, the sum of both directions; ERL, their mean."""
        settings, pairs = self.settings, (image, report, self.scale())
        losses: Losses = {}
        if settings.image_report > 0:
            hard = soft_contrastive(*pairs, valid=has_report, gather=settings.gather)
            losses["image_report"] = settings.image_report * 2 * hard
        if settings.soft_labels > 0:
            soft = soft_contrastive(
                *pairs,
                target=tag_overlap(settings.overlap, columns=settings.soft_columns),
                context=tags.to(image.dtype),
                valid=has_report,
                divergence="jeffreys",
                gather=settings.gather,
            )
            losses["soft_labels"] = settings.soft_labels * soft
        return losses

    def _recognition(self, logits: Tensor, tags: Tensor, has_report: Tensor) -> Tensor:
        """IRL: mean over all tags of all images that have a report."""
        valid = (
            has_report[:, None] & (tags >= 0)
            if self.settings.unsaid == "ignored"
            else has_report[:, None].expand_as(tags)
        )
        return self.settings.recognition * tag_bce(logits, (tags == 1).to(logits.dtype), valid, self.settings.gather)

    def _local(self, regions: Tensor, sentences: Tensor, features: Features) -> Tensor:
        """ARSA: both directions, inside each image, mean over all regions of all ranks. An image's regions are all on
        one rank, so nothing is gathered but their number."""
        row, text = features["region_row"], features["region_text"]
        valid = (features["region_sentences"] >= 0).any(1) & (text >= 0)
        pair = torch.stack([row, text], dim=1).unique(dim=0, return_inverse=True)[1]
        target = _SAME[self.settings.same_sentences]
        loss = soft_contrastive(regions, sentences, self.scale(), target=target, context=pair, valid=valid, group=row)
        count = valid.sum()
        return self.settings.region_sentence * 2 * ranked_mean(loss * count, count, self.settings.gather)

    def _regions(self, features: Features) -> Float[Tensor, "m e"]:
        """Regions in the common space; of tokens the mean of their unit vectors, which is not one itself."""
        reader = self.model.region_reader
        assert reader is not None
        found = reader.finish(features, positions(features["region_row"], features["row"]))
        return found if reader.aligned else self.model.diagnosis(found)


def distinct(ids: Int[Tensor, " p"], pool: Float[Tensor, "p t"]) -> tuple[Int[Tensor, " q"], Float[Tensor, "q t"]]:
    """Each text of a pool once, ascending: micro-batches that were joined may each have brought it."""
    found, instance = ids.unique(return_inverse=True)
    first = torch.full_like(found, len(ids)).scatter_reduce(
        0, instance, torch.arange(len(ids), device=ids.device), "amin"
    )
    return found, pool[first]


def mean_of_texts(texts: Float[Tensor, "p e"], chosen: Int[Tensor, "m k"]) -> Float[Tensor, "m e"]:
    """The mean of some texts for each row, not made a unit vector again; -1 is none, a row without any is zero."""
    there: Bool[Tensor, "m k"] = chosen >= 0
    rows = texts[chosen.clamp(min=0)] * there[..., None]
    return rows.sum(1) / there.sum(1, keepdim=True).clamp(min=1)
