"""Images, or their organs, against a text each: CT-GLIP's two alignments over organs (the idea: arXiv 2404.15272; the
definitions are this project's own), fVLM's contrast within each organ (arXiv 2501.14548), and the baseline without
organs (CLIP, or SigLIP).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from ctglip.data.collate import collate_organs, collate_reports, collate_studies
from ctglip.data.samples import OrganBatch, ReportBatch, StudyBatch, StudySample
from ctglip.features.text_bank import TextBank
from ctglip.losses.contrastive import class_prompts
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.heads import group_directions
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
    StepContext,
    StepReport,
)
from ctglip.objectives.contrast import (
    Contrast,
    ContrastSettings,
    KeyFindings,
    check_report_contrast,
    key_findings,
)
from ctglip.objectives.step_numbers import accuracy
from ctglip.objectives.texts import Texts, positions
from ctglip.vocabulary.negatives import Strategy


class TextContrast(Objective):
    """One contrast between vectors of images and their texts.

    Args:
        model: read as the objective says.
        bank: text bank; samples hold indices into it.
        settings: targets, negatives, temperature.
        findings: what text keys affirm, for ``targets: hierarchy``.
    """

    loss: ClassVar[str]

    def __init__(
        self,
        model: DualEncoder,
        bank: TextBank,
        settings: ContrastSettings | None = None,
        findings: KeyFindings | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.settings: Any = settings or self.Settings()
        self.texts = Texts(bank)
        self.contrast = Contrast(self.settings, findings)

    @property
    def diagnosis_scale(self) -> LogitScale:
        """The contrast's temperature, which also turns similarities into probabilities at inference."""
        return self.contrast.scale

    @abstractmethod
    def vectors(self, features: Features) -> Float[Tensor, "m e"]:
        """Unit vectors of what is compared with texts."""

    def group(self, features: Features) -> Int[Tensor, " m"] | None:  # noqa: ARG002
        """Only rows of one group are compared; None: all."""
        return None

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:  # noqa: ARG002
        """The loss under its name; report: temperature, similarities, effective ranks."""
        pool, group = self.model.text(features["pool"]), self.group(features)
        text = pool[positions(features["text_id"], features["pool_ids"])]
        negatives = positions(features["negative_ids"], features["pool_ids"])
        pairs = (self.vectors(features), text, features["text_key"], features["text_id"] >= 0)
        loss = self.contrast(*pairs, group=group, extra=pool, extra_index=negatives)
        return {self.loss: loss}, self.contrast.report(*pairs, group=group)


class OrganContrast(TextContrast):
    """Each organ meets its text: read from its crop, or in a whole image by the model's region reader."""

    input_kind = "organs"
    model_needs = ModelNeeds(readers=("crop", *WHOLE_IMAGE_READERS))

    def collate(self, samples: Sequence[Any], context: StepContext = START) -> OrganBatch | StudyBatch:  # noqa: ARG002
        """Stack images, concatenate organs and fetch the distinct texts."""
        collate = collate_organs if self.model.reads_crops else collate_studies
        return collate(samples, self.texts.collate)

    def encode(self, batch: OrganBatch | StudyBatch) -> Features:
        """``organ [M, D]`` and what ``compute`` needs beside it."""
        if isinstance(batch, OrganBatch):
            regions = Regions(mask=batch.mask, size=batch.size)
        else:
            names = ("size", "organ_id", "study_index", "labels", "boxes")
            regions = Regions(**{name: getattr(batch, name) for name in names})
        organ = self.model(batch.image, regions)
        return {"organ": organ, "organ_id": batch.organ_id, "pool": self.texts(batch.pool), **batch.texts()}

    def vectors(self, features: Features) -> Float[Tensor, "m e"]:
        """Of organs, as they meet findings."""
        return self.model.diagnosis(features["organ"])


class OrganTextSettings(ContrastSettings):
    """The diagnosis contrast, and the weights of both alignments.

    Attributes:
        anatomy_weight, diagnosis_weight: of the two alignments.
    """

    name: Literal["organ_text"] = "organ_text"  # pyright: ignore[reportIncompatibleVariableOverride]
    anatomy_weight: float = 0.5
    diagnosis_weight: float = 1.0


class OrganText(OrganContrast):
    """Anatomy: cross-entropy against all organs' prompts. Diagnosis: soft contrast with dictionary negatives.

    Args:
        model: with a region reader and a head for anatomy.
        bank: text bank; samples hold indices into it.
        prompt_ids: ``[Q]``, the organ prompts' indices in the bank, several templates for each organ.
        prompt_organ: ``[Q]``, the organ of each prompt: 0 .. number of organs - 1, each at least once.
        settings: weights, targets, temperature.
        findings: what text keys affirm, for ``targets: hierarchy``.
    """

    Settings = OrganTextSettings
    model_needs = ModelNeeds(readers=("crop", *WHOLE_IMAGE_READERS), anatomy=True)
    loss = "diagnosis"
    prompts: Tensor
    prompt_organ: Tensor

    def __init__(
        self,
        model: DualEncoder,
        bank: TextBank,
        prompt_ids: Int[Tensor, " q"],
        prompt_organ: Int[Tensor, " q"],
        settings: OrganTextSettings | None = None,
        findings: KeyFindings | None = None,
    ) -> None:
        super().__init__(model, bank, settings, findings)
        pool_ids, pool = self.texts.collate(prompt_ids)
        self.register_buffer("prompts", pool[positions(prompt_ids, pool_ids)], persistent=False)
        self.register_buffer("prompt_organ", prompt_organ.clone(), persistent=False)
        self.organs = int(prompt_organ.max()) + 1
        self.anatomy_scale = self.settings.logit_scale()

    @classmethod
    def build(cls, context: BuildContext, settings: OrganTextSettings) -> OrganText:
        """The objective of some settings."""
        prompts = (context.prompt_ids, context.prompt_organ)
        return cls(context.model, context.bank, *prompts, settings, key_findings(context, settings))

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:
        """Losses ``anatomy`` and ``diagnosis``; report: temperatures, similarities, effective ranks, accuracy."""
        settings, model = self.settings, self.model
        classes = group_directions(model.text(self.texts(self.prompts)), self.prompt_organ, self.organs)
        organs = (model.anatomy(features["organ"]), classes, features["organ_id"])
        anatomy = class_prompts(*organs, self.anatomy_scale(), gather=settings.gather)
        losses, report = super().compute(features, context)
        return {
            "anatomy": settings.anatomy_weight * anatomy,
            "diagnosis": settings.diagnosis_weight * losses["diagnosis"],
        }, {
            "anatomy_accuracy": accuracy(*organs),
            "anatomy_temperature": self.anatomy_scale.value(),
            **report,
        }


class OrganQuerySettings(ContrastSettings):
    """The contrast; every organ of the batch counts the same.

    Attributes:
        within_organ: compare texts of one organ only (fVLM), or of all organs.
    """

    name: Literal["organ_query"] = "organ_query"  # pyright: ignore[reportIncompatibleVariableOverride]
    negatives: Strategy = "batch"
    within_organ: bool = True


class OrganQuery(OrganContrast):
    """Per-organ contrast over whole images, as fVLM has it: an organ's texts are compared with that organ's alone.

    Positives are the own text, identical texts, and normal with normal of one organ (by their keys).
    """

    Settings = OrganQuerySettings
    loss = "organ_query"

    @classmethod
    def build(cls, context: BuildContext, settings: OrganQuerySettings) -> OrganQuery:
        """The objective of some settings."""
        return cls(context.model, context.bank, settings, key_findings(context, settings))

    def group(self, features: Features) -> Int[Tensor, " m"] | None:
        """Rows of one organ."""
        return features["organ_id"] if self.settings.within_organ else None


class GlobalPairSettings(ContrastSettings):
    """Plain InfoNCE unless told otherwise."""

    name: Literal["global_pair"] = "global_pair"  # pyright: ignore[reportIncompatibleVariableOverride]
    targets: Literal["identity", "equal_key", "hierarchy"] = "identity"
    negatives: Strategy = "batch"


class GlobalPair(TextContrast):
    """A whole image against its whole report, by the same encoder as for organs."""

    Settings = GlobalPairSettings
    input_kind = "pairs"
    model_needs = ModelNeeds(image=True)
    loss = "global_pair"

    @classmethod
    def build(cls, context: BuildContext, settings: GlobalPairSettings) -> GlobalPair:
        """The objective of some settings."""
        check_report_contrast(settings)
        return cls(context.model, context.bank, settings)

    def collate(self, samples: Sequence[StudySample], context: StepContext = START) -> ReportBatch:  # noqa: ARG002
        """Stack images and fetch the distinct texts."""
        return collate_reports(samples, self.texts.collate, ("report",))

    def encode(self, batch: ReportBatch) -> Features:
        """``image``, what the head for whole images reads, and what ``compute`` needs beside it."""
        image = self.model.global_head.select(self.model.encode_image(batch.image))
        return {"image": image, "pool": self.texts(batch.pool), **batch.texts()}

    def vectors(self, features: Features) -> Float[Tensor, "b e"]:
        """Of whole images."""
        head = self.model.global_head
        return head(head.features(features["image"]))
