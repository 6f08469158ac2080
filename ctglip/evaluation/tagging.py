"""Radiographs asked by a model's decoder of tags (ASG, KAD): a finding's name looks for it among the radiograph's
tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ctglip.data.cxr_input import cxr_input
from ctglip.evaluation.bootstrap import Interval, Question, interval_of, macro_draws
from ctglip.evaluation.context import Context
from ctglip.evaluation.cxr import cxr_labels
from ctglip.evaluation.metrics import ThresholdMetrics, at_threshold, auprc, best_f1_threshold
from ctglip.inference.cxr_encoding import cxr_settings
from ctglip.reports.tags import tag_entries


@dataclass(frozen=True)
class TagMetrics:
    """One abnormality over radiographs.

    Attributes:
        abnormality: in the dictionary; tag: the name that looked for it.
        trained: the tag is one of training; otherwise the finding's name alone was asked.
        auroc, auprc, positives, n: as in ``metrics.PairMetrics``.
        at: at the threshold of the best F1 on the split val, or None.
    """

    abnormality: str
    tag: str
    trained: bool
    auroc: Interval
    auprc: float | None
    positives: int
    n: int
    at: ThresholdMetrics | None


@dataclass(frozen=True)
class Tagged:
    """All abnormalities, and their macro AUROC."""

    findings: tuple[TagMetrics, ...]
    macro_auroc: Interval


def tag_decoder(context: Context) -> Tagged | None:
    """Ask the decoder for every abnormality that the judged radiographs have labels of; None for models without one."""
    model = context.scorer.release.model
    if not context.radiographs or model.settings.tags is None:
        context.notes.append("Tags: this model has no decoder of tags.")
        return None
    names = sorted({name for _, name in context.labels})
    tags = {name: _tag(context, name) for name in names}
    studies, patients = _studies(context)
    labels, logits = cxr_labels(context, names, studies), _logits(context, studies, tags)
    held = _held(context, names, tags)
    asked: list[Question] = []
    kept: list[str] = []
    for column, name in enumerate(names):
        known = np.isfinite(labels[name])
        truth = labels[name][known].astype(int)
        if min(truth.sum(), len(truth) - truth.sum()) >= context.config.min_positives:
            asked.append(Question(truth, logits[known, column], patients[known]))
            kept.append(name)
    if not asked:
        return None
    each, macro = macro_draws(asked, context.weights)
    trained = set(model.settings.tags.names)
    return Tagged(
        tuple(
            TagMetrics(
                abnormality=name,
                tag=tags[name],
                trained=tags[name] in trained,
                auroc=interval_of(draws),
                auprc=auprc(q.labels, q.scores),
                positives=int(q.labels.sum()),
                n=len(q.labels),
                at=None if held.get(name) is None else at_threshold(q.labels, q.scores, held[name] or 0.0),
            )
            for name, q, draws in zip(kept, asked, each, strict=True)
        ),
        interval_of(macro),
    )


def _studies(context: Context) -> tuple[list[str], np.ndarray]:
    patient = {p.study_id: int(n) for p, n in zip(context.judged.instances, context.judged.patients, strict=True)}
    return list(patient), np.array(list(patient.values()))


def _tag(context: Context, name: str) -> str:
    """The tag of training that means an abnormality or the nearest thing above it, or the abnormality's own name."""
    settings = context.scorer.release.model.settings.tags
    assert settings is not None
    listed = (tag_entries(kind) for kind in ("tags", "entities"))
    known = {tag: entry for entries in listed for tag, entry in entries.items() if tag in settings.names}
    dictionary = context.scorer.dictionaries.abnormalities
    wanted = [name]
    while above := dictionary[wanted[-1]].parent:
        wanted.append(above)
    means = (tag for meant in wanted for tag, entry in known.items() if meant in entry.abnormalities)
    return next(means, dictionary[name].display)


def _held(context: Context, names: list[str], tags: dict[str, str]) -> dict[str, float | None]:
    """Thresholds of the split val."""
    if context.validation is None:
        return {}
    studies = list(dict.fromkeys(instance.study_id for instance in context.validation.instances))
    labels, logits = cxr_labels(context, names, studies), _logits(context, studies, tags)
    found: dict[str, float | None] = {}
    for column, name in enumerate(names):
        known = np.isfinite(labels[name])
        found[name] = best_f1_threshold(labels[name][known].astype(int), logits[known, column])
    return found


@torch.no_grad()
def _logits(context: Context, studies: list[str], tags: dict[str, str]) -> Float[np.ndarray, "s t"]:
    release, batch = context.scorer.release, context.config.batch
    model, settings = release.model, cxr_settings(release)
    device = next(model.parameters()).device
    embeddings = release.embed(list(tags.values())).to(device)
    out = np.zeros((len(studies), len(tags)))
    for start in range(0, len(studies), batch):
        radiographs = [
            cxr_input(context.store.study(name).image(), settings) for name in studies[start : start + batch]
        ]
        images = torch.from_numpy(np.stack([radiograph.image for radiograph in radiographs])).to(device)
        tokens = model.encoder(images.to(embeddings.dtype)).tokens
        out[start : start + batch] = model.tags(tokens, embeddings).float().cpu().numpy()
        if context.progress:
            context.progress(min(start + batch, len(studies)), len(studies))
    return out
