"""What an evaluation found: plain data for JSON, tables for the page and the terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ctglip.evaluation.metrics import PairMetrics
from ctglip.evaluation.zero_shot import Recognition
from ctglip.inference.scoring import Dictionaries
from ctglip.pages.parts import Table
from ctglip.pages.wording import DASH, format_interval, interval, number
from ctglip.types import Interval

_LISTED = 8


class PartResult:
    """What one part of an evaluation found: a dataclass of plain data that lays itself out as tables."""

    def tables(self, _: Dictionaries, /) -> tuple[Table, ...]:
        """Tables for the page and the terminal; tables of several parts with the same key become one.

        The argument holds display names.
        """
        return ()


@dataclass(frozen=True)
class ControlResult(PartResult):
    """The same questions with something changed.

    Attributes:
        name, explanation: what was done.
        macro_auroc: over the same pairs and patients.
        difference: the model's macro AUROC minus this one, draw by draw on the same patients.
        pairs: AUROC of each ``organ:abnormality``.
    """

    name: str
    explanation: str
    macro_auroc: Interval
    difference: Interval
    pairs: dict[str, float | None]

    def tables(self, _: Dictionaries, /) -> tuple[Table, ...]:
        """One row of the table ``changed``, which all controls share."""
        row = (
            self.name,
            f"{self.explanation}{self.remark()}",
            *interval_cells(self.macro_auroc),
            format_difference(self.difference),
        )
        table = Table(
            "changed",
            "The same questions, asked otherwise",
            "Zero-shot minus the other on the same patients: what a probe adds, and what is lost when the organ is "
            "erased, mirrored or cut off.",
            ("What", "How", "Macro AUROC", "95 % interval", "Zero-shot minus this"),
            (row,),
            words=2,
        )
        return (table,)

    def remark(self) -> str:
        """A further sentence of the explanation, with a space before it; or nothing."""
        return ""


@dataclass(frozen=True)
class CalibrationResult:
    """How far probabilities can be trusted: expected calibration error with the learned temperature, and with scale
    and bias fitted on the validation split during training (None where that could not be done)."""

    ece_learned: float
    ece_fitted: float | None


@dataclass(frozen=True)
class Results:
    """One evaluation.

    Attributes:
        split: which patients.
        label_source, threshold_source: where labels come from, and where thresholds were chosen.
        studies, patients, crops: how many were evaluated.
        macro_auroc: over ``pairs``.
        macro_f1: mean F1 at the thresholds, over pairs that have one.
        pairs: every (organ, abnormality) evaluated.
        left_out: pairs with labels but too few positives or negatives.
        controls: the same questions with something taken away.
        recognition: organ recognition; None where all organs of a study look alike.
        calibration: expected calibration errors.
        effective_rank: of the diagnosis embeddings, of ``embedding_dim`` dimensions.
        prompts: what the questions were asked in, in words.
        parts: name of each further part (see ``evaluation.parts``) to what it found.
        failures: studies that could not be read.
        notes: what the reader must bear in mind.
        problems: what of the label table could not be used.
        model: checksum of the model's weights, where they are a file.
        tables: the parts' tables; not in the JSON.
        asked: what ``pairs`` are, in words.
    """

    split: str
    label_source: str
    threshold_source: str
    studies: int
    patients: int
    crops: int
    macro_auroc: Interval
    macro_f1: float | None
    pairs: tuple[PairMetrics, ...]
    left_out: tuple[str, ...]
    controls: tuple[ControlResult, ...]
    recognition: Recognition | None
    calibration: CalibrationResult
    effective_rank: float
    embedding_dim: int
    prompts: str
    parts: dict[str, Any] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    model: str = ""
    tables: tuple[Table, ...] = ()
    asked: str = "(organ, abnormality) pairs"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {name: value for name, value in asdict(self).items() if name != "tables"}

    def headline(self) -> str:
        """The result in a few lines, and the tables of the parts."""
        lines = [
            f"Macro AUROC {format_interval(self.macro_auroc)} over {len(self.pairs)} {self.asked}, "
            f"{self.patients} patients of the split {self.split}, labels: {self.label_source}."
        ]
        if self.left_out:
            names = ", ".join(self.left_out[:_LISTED]) + (", ..." if len(self.left_out) > _LISTED else "")
            lines.append(f"Not evaluated, too few positives or negatives ({len(self.left_out)}): {names}.")
        if self.controls:
            controls = (f"{control.name.lower()} {format_interval(control.macro_auroc)}" for control in self.controls)
            lines.append(f"Controls: {', '.join(controls)}.")
        if self.recognition is not None:
            top1, names = format_interval(self.recognition.top1), self.recognition.names
            lines.append(f"Organ recognition: top-1 {top1} among {names} names.")
        return "\n".join([*lines, *(table.plain_text() for table in self.tables)])


def tables_of(parts: dict[str, PartResult], dictionaries: Dictionaries) -> tuple[Table, ...]:
    """The tables of some parts; those with the same key become one."""
    found: dict[str, Table] = {}
    for part in parts.values():
        for table in part.tables(dictionaries):
            rows = found[table.key].rows if table.key in found else ()
            found[table.key] = replace(table, rows=(*rows, *table.rows))
    return tuple(found.values())


def interval_cells(value: Interval | None) -> tuple[str, str]:
    """Estimate and interval as two cells of a table."""
    if value is None:
        return DASH, DASH
    return number(value.value), interval(value) or DASH


def display_name(abnormality: str, dictionaries: Dictionaries) -> str:
    """An abnormality as a person reads it; "All" for ``all``."""
    return "All" if abnormality == "all" else dictionaries.abnormalities[abnormality].display


def format_difference(value: Interval) -> str:
    """``+0.031 (0.012 to 0.050)``, or a dash."""
    if value.value is None:
        return DASH
    ends = "" if value.low is None else f" ({number(value.low)} to {number(value.high)})"
    return f"{'+' if value.value > 0 else ''}{number(value.value)}{ends}"
