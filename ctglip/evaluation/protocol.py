"""Public protocols: whole-study findings, judged as others judge them, beside the numbers that they published.

A protocol is a file in ``evaluation/protocols``: which findings, which abnormality of which organs each is, in what
words they are asked, and how thresholds are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field

from ctglip.config import Settings, validate
from ctglip.data.organs import findings_by_study
from ctglip.errors import ConfigError
from ctglip.evaluation.bootstrap import Interval, Question, interval_of, macro_draws
from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import EncodedSplit
from ctglip.evaluation.metrics import (
    ON_TEST,
    ThresholdMetrics,
    at_threshold,
    auprc,
    best_f1_threshold,
)
from ctglip.evaluation.settings import ThresholdRule
from ctglip.files import read_yaml
from ctglip.inference.scoring import Scorer, Wording
from ctglip.labels import LabelTable
from ctglip.models.release import Release

_FOLDER = Path(__file__).parent / "protocols"


class ProtocolFinding(Settings):
    """One finding: an abnormality of the dictionary, looked for in these organs.

    Attributes:
        positive, negative: in these very words, whatever the protocol's wording.
    """

    abnormality: str
    organs: tuple[str, ...]
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


class Published(Settings):
    """A number that others published; AUROC 0 to 1.

    Attributes:
        macro_f1, accuracy: means over findings, at thresholds chosen as the protocol says.
        source: author, place, and number or address of the publication.
        note: over how many findings, and where the number was read if not in the publication itself.
    """

    model: str
    macro_auroc: float
    source: str
    note: str = ""
    macro_f1: float | None = None
    accuracy: float | None = None


class Protocol(Settings):
    """One public protocol (see ``evaluation/protocols``).

    Attributes:
        name, wording, threshold: how it is done.
        findings: what is judged.
        published: what others report of it.
        tables: as in ``ProtocolResult``.
    """

    name: str
    wording: Wording
    threshold: ThresholdRule
    findings: dict[str, ProtocolFinding]
    published: tuple[Published, ...] = ()
    tables: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class FindingMetrics:
    """One finding over studies; fields as in ``metrics.PairMetrics``."""

    finding: str
    auroc: Interval
    auprc: float | None
    positives: int
    n: int
    at: ThresholdMetrics | None


@dataclass(frozen=True)
class ProtocolResult:
    """What a protocol found.

    Attributes:
        name, wording, threshold: of the protocol.
        findings: those judged.
        macro_auroc: over them.
        left_out: finding to the reason why it is not judged.
        published: what others report; other patients or scans than yours, so beside and not against.
        macro_f1, accuracy: means over findings at their thresholds.
        tables: of ``published_tables`` that a probe on these labels can be read beside, and the column that is meant.
    """

    name: str
    wording: str
    threshold: str
    findings: tuple[FindingMetrics, ...]
    macro_auroc: Interval
    left_out: dict[str, str]
    published: tuple[dict[str, Any], ...]
    macro_f1: float | None = None
    accuracy: float | None = None
    tables: dict[str, str] = field(default_factory=dict)


def protocol_names() -> list[str]:
    """The protocols that are shipped."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """A shipped protocol.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in protocol_names():
        raise ConfigError(f"There is no protocol {name!r}.", fix=f"Known: {', '.join(protocol_names())}.")
    path = _FOLDER / f"{name}.yaml"
    return validate(Protocol, read_yaml(path), str(path))


def own_words(release: Release, protocol: Protocol) -> Scorer:
    """A model asked in the words of a protocol."""
    own = {
        (organ, finding.abnormality): (finding.positive, finding.negative)
        for finding in protocol.findings.values()
        for organ in finding.organs
    }
    return Scorer(release, own, protocol.wording)


@dataclass(frozen=True)
class _Studies:
    """The studies of a split: patient of each, label and score of each finding (NaN where not known)."""

    patients: np.ndarray
    labels: dict[str, Float[np.ndarray, " s"]]
    scores: dict[str, Float[np.ndarray, " s"]]


def public_protocol(context: Context) -> ProtocolResult | None:
    """Judge the findings of ``config.protocol``; None where no protocol is asked for."""
    if context.config.protocol is None:
        return None
    protocol = load_protocol(context.config.protocol)
    scorer = own_words(context.scorer.release, protocol)
    judged = _studies(context, scorer, protocol, context.judged)
    held = _studies(context, scorer, protocol, context.validation) if context.validation else None
    found, asked, left_out = [], [], {}
    for name in protocol.findings:
        labels, scores = judged.labels[name], judged.scores[name]
        known = np.isfinite(labels) & np.isfinite(scores)
        if not known.any():
            left_out[name] = "no label" if np.isfinite(scores).any() else "the model knows none of its organs here"
        elif min((labels[known] == 1).sum(), (labels[known] == 0).sum()) < context.config.min_positives:
            left_out[name] = "too few positives or negatives"
        else:
            asked.append(Question(labels[known].astype(int), scores[known], judged.patients[known]))
            found.append((name, _threshold(protocol, asked[-1], held, name)))
    if not asked:
        context.notes.append(f"{protocol.name}: none of its findings can be judged here.")
        return None
    each, macro = macro_draws(asked, context.weights)
    metrics = [
        FindingMetrics(
            finding=name,
            auroc=interval_of(draws),
            auprc=auprc(q.labels, q.scores),
            positives=int(q.labels.sum()),
            n=len(q.labels),
            at=None if limit is None else at_threshold(q.labels, q.scores, limit),
        )
        for (name, limit), q, draws in zip(found, asked, each, strict=True)
    ]
    return ProtocolResult(
        name=protocol.name,
        wording=protocol.wording,
        threshold=protocol.threshold,
        findings=tuple(metrics),
        macro_auroc=interval_of(macro),
        left_out=left_out,
        published=tuple(one.model_dump() for one in protocol.published),
        macro_f1=_mean([one.at.f1 for one in metrics if one.at]),
        accuracy=_mean([one.at.accuracy for one in metrics if one.at]),
        tables=protocol.tables,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _threshold(protocol: Protocol, asked: Question, held: _Studies | None, name: str) -> float | None:
    if protocol.threshold in ON_TEST:
        return ON_TEST[protocol.threshold](asked.labels, asked.scores)
    if held is None:
        return None
    known = np.isfinite(held.labels[name]) & np.isfinite(held.scores[name])
    return best_f1_threshold(held.labels[name][known].astype(int), held.scores[name][known])


def _studies(context: Context, scorer: Scorer, protocol: Protocol, split: EncodedSplit) -> _Studies:
    rows: dict[str, dict[str, int]] = {}
    for row, instance in enumerate(split.instances):
        rows.setdefault(instance.study_id, {})[instance.organ] = row
    studies = list(rows)
    release = scorer.release
    trained = set(split.names if release.cxr is not None else release.provenance.get("trained", release.organs))
    scores = {name: np.full(len(studies), np.nan) for name in protocol.findings}
    for name, finding in protocol.findings.items():
        organs = [organ for organ in finding.organs if organ in trained]
        pairs = [(organ, finding.abnormality) for organ in organs]
        if not pairs:
            continue
        table = scorer.calibration.probabilities(scorer.differences(split.embeddings.diagnosis, pairs))
        for instance, study in enumerate(studies):
            own = [table[rows[study][organ], column] for column, organ in enumerate(organs) if organ in rows[study]]
            scores[name][instance] = max(own, default=np.nan)
    labels = _labels(context, protocol, studies)
    first = np.array([next(iter(rows[study].values())) for study in studies])
    return _Studies(split.patients[first], labels, scores)


def _labels(context: Context, protocol: Protocol, studies: list[str]) -> dict[str, Float[np.ndarray, " s"]]:
    """1, 0 or NaN for each study: from the columns of the label table that name the finding, else from what reports
    affirm (a report that is silent says no, as the public labels have it)."""
    abnormalities = context.scorer.dictionaries.abnormalities
    out = {name: np.full(len(studies), np.nan) for name in protocol.findings}
    if context.table is not None:
        values = context.table.of_studies(studies)
        for name, finding in protocol.findings.items():
            columns = _columns(context.table, name, finding.abnormality)
            out[name] = np.fmax.reduce(values[:, columns], axis=1, initial=np.nan)
        return out
    findings = findings_by_study(context.store, set(studies))
    for name, finding in protocol.findings.items():
        kinds = {finding.abnormality, *abnormalities.descendants(finding.abnormality)}
        for instance, study in enumerate(studies):
            if study in findings:
                said = (row.abnormality in kinds and row.status == "affirmed" for row in findings[study])
                out[name][instance] = float(any(said))
    return out


def _columns(table: LabelTable, name: str, abnormality: str) -> list[int]:
    """The label columns of a finding: its own name, or those about its abnormality, of whatever organ."""
    own = [number for number, column in enumerate(table.columns) if column.heading == name]
    return own or [number for number, column in enumerate(table.columns) if column.abnormality == abnormality]
