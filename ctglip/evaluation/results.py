"""What an evaluation found, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ctglip.evaluation.bootstrap import Interval
from ctglip.evaluation.metrics import PairMetrics
from ctglip.evaluation.zero_shot import Recognition

_SHOWN = 8


@dataclass(frozen=True)
class ControlResult:
    """The same questions with something taken away.

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
        label_source: where the labels come from.
        threshold_source: where thresholds were chosen.
        studies, patients, crops: how many were judged.
        macro_auroc: over ``pairs``.
        macro_f1: mean F1 at the thresholds, over pairs that have one.
        pairs: every (organ, abnormality) judged.
        left_out: pairs with labels but too few positives or negatives.
        controls: the same questions with something taken away.
        recognition: organ recognition; None where all organs of a study look alike.
        calibration: expected calibration errors.
        effective_rank: of the diagnosis embeddings, of ``embedding_dim`` dimensions.
        prompts: what the questions were asked in, in words.
        parts: what else was done: name of the part to its result (see ``evaluation.parts``).
        failures: studies that could not be read.
        notes: what the reader must bear in mind.
        problems: what of the label table could not be used.
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
    prompts: str = "the dictionary's prompt ensembles"
    parts: dict[str, Any] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def headline(self) -> str:
        """The result in a few lines."""
        lines = [
            f"Macro AUROC {shown(self.macro_auroc)} over {len(self.pairs)} (organ, abnormality) pairs, "
            f"{self.patients} patients of the split {self.split}, labels: {self.label_source}."
        ]
        if self.left_out:
            named = ", ".join(self.left_out[:_SHOWN]) + (", ..." if len(self.left_out) > _SHOWN else "")
            lines.append(f"Not judged, too few positives or negatives ({len(self.left_out)}): {named}.")
        if self.controls:
            controls = ", ".join(f"{control.name.lower()} {shown(control.macro_auroc)}" for control in self.controls)
            lines.append(f"Controls: {controls}.")
        found = self.recognition
        if found is not None:
            lines.append(f"Organ recognition: top-1 {shown(found.top1)} among {found.names} names.")
        return "\n".join(lines)


def shown(interval: Interval) -> str:
    """``0.86 [0.82, 0.90]``."""
    if interval.value is None:
        return "unknown"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
