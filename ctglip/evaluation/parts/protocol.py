"""Public protocols: whole-study findings, evaluated as others evaluate them, beside the numbers that they published.

A protocol is a file in ``evaluation/protocols``: which findings, which abnormality of which organs each is, in what
words they are asked, and how thresholds are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field

from ctglip.config import Settings, validate
from ctglip.errors import ConfigError
from ctglip.evaluation.bootstrap import interval_of
from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import EncodedSplit
from ctglip.evaluation.metrics import BinaryMetrics
from ctglip.evaluation.results import PartResult, interval_cells
from ctglip.evaluation.settings import ThresholdRule
from ctglip.evaluation.studies import StudyContext, StudyScores, evaluate_studies, study_labels
from ctglip.files import read_yaml
from ctglip.inference.scoring import Dictionaries, Scorer, Wording
from ctglip.labels import LabelTable, read_labels
from ctglip.models.release import Release
from ctglip.pages.parts import Table
from ctglip.pages.wording import DASH, number
from ctglip.table_files import read_table
from ctglip.types import Interval

_FOLDER = Path(__file__).parents[1] / "protocols"


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
        peer: the peer whose number it is, by its card's name (``evaluation.peers``).
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
    peer: str | None = None


class Protocol(Settings):
    """One public protocol (see ``evaluation/protocols``).

    Attributes:
        name, wording, threshold: how it is done.
        findings: what is evaluated.
        published: what others report of it.
        tables: of ``published_tables`` that a probe on these labels can be read beside, and the column that is meant.
    """

    name: str
    wording: Wording
    threshold: ThresholdRule
    findings: dict[str, ProtocolFinding]
    published: tuple[Published, ...] = ()
    tables: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FindingMetrics(BinaryMetrics):
    """One finding over studies."""

    finding: str


@dataclass(frozen=True)
class ProtocolResult(PartResult):
    """What a protocol found.

    Attributes:
        name, wording, threshold: of the protocol.
        findings: those evaluated.
        macro_auroc: over them.
        macro_f1, accuracy: means over findings at their thresholds.
        left_out: finding to the reason why it is not evaluated.
        published: what others report; other patients or scans than yours, so beside and not against.
        model: whose answers these are.
    """

    name: str
    wording: str
    threshold: str
    findings: tuple[FindingMetrics, ...]
    macro_auroc: Interval
    macro_f1: float | None
    accuracy: float | None
    left_out: dict[str, str]
    published: tuple[dict[str, Any], ...]
    model: str = "This model"

    def tables(self, _: Dictionaries, /) -> tuple[Table, ...]:
        """This model, published ones, then each finding."""
        left_out = f" Not evaluated: {', '.join(self.left_out)}." if self.left_out else ""
        # F1 and accuracy, where others report them
        more = any(p.get("accuracy") is not None for p in self.published)

        def row(who: str, auroc: tuple[str, str], f1: float | None, accuracy: float | None, on: str) -> tuple[str, ...]:
            return (who, *auroc, *((number(f1), number(accuracy)) if more else ()), on)

        on = f"{len(self.findings)} findings, this store's patients"
        rows = [row(self.model, interval_cells(self.macro_auroc), self.macro_f1, self.accuracy, on)]
        for p in self.published:
            source = "; ".join(str(p[key]) for key in ("source", "note") if p[key])
            auroc = number(p["macro_auroc"]), DASH
            rows.append(row(p["model"], auroc, p.get("macro_f1"), p.get("accuracy"), source))
        for f in self.findings:
            f1, accuracy = (f.at.f1, f.at.accuracy) if f.at else (None, None)
            on = f"{f.positives:,} of {f.n:,} studies"
            rows.append(row(f"{self.model}: {f.finding}", interval_cells(f.auroc), f1, accuracy, on))
        table = Table(
            "protocol",
            self.name,
            "Whole studies, evaluated as the public protocol does. The published numbers were measured on other "
            f"patients or other copies of the data: read them beside yours, not against them.{left_out}",
            ("Model", "AUROC", "95 % interval", *(("F1", "Accuracy") if more else ()), "On what"),
            tuple(rows),
        )
        return (table,)


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


def protocol_scorer(release: Release, protocol: Protocol) -> Scorer:
    """A model asked in the words of a protocol."""
    prompts = {
        (organ, finding.abnormality): (finding.positive, finding.negative)
        for finding in protocol.findings.values()
        for organ in finding.organs
    }
    return Scorer(release, prompts, protocol.wording)


def public_protocol(context: Context) -> ProtocolResult | None:
    """Evaluate the findings of ``config.protocol``; None where no protocol is asked for."""
    if context.config.protocol is None:
        return None
    protocol = load_protocol(context.config.protocol)
    scorer = protocol_scorer(context.release, protocol)
    found = _study_scores(context, scorer, protocol, context.split)
    validation = _study_scores(context, scorer, protocol, context.validation) if context.validation else None
    result = protocol_result(context, protocol, found, validation)
    if result is None:
        context.notes.append(f"{protocol.name}: none of its findings can be evaluated here.")
    return result


def protocol_result(
    context: StudyContext,
    protocol: Protocol,
    found: StudyScores,
    validation: StudyScores | None,
    model: str = "This model",
) -> ProtocolResult | None:
    """A protocol's metrics of scores, whatever model gave them; None where no finding can be evaluated.

    Args:
        found: of the evaluated studies; validation: of those on which thresholds are chosen, if the protocol does.
        model: whose scores these are.
    """
    metrics, macro = evaluate_studies(context, found, validation, protocol.threshold)
    if not metrics:
        return None
    findings = tuple(FindingMetrics(finding=name, **vars(one)) for name, one in metrics.items())
    return ProtocolResult(
        name=protocol.name,
        wording=protocol.wording,
        threshold=protocol.threshold,
        findings=findings,
        macro_auroc=interval_of(macro),
        macro_f1=_mean([one.at.f1 for one in findings if one.at]),
        accuracy=_mean([one.at.accuracy for one in findings if one.at]),
        left_out={name: _reason(found, name) for name in protocol.findings if name not in metrics},
        published=tuple(one.model_dump() for one in protocol.published),
        model=model,
    )


def finding_labels(
    context: StudyContext, protocol: Protocol, studies: Sequence[str]
) -> dict[str, Float[np.ndarray, " s"]]:
    """What is true of each of a protocol's findings in some studies, see ``study_labels``."""
    abnormalities = {name: finding.abnormality for name, finding in protocol.findings.items()}
    table = context.table
    columns = {} if table is None else {name: _columns(table, name, one) for name, one in abnormalities.items()}
    return study_labels(context, studies, abnormalities, columns)


def read_protocol_labels(
    path: Path, dictionaries: Dictionaries, protocol: Protocol | None, ignore: Sequence[str]
) -> LabelTable:
    """A label table as an evaluation reads it: a column of a public protocol may have the protocol's own name.

    Args:
        path: the table.
        dictionaries: what its headings mean.
        protocol: that is evaluated, if any.
        ignore: columns that are no labels.
    """
    findings = protocol.findings if protocol is not None else ()
    headings = read_table(path).columns
    explained = {name: () for name in findings if name in headings and dictionaries.abnormalities.find(name) is None}
    return read_labels(path, dictionaries.organs, dictionaries.abnormalities, explained, tuple(ignore))


def _reason(found: StudyScores, name: str) -> str:
    if len(found.known(name).labels):
        return "too few positives or negatives"
    known = np.isfinite(found.scores[name]).any()
    return "no label" if known else "the model knows none of its organs here"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _study_scores(context: Context, scorer: Scorer, protocol: Protocol, split: EncodedSplit) -> StudyScores:
    """The highest probability over a finding's organs, for each study of a split."""
    patient = split.patient_of
    studies, row_of = list(patient), {(one.study_id, one.organ): row for row, one in enumerate(split.instances)}
    release = scorer.release
    trained = {*release.provenance.get("trained", release.organs), *context.reader.known}
    scores = {name: np.full(len(studies), np.nan) for name in protocol.findings}
    for name, finding in protocol.findings.items():
        organs = [organ for organ in finding.organs if organ in trained]
        if not organs:
            continue
        pairs = [(organ, finding.abnormality) for organ in organs]
        table = scorer.calibration.probabilities(scorer.differences(split.embeddings.diagnosis, pairs))
        for number_of_study, study in enumerate(studies):
            cells = [table[row_of[study, organ], n] for n, organ in enumerate(organs) if (study, organ) in row_of]
            scores[name][number_of_study] = max(cells, default=np.nan)
    labels = finding_labels(context, protocol, studies)
    return StudyScores(np.array(list(patient.values())), labels, scores)


def _columns(table: LabelTable, name: str, abnormality: str) -> list[int]:
    """The label columns of a finding: its own name, or those about its abnormality, of whatever organ."""
    named = [number for number, column in enumerate(table.columns) if column.heading == name]
    return named or [number for number, column in enumerate(table.columns) if column.abnormality == abnormality]
