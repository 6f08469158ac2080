"""What a model says of one scan: an answer to each question, or the reason why there is none."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctglip.types import Standardized


@dataclass(frozen=True)
class SimilarSentence:
    """A sentence of the dictionary and its cosine similarity with the organ."""

    text: str
    similarity: float


@dataclass(frozen=True)
class Answer:
    """The answer to one question about one organ: a probability, or the reason why there is none.

    Attributes:
        question: as asked.
        organ, abnormality: names in the dictionaries.
        probability: 0 to 1, or None.
        calibrated: the probability was calibrated on a validation split.
        rank: of the abnormality among those of the organ that the model has learned, from 1.
        of: how many were ranked.
        reason: why there is no answer.
        seen: the model has seen this abnormality of this organ, or a kind of it, in training.
        similar: the dictionary sentences nearest to the organ.
        read_from: what was looked at, where organs can be read in more ways than one: the whole film, a box ...
    """

    question: str
    organ: str
    abnormality: str
    probability: float | None
    calibrated: bool = False
    rank: int | None = None
    of: int | None = None
    reason: str = ""
    seen: bool = False
    similar: tuple[SimilarSentence, ...] = ()
    read_from: str = ""


@dataclass(frozen=True)
class ScanAnswers:
    """All answers about one scan, and what is needed to show them.

    Attributes:
        scan: the scan's file or folder name.
        masks: where the masks come from.
        answers: in the order asked.
        standardized: the scan as the model saw it.
        displays: display names of the organs and abnormalities that occur.
        grid: shape and affine of the scan as it was read (RAS+).
        source: the scan's file or folder, where it came from one.
    """

    scan: str
    masks: str
    answers: tuple[Answer, ...]
    standardized: Standardized
    displays: dict[str, str] = field(default_factory=dict)
    grid: tuple[tuple[int, ...], np.ndarray] | None = None
    source: Path | None = None

    def shown(self, name: str) -> str:
        """An organ or abnormality as people are told of it."""
        return self.displays.get(name, name)

    def to_json(self) -> dict[str, Any]:
        """Plain data: answers, organs found, quality checks."""
        return {
            "scan": self.scan,
            "masks": self.masks,
            "answers": [asdict(answer) for answer in self.answers],
            "organs": [asdict(row) for row in self.standardized.rows],
            "checks": [asdict(check) for check in self.standardized.checks],
        }
