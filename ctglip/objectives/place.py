"""PLACE (re-implementation from the abstract, arXiv 2506.10573): what a report says meets what a picture shows.

No code and no equation of it is public. Known is what it does: sentence by sentence, textual observations are aligned
with visual ones that learned queries extract, and the correlation of patches is predicted with the report at hand. How
that is done here, and every number, is this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ctglip.data.collate import collate_reports
from ctglip.data.samples import OrganBatch, ReportBatch, StudySample
from ctglip.features.text_bank import TextBank
from ctglip.losses.observations import SetSimilarity, answers, query_overlap, sentence_contrast, set_contrast
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.base import VisionFeatures
from ctglip.objectives.base import (
    START,
    BuildContext,
    Features,
    LogitScale,
    Losses,
    ModelNeeds,
    Objective,
    StepContext,
    StepReport,
)
from ctglip.objectives.contrast import Contrast, ContrastSettings, check_report_contrast
from ctglip.objectives.patches import PatchSettings, PatchTask
from ctglip.objectives.texts import Texts, positions
from ctglip.vocabulary.negatives import Strategy

_SHOWN = 64
"""Studies that the report looks at."""


class PlaceSettings(ContrastSettings):
    """The contrast of whole image and whole report, and of observations; a term of weight 0 is not computed.

    Attributes:
        instance_weight: of whole image against whole report; without it the model cannot be asked in words.
        batch_weight: of observations against sentences as sets, across the batch.
        sentence_weight: of each sentence against what the picture's observations say to it, within the study.
        correlation_weight: of the patch-correlation task.
        diversity_weight: of the queries' overlap.
        sentences: of each report at most so many count, the first ones.
        min_words: shorter sentences do not count.
        reduce, reduce_temperature, symmetric: how sets are compared (``losses.observations.SetSimilarity``).
        answer_temperature: of the softmax over observations that answers a sentence.
        patches: the patch-correlation task.
    """

    name: Literal["place"] = "place"  # pyright: ignore[reportIncompatibleVariableOverride]
    targets: Literal["identity", "equal_key", "hierarchy"] = "equal_key"
    negatives: Strategy = "batch"
    instance_weight: float = 1.0
    batch_weight: float = 1.0
    sentence_weight: float = 1.0
    correlation_weight: float = 1.0
    diversity_weight: float = 0.0
    sentences: int = Field(default=12, ge=1)
    min_words: int = Field(default=3, ge=1)
    reduce: Literal["max", "logsumexp"] = "max"
    reduce_temperature: float = Field(default=0.1, gt=0)
    symmetric: bool = True
    answer_temperature: float = Field(default=0.1, gt=0)
    patches: PatchSettings = PatchSettings()

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        hard = {"reduce_temperature": "reduce is max"} if self.reduce == "max" else {}
        return {**super().unread(), **hard}

    @property
    def observes(self) -> bool:
        """Some term needs observations."""
        return max(self.batch_weight, self.sentence_weight, self.diversity_weight) > 0


@dataclass(frozen=True, kw_only=True)
class PlaceBatch(ReportBatch):
    """Reports, and what draws the patches that take part.

    Attributes:
        patch_seed: one number; micro-batches and ranks have the same, so they compare the same patches.
    """

    patch_seed: Int[Tensor, " 1"]

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of images ``start .. stop - 1``."""
        return {**super().cut(start, stop), "patch_seed": self.patch_seed}


class Place(Objective):
    """Instances, observations and patches of a picture and its report; of several views the first is taken.

    Args:
        model: with a head for whole images, and a resampler where a term needs it.
        bank: text bank; samples hold indices into it.
        settings: weights, temperatures, how observations are compared.
    """

    Settings = PlaceSettings
    input_kind = "reports"

    @classmethod
    def needs(cls, settings: PlaceSettings) -> ModelNeeds:
        """What it needs of the model."""
        return ModelNeeds(image=True, resampler=settings.observes)

    @classmethod
    def build(cls, context: BuildContext, settings: PlaceSettings) -> Place:
        """The objective of some settings."""
        check_report_contrast(settings)
        return cls(context.model, context.bank, settings)

    def __init__(
        self,
        model: DualEncoder,
        bank: TextBank,
        settings: PlaceSettings | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings or PlaceSettings()
        self.texts = Texts(bank)
        self.contrast = Contrast(self.settings)
        terms = self.settings
        self.aligned = terms.instance_weight > 0
        self.batch_scale = terms.logit_scale() if terms.batch_weight > 0 else None
        self.sentence_scale = terms.logit_scale() if terms.sentence_weight > 0 else None
        self.similarity = SetSimilarity(terms.reduce, terms.reduce_temperature, terms.symmetric)
        self.patches = None
        if terms.correlation_weight > 0:
            encoder = model.encoder
            self.patches = PatchTask(terms.patches, encoder, encoder.settings.spatial_dims, model.inputs.text_dim)

    @property
    def diagnosis_scale(self) -> LogitScale:
        """The temperature of whole image and whole report."""
        return self.contrast.scale

    def collate(self, samples: Sequence[StudySample], context: StepContext = START) -> PlaceBatch:
        """Stack images, fetch the distinct texts and draw the patches' seed; sentences that do not count become -1."""
        batch = collate_reports(samples, self.texts.collate, ("report", "sentence_id"))
        long = self.long(batch.sentence_id)
        position = _positions(batch.sentence_study.where(long, -1), len(batch))
        counted = long & (position < self.settings.sentences)
        columns = {**vars(batch), "sentence_id": batch.sentence_id.where(counted, -1)}
        return PlaceBatch(**columns, patch_seed=patch_seed(context))

    def long(self, ids: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which sentences have words enough to count."""
        words = [len(text.split()) for text in self.texts.bank.texts(ids)]
        return torch.tensor([count >= self.settings.min_words for count in words], dtype=torch.bool)

    def encode(self, batch: PlaceBatch) -> Features:
        """``image [B, C]``, ``observed [B, Q, D]``, ``patch`` and ``patch_target [B, M, ..]``, the texts that they are
        compared with, and ``sentence_id [B, K]``, -1 where there is none."""
        filled = self.model.pad_channels(batch.image)
        vision = self.model.encoder(filled)
        sentences = sentence_table(batch.sentence_id, batch.sentence_study, len(batch), self.settings.sentences)
        return self.features_of(
            batch, filled, vision, self.model.global_head.select(vision), sentences, batch.report, batch.patch_seed
        )

    def features_of(
        self,
        batch: ReportBatch | OrganBatch,
        filled: Float[Tensor, "b d *s"],
        vision: VisionFeatures,
        image: Float[Tensor, "b ..."],
        sentences: Int[Tensor, "b k"],
        report: Int[Tensor, " b"],
        patch_seed: Int[Tensor, " 1"],
    ) -> Features:
        """What ``encode`` gives.

        Args:
            filled: the pictures as the encoder sees them.
            vision: what it made of them.
            image: what ``instance`` reads.
            sentences, report: texts of each, by their numbers in the text bank.
            patch_seed: draws the patches that take part.
        """
        pool = self.texts(batch.pool)
        features = {"image": image, "sentence_id": sentences, "pool": pool, **batch.texts()}
        if self.settings.observes:
            assert self.model.resampler is not None
            features["observed"] = self.model.resampler(vision).tokens
        if self.patches is not None:
            text_ids = report[:, None] if self.settings.patches.condition == "report" else sentences
            valid_sentences = text_ids >= 0
            raw = pool[positions(text_ids, batch.pool_ids)]
            patch, target = self.patches(
                filled[:, : batch.image.shape[1]], filled, vision, raw, valid_sentences, int(patch_seed)
            )
            features |= {"patch": patch, "patch_target": target}
        return features

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:  # noqa: ARG002
        """Losses ``instance``, ``batch``, ``sentence``, ``correlation``, ``diversity``, if they weigh;
        report: temperatures, similarities, ranks, and how many queries answer sentences."""
        settings, gather = self.settings, self.settings.gather
        losses: Losses = {}
        report: StepReport = {}
        if settings.instance_weight > 0:
            image = self.instance(features["image"])
            pool = self.model.text(features["pool"])
            text = pool[positions(features["text_id"], features["pool_ids"])]
            pairs = (image, text, features["text_key"], features["text_id"] >= 0)
            losses["instance"] = settings.instance_weight * self.contrast(*pairs)
            report |= self.contrast.report(*pairs)
        if settings.observes:
            some, numbers = self._observations(features)
            losses, report = losses | some, report | numbers
        if self.patches is not None:
            if self.training:
                self.patches.follow(self.model.encoder)
            error = self.patches.loss(features["patch"], features["patch_target"], gather)
            losses["correlation"] = settings.correlation_weight * error
        return losses, report

    def instance(self, image: Float[Tensor, "b ..."]) -> Float[Tensor, "b e"]:
        """The unit vector of each whole picture in the common space."""
        head = self.model.global_head
        return head(head.features(image))

    def _observations(self, features: Features) -> tuple[Losses, StepReport]:
        settings, gather = self.settings, self.settings.gather
        assert self.model.resampler is not None
        visual = self.model.resampler.visual(features["observed"])
        texts = self.model.resampler.textual(features["pool"])
        valid_sentences = features["sentence_id"] >= 0
        textual = texts[positions(features["sentence_id"], features["pool_ids"])]
        losses: Losses = {}
        if self.batch_scale is not None:
            key = features["text_key"] if settings.targets == "equal_key" else None
            more = {"key": key, "chunk": settings.chunk, "gather": gather}
            error = set_contrast(visual, textual, valid_sentences, self.batch_scale(), self.similarity, **more)
            losses["batch"] = settings.batch_weight * error
        if self.sentence_scale is not None:
            found = answers(textual, visual, settings.answer_temperature)
            error = sentence_contrast(found, textual, valid_sentences, self.sentence_scale(), gather)
            losses["sentence"] = settings.sentence_weight * error
        if settings.diversity_weight > 0:
            losses["diversity"] = settings.diversity_weight * query_overlap(visual, gather)
        return losses, observation_report(visual, textual, valid_sentences, features["text_key"], self.similarity)


def patch_seed(context: StepContext) -> Int[Tensor, " 1"]:
    """A number that follows from the run's seed and the step."""
    return torch.tensor([int(context.rng().integers(2**31))])


@torch.no_grad()
def observation_report(
    visual: Float[Tensor, "b q e"],
    textual: Float[Tensor, "b k e"],
    valid_sentences: Bool[Tensor, "b k"],
    key: Int[Tensor, " b"],
    similarity: SetSimilarity,
) -> StepReport:
    """How often the nearest report as a set is the right one, the effective number of queries that answer sentences (1:
    always the same one), and how alike a picture's observations are; of the first studies where there are many."""
    rows = valid_sentences.any(1).nonzero()[:_SHOWN, 0]
    visual, textual, valid_sentences, key = (value[rows].detach() for value in (visual, textual, valid_sentences, key))
    if not len(rows):
        return {}
    visual, textual = visual.float(), textual.float()
    nearest = key[similarity(visual, textual, valid_sentences).argmax(1)] == key
    chosen = torch.einsum("bke,bqe->bkq", textual, visual).argmax(-1)[valid_sentences]
    share = torch.bincount(chosen, minlength=visual.shape[1]).float() / len(chosen)
    return {
        "observation_accuracy": float(nearest.float().mean()),
        "queries_used": float(torch.special.entr(share).sum().exp()),
        "query_overlap": float(query_overlap(visual)),
    }


def sentence_table(
    sentence_id: Int[Tensor, " n"], study: Int[Tensor, " n"], studies: int, width: int
) -> Int[Tensor, "b k"]:
    """The sentences of each study in a row, filled up with -1.

    Args:
        sentence_id: -1 for those that do not count.
        study: ascending.
        studies: how many there are.
        width: sentences of a study at most; further ones are left out.
    """
    counted = sentence_id >= 0
    sentence_id, study = sentence_id[counted], study[counted]
    position = _positions(study, studies)
    fits = position < width
    table = sentence_id.new_full((studies, width), -1)
    table[study[fits], position[fits]] = sentence_id[fits]
    return table


def _positions(study: Int[Tensor, " n"], studies: int) -> Int[Tensor, " n"]:
    """How many of the same study stand before each; -1 belongs to no study and counts for none."""
    before = (study[:, None] == torch.arange(studies, device=study.device)).long().cumsum(0)
    return before.gather(1, study.clamp(min=0)[:, None])[:, 0] - 1 if len(study) else study
