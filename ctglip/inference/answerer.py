"""Embeddings of organs to answers: what scans and films have in common once their organs are encoded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ctglip.errors import ModelError
from ctglip.inference.answers import Answer, SimilarSentence
from ctglip.inference.questions import Question, parse_question
from ctglip.inference.scoring import Pair, Scorer, check_aligned
from ctglip.models.release import Release
from ctglip.types import Standardized
from ctglip.vocabulary.prompts import normal_prompts

_SIMILAR = 3


@dataclass(frozen=True)
class _Reading:
    """One organ's abnormalities with their differences of similarities, and the sentences nearest to it."""

    names: list[str]
    differences: Float[np.ndarray, " n"]
    similar: tuple[SimilarSentence, ...]


class Answerer:
    """A trained model that says in words and numbers what the vectors of organs mean.

    Args:
        release: as ``models.release.load_release`` gives it.
        observes: films are read by their observations.

    Attributes:
        scorer, dictionaries: the model's prompts and dictionaries.
        trained: organ to the abnormalities that training reports affirm in it.

    Raises:
        ModelError: code ``not_aligned``: a model that was trained without texts.
    """

    def __init__(self, release: Release, observes: bool = False) -> None:
        check_aligned(release)
        self.release = release
        self.scorer = Scorer(release, observes=observes)
        self.dictionaries = self.scorer.dictionaries
        self.trained: dict[str, tuple[str, ...]] = {
            organ: tuple(names) for organ, names in release.provenance.get("trained", {}).items()
        }

    @property
    def known(self) -> Collection[str]:
        """The organs that can be asked about."""
        return self.trained

    def understood(self, questions: Sequence[str], everything: bool = False) -> list[tuple[str, Pair]]:
        """Each question with its (organ, abnormality), and after them, without words, all that can be asked.

        Raises:
            VocabularyError: a question that is not understood.
            ModelError: nothing was asked.
        """
        asked = [parse_question(text, self.dictionaries, self.known) for text in questions]
        pairs = [entry for question in asked for entry in self._pairs(question)]
        if everything:
            pairs += [("", pair) for pair in self.screened()]
        if not pairs:
            raise ModelError("There is no question.", code="no_question", fix='Ask for example "gallstones?".')
        return pairs

    def screened(self) -> list[Pair]:
        """Every (organ, abnormality) of the dictionary, of the organs that the model was trained on."""
        of_organ = self.dictionaries.abnormalities.of_organ
        return [
            (organ, name)
            for organ, learned in self.trained.items()
            for name in dict.fromkeys((*learned, *(entry.name for entry in of_organ(organ))))
        ]

    def _pairs(self, question: Question) -> list[tuple[str, Pair]]:
        """The question's pairs; "anything abnormal" becomes all that the organ was learned with."""
        if question.abnormality is not None:
            return [(question.text, (organ, question.abnormality)) for organ in question.organs]
        found: list[tuple[str, Pair]] = []
        for organ in question.organs:
            names = self.trained.get(organ) or tuple(e.name for e in self.dictionaries.abnormalities.of_organ(organ))
            found += [(question.text, (organ, name)) for name in names] or [(question.text, (organ, ""))]
        return found

    def _told(
        self,
        pairs: Sequence[tuple[str, Pair]],
        seen: Mapping[str, Float[np.ndarray, "*q e"]],
        reasons: Mapping[str, str],
    ) -> list[Answer]:
        """What is said of each pair: from the vector of its organ, or the reason why that cannot be seen."""
        read = {organ: self._read(organ, pairs, vector) for organ, vector in seen.items()}
        out = []
        for text, (organ, name) in pairs:
            question = text or f"{organ}: {name}"
            if organ in read:
                out.append(self._answer(question, organ, name, read[organ]))
            else:
                out.append(Answer(question, organ, name, None, reason=reasons[organ]))
        return out

    def _read(self, organ: str, pairs: Sequence[tuple[str, Pair]], vector: Float[np.ndarray, "*q e"]) -> _Reading:
        """All that is asked of one organ, and all that it was learned with, read off its vector at once."""
        names = list(dict.fromkeys((*self.trained.get(organ, ()), *(name for _, (o, name) in pairs if o == organ))))
        differences = self.scorer.differences(vector[None], [(organ, name) for name in names])[0]
        return _Reading(names, differences, self._similar(organ, names, vector))

    def _answer(self, question: str, organ: str, name: str, read: _Reading) -> Answer:
        learned = self.trained.get(organ, ())
        place = read.names.index(name)
        ranked = [n for n, other in enumerate(read.names) if other in learned or n == place]
        own = read.differences[place]
        calibration = self.scorer.calibration
        return Answer(
            question=question,
            organ=organ,
            abnormality=name,
            probability=float(calibration.probabilities(own)),
            calibrated=calibration.fitted_on is not None,
            rank=1 + int((read.differences[ranked] > own).sum()),
            of=len(ranked),
            seen=name in learned or not self.dictionaries.abnormalities.descendants(name).isdisjoint(learned),
            similar=read.similar,
        )

    def _similar(
        self, organ: str, names: Sequence[str], vector: Float[np.ndarray, "*q e"]
    ) -> tuple[SimilarSentence, ...]:
        texts = list(normal_prompts(self.dictionaries.organs[organ], self.scorer.templates))
        texts += [text for name in names for text in self.scorer.prompts((organ, name))[0]]
        texts = list(dict.fromkeys(texts))
        similarity = self.scorer.similarities(vector, texts)
        best = np.argsort(-similarity, kind="stable")[:_SIMILAR]
        return tuple(SimilarSentence(texts[i], round(float(similarity[i]), 4)) for i in best)

    def _displays(self, answers: Sequence[Answer], standardized: Standardized) -> dict[str, str]:
        organs, abnormalities = self.dictionaries.organs, self.dictionaries.abnormalities
        names = {answer.organ for answer in answers} | {row.organ for row in standardized.rows}
        found = {name: organs[name].display for name in names}
        return found | {a.abnormality: abnormalities[a.abnormality].display for a in answers if a.abnormality}
