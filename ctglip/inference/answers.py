"""What a model answers about one image: an answer to each question, or the reason why there is none."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ctglip.inference.readers import OrganReading
from ctglip.modality import MODALITIES
from ctglip.types import ModalityName, Standardized


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
        organ, abnormality: names in the dictionaries; "" where none was understood.
        probability: 0 to 1, or None.
        calibrated: the probability was calibrated on a validation split, and nothing in ``caveats`` speaks against it.
        rank: of the abnormality among those of the organ that the model has learned, from 1; of a sentence of one's
            own among the dictionary's sentences about the organ, by similarity.
        of: how many were ranked.
        reason: why there is no answer.
        taught: the model has seen this abnormality of this organ, or a kind of it, in training.
        similar: the dictionary sentences nearest to the organ.
        read_from: what was looked at, where organs can be read in more ways than one: the whole radiograph, a box ...
        familiar: the organ looks like those of training; None where that was not measured.
        distance: how far it lies from them, as a multiple of what 99 % of the validation organs keep.
        caveats: why the probability is not calibrated though the model is, one sentence each.
        threshold: the probability from which on the answer is yes (best F1 on the validation split), where one is known
            and the probability is calibrated.
        denied: it was asked as its absence ("no gallstones"); the probability is still that of its presence.
        unasked: words of the question that the answer does not speak of: "large".
        similarity: of the organ with a sentence of one's own (cosine, -1 to 1); such an answer has no probability.
        group: the question asked for several abnormalities ("pancreas"), and this is one of them.
        understood: a question that was not understood has a reason, and this is False.
    """

    question: str
    organ: str
    abnormality: str
    probability: float | None
    calibrated: bool = False
    rank: int | None = None
    of: int | None = None
    reason: str = ""
    taught: bool = False
    similar: tuple[SimilarSentence, ...] = ()
    read_from: str = ""
    familiar: bool | None = None
    distance: float | None = None
    caveats: tuple[str, ...] = ()
    threshold: float | None = None
    denied: bool = False
    unasked: tuple[str, ...] = ()
    similarity: float | None = None
    group: bool = False
    understood: bool = True


@dataclass(frozen=True)
class Answers:
    """All answers about one image, and what is needed to show them.

    Attributes:
        name: the image's file or folder name.
        masks: where its organs are known from.
        answers: in the order asked.
        standardized: the image as the model saw it.
        modality: which kind of image it is.
        displays: display names of the organs and abnormalities that occur.
        original: the image as it was read, a ``Scan`` or a ``Radiograph``.
        path: the image's file or folder, where it came from one.
        notes: what holds for all answers, one sentence each.
        readings: organ to how it was read.
    """

    name: str
    masks: str
    answers: tuple[Answer, ...]
    standardized: Standardized
    modality: ModalityName = "ct"
    displays: dict[str, str] = field(default_factory=dict)
    original: Any = None
    path: Path | None = None
    notes: tuple[str, ...] = ()
    readings: dict[str, OrganReading] = field(default_factory=dict)

    def display(self, name: str) -> str:
        """The display name of an organ or abnormality."""
        return self.displays.get(name, name)

    def to_json(self) -> dict[str, Any]:
        """Plain data: answers, organs or regions found, quality checks."""
        modality = MODALITIES[self.modality]
        found = modality.organs_found(self.standardized)
        return {
            modality.image: self.name,
            "masks": self.masks,
            "notes": list(self.notes),
            "answers": [asdict(answer) for answer in self.answers],
            **{name: [asdict(one) for one in several] for name, several in found.items()},
            "checks": [asdict(check) for check in self.standardized.checks],
        }
