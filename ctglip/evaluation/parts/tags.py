"""Images asked by a model's decoder of tags (ASG, KAD): a finding's name looks for it among the image's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ctglip.evaluation.bootstrap import interval_of
from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import EncodedSplit
from ctglip.evaluation.metrics import BinaryMetrics
from ctglip.evaluation.results import PartResult, display_name, interval_cells
from ctglip.evaluation.studies import StudyScores, columns_about, evaluate_studies, study_labels
from ctglip.inference.scoring import Dictionaries
from ctglip.pages.parts import Table
from ctglip.pages.wording import DASH, number
from ctglip.reports.tags import tag_entries
from ctglip.types import Interval


@dataclass(frozen=True, kw_only=True)
class TagMetrics(BinaryMetrics):
    """One abnormality over radiographs.

    Attributes:
        abnormality: in the dictionary; tag: the name that looked for it.
        trained: the tag is one of training; otherwise the finding's name alone was asked.
    """

    abnormality: str
    tag: str
    trained: bool


@dataclass(frozen=True)
class TagResult(PartResult):
    """All abnormalities, and their macro AUROC."""

    findings: tuple[TagMetrics, ...]
    macro_auroc: Interval

    def tables(self, dictionaries: Dictionaries, /) -> tuple[Table, ...]:
        """All abnormalities together, then each with the tag that asked for it."""
        rows = [("All", "", *interval_cells(self.macro_auroc), DASH, DASH)]
        rows += [
            (
                display_name(one.abnormality, dictionaries),
                one.tag if one.trained else f"{one.tag} (not of training)",
                *interval_cells(one.auroc),
                number(one.at.f1 if one.at else None),
                f"{one.positives:,} of {one.n:,}",
            )
            for one in self.findings
        ]
        table = Table(
            "tags",
            "Asked by the decoder of tags",
            "The same radiographs, asked by the decoder in place of the similarity with prompts; F1 at thresholds of "
            "the split val.",
            ("Abnormality", "Tag", "AUROC", "95 % interval", "F1", "Radiographs"),
            tuple(rows),
            words=2,
        )
        return (table,)


def tag_decoder(context: Context) -> TagResult | None:
    """Ask the decoder for every abnormality that the evaluated radiographs have labels of; None for models without
    one."""
    model = context.release.model
    if model.tag_decoder is None or context.release.reads_crops:
        context.notes.append("There is no tags: this model has no decoder of tags for whole images.")
        return None
    tags = {name: _tag(context, name) for name in sorted({name for _, name in context.labels})}
    validation = None if context.validation is None else _tag_scores(context, context.validation, tags)
    found = _tag_scores(context, context.split, tags)
    metrics, macro = evaluate_studies(context, found, validation, "validation_f1")
    if not metrics:
        return None
    findings = tuple(
        TagMetrics(abnormality=name, tag=tags[name], trained=tags[name] in model.inputs.tags, **vars(one))
        for name, one in metrics.items()
    )
    return TagResult(findings, interval_of(macro))


def _tag(context: Context, name: str) -> str:
    """The tag of training that means an abnormality or the nearest thing above it, or the abnormality's own name."""
    names = context.release.model.inputs.tags
    dictionary = context.scorer.dictionaries.abnormalities
    trained = {tag: entry for kind in ("tags", "entities") for tag, entry in tag_entries(kind).items() if tag in names}
    ancestors = [name]
    while parent := dictionary[ancestors[-1]].parent:
        ancestors.append(parent)
    meanings = (tag for ancestor in ancestors for tag, entry in trained.items() if ancestor in entry.abnormalities)
    return next(meanings, dictionary[name].display)


@torch.no_grad()
def _tag_scores(context: Context, split: EncodedSplit, tags: Mapping[str, str]) -> StudyScores:
    """Labels and logits of every image of a split."""
    patient, reader, model = split.patient_of, context.reader, context.release.model
    studies, batch = list(patient), min(context.config.batch, reader.at_once or context.config.batch)
    embeddings = context.release.embed(list(tags.values())).to(reader.device)
    logits: Float[np.ndarray, "s t"] = np.zeros((len(studies), len(tags)))
    for start in range(0, len(studies), batch):
        ids = studies[start : start + batch]
        images = [image for one in ids for image in reader.load(context.store, one, ())]
        inputs = reader.inputs(images, [()] * len(ids), "whole", reader.device)
        tokens = model.encode_image(inputs["images"]).tokens
        logits[start : start + batch] = model.tags(tokens, embeddings).float().cpu().numpy()
        if context.progress:
            context.progress(min(start + batch, len(studies)), len(studies))
    columns = {name: columns_about(context, name) for name in tags}
    labels = study_labels(context, studies, {name: name for name in tags}, columns)
    return StudyScores(np.array(list(patient.values())), labels, dict(zip(tags, logits.T, strict=True)))
