"""The contrast between image and text embeddings that the objectives share: its form, its targets, its negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from ctglip.errors import ConfigError
from ctglip.losses.contrastive import alignment, sigmoid_pairs, soft_contrastive
from ctglip.losses.targets import Block, PairTarget, equal_key, hierarchy_aware, identity
from ctglip.objectives.base import BuildContext, LogitScale, ObjectiveSettings, StepReport
from ctglip.objectives.step_numbers import effective_rank, pair_similarity
from ctglip.vocabulary.negatives import Strategy

SHOWN = 1024
"""Rows that the report looks at."""


class ContrastSettings(ObjectiveSettings):
    """How images and texts are compared.

    Attributes:
        form: ``softmax`` (CLIP) or ``sigmoid`` (SigLIP; in-batch negatives alone).
        bias: of the sigmoid's logits at the start; it is learned.
        targets: positives: the own text alone (``identity``), all texts with its key (``equal_key``), or those, while
            texts that may be true of the image too are no negatives: ``hierarchy``, in no shipped recipe.
        negatives: nothing but positives (``none``, a control that collapses), the texts of the ``batch``, or those
            and the dictionary's: of any organ (``random``), of the ``same_organ``, or of it and rather what is easily
            mistaken for what the report affirms (``confusable``); never what the report affirms or suspects.
        temperature: at the start, or for good where it is not learned.
        learn_temperature: whether it is learned.
        max_scale: largest inverse temperature; null: none is too large.
        min_scale: smallest inverse temperature.
        chunk: rows at a time, for large batches; the same value and gradient.
        gather: compare with the texts of all ranks.
    """

    form: Literal["softmax", "sigmoid"] = "softmax"
    bias: float = -10.0
    targets: Literal["identity", "equal_key", "hierarchy"] = "equal_key"
    negatives: Strategy = "same_organ"
    temperature: float = 0.07
    learn_temperature: bool = True
    max_scale: float | None = 100.0
    min_scale: float = Field(default=0.0, ge=0)
    chunk: int | None = None
    gather: bool = True

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        if self.negatives == "none":
            names = ("form", "bias", "targets", "temperature", "learn_temperature", "max_scale", "min_scale", "chunk")
            return dict.fromkeys(names, "negatives is none")
        return {"chunk": "form is sigmoid"} if self.form == "sigmoid" else {"bias": "form is softmax"}

    @model_validator(mode="after")
    def _sigmoid(self) -> Self:
        if self.form == "sigmoid" and self.targets == "hierarchy":
            raise ValueError("form: sigmoid has targets: identity or equal_key")
        return self

    def logit_scale(self) -> LogitScale:
        """A temperature as it is at the start."""
        return LogitScale(self.temperature, self.learn_temperature, self.max_scale, self.min_scale)

    @property
    def dictionary_negatives(self) -> Strategy:
        """Which of the dictionary's descriptions are negatives; ``batch``: none."""
        return "batch" if self.form == "sigmoid" or self.negatives == "none" else self.negatives


@dataclass(frozen=True)
class KeyFindings:
    """What each text key affirms, for ``targets: hierarchy``.

    Attributes:
        table: 0/1 ``[keys, A]``: the findings of each key.
        related: bool ``[A, A]``: row a is true at a and at every ancestor of a.
    """

    table: Int[Tensor, "k a"]
    related: Bool[Tensor, "a a"]


def key_findings(context: BuildContext, settings: ContrastSettings) -> KeyFindings | None:
    """What each text key affirms, and what that implies: the same in every whole that the organ is a part of, and
    everything above it in the hierarchy. None where targets do not look at it."""
    if settings.targets != "hierarchy":
        return None
    affirmed = [{(organ, name) for name in names} for organ, names in context.keys]
    columns = sorted(set().union(*affirmed))
    position = {pair: number for number, pair in enumerate(columns)}
    table = torch.zeros(len(affirmed), len(columns), dtype=torch.long)
    related = torch.zeros(len(columns), len(columns), dtype=torch.bool)
    for row, pairs in enumerate(affirmed):
        table[row, [position[pair] for pair in pairs]] = 1
    for row, (organ, name) in enumerate(columns):
        above = {name, *context.abnormalities.ancestors(name)}
        where = {organ, *context.organs.containing(organ)}
        related[row, [position[pair] for pair in columns if pair[0] in where and pair[1] in above]] = True
    return KeyFindings(table, related)


def check_report_contrast(settings: ContrastSettings) -> None:
    """Whole reports affirm no one thing of an organ.

    Raises:
        ConfigError: code ``objective``.
    """
    if settings.targets == "hierarchy" or settings.dictionary_negatives != "batch":
        raise ConfigError(
            f"{settings.name} compares whole reports: targets: hierarchy and dictionary negatives are for organs.",
            code="objective",
            fix="Set targets to identity or equal_key, and negatives to batch.",
        )


class Contrast(nn.Module):
    """A contrastive loss with its temperature.

    Args:
        settings: how images and texts are compared.
        findings: what text keys affirm; needed for ``targets: hierarchy``.
    """

    def __init__(self, settings: ContrastSettings, findings: KeyFindings | None = None) -> None:
        super().__init__()
        if settings.targets == "hierarchy" and findings is None:
            raise ValueError("targets: hierarchy needs the findings of the text keys.")
        self.settings = settings
        self.scale = settings.logit_scale()
        self.bias = nn.Parameter(torch.tensor(settings.bias)) if settings.form == "sigmoid" else None
        self.findings = findings
        chosen: dict[str, PairTarget] = {"identity": identity, "equal_key": equal_key}
        self.target = hierarchy_aware(findings.related) if findings else chosen[settings.targets]

    def forward(
        self,
        image: Float[Tensor, "m e"],
        text: Float[Tensor, "m e"],
        key: Int[Tensor, " m"],
        valid: Bool[Tensor, " m"] | None = None,
        group: Int[Tensor, " m"] | None = None,
        extra: Float[Tensor, "p e"] | None = None,
        extra_index: Int[Tensor, "m k"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of paired unit vectors; the arguments are those of ``losses.contrastive.soft_contrastive``."""
        settings = self.settings
        if settings.negatives == "none":
            return alignment(image, text, valid, settings.gather)
        if self.bias is not None:
            match = None if settings.targets == "identity" else key
            return sigmoid_pairs(image, text, self.scale(), self.bias, match=match, valid=valid, gather=settings.gather)
        return soft_contrastive(
            image,
            text,
            self.scale(),
            target=self.target,
            context=self._context(key),
            valid=valid,
            group=group,
            extra=extra if settings.dictionary_negatives != "batch" else None,
            extra_index=extra_index,
            chunk=settings.chunk,
            gather=settings.gather,
        )

    @torch.no_grad()
    def report(
        self,
        image: Tensor,
        text: Tensor,
        key: Tensor,
        valid: Tensor | None = None,
        group: Tensor | None = None,
    ) -> StepReport:
        """Temperature, similarities, effective ranks, and the share of pairs (of different rows that are compared) that
        are no negatives, because the text is or may be true; of the first rows where there are many."""
        rows = torch.arange(len(image), device=image.device)
        rows = (rows if valid is None else rows[valid])[:SHOWN]
        image, text, key = image[rows], text[rows], key[rows]
        group = None if group is None else group[rows]
        compared = None if group is None else group[:, None] == group[None, :]
        numbers = {
            "temperature": self.scale.value(),
            **pair_similarity(image, text, key, compared),
            "image_rank": effective_rank(image),
            "text_rank": effective_rank(text),
        }
        others = ~torch.eye(len(key), dtype=torch.bool, device=key.device)
        others = others if compared is None else others & compared
        if bool(others.any()):
            context = self._context(key)
            weights = self.target(Block(torch.arange(len(key), device=key.device), len(key), context, context))
            numbers["not_negative_share"] = float((weights[others] != 0).float().mean())
        return numbers

    def _context(self, key: Tensor) -> Tensor:
        if self.findings is None:
            return key
        return torch.cat([key[:, None], self.findings.table.to(key)[key]], dim=1)
