"""Embeddings of organs to answers: what scans and radiographs have in common once their organs are encoded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ctglip.errors import CTGLIPError, ModelError, VocabularyError
from ctglip.inference.answers import Answer, SimilarSentence
from ctglip.inference.familiarity import Familiarity, Verdict, familiarity_of, scan_outside
from ctglip.inference.questions import Ask, organ_in, understand
from ctglip.inference.scoring import Pair, Scorer
from ctglip.models.release import Release
from ctglip.types import Standardized
from ctglip.vocabulary.prompts import normal_prompts

_SIMILAR = 3
NOT_MEASURED = (
    "How far this scan lies from those of training was not measured: the model was made without that, or read in "
    "another way than it was fitted for."
)


@dataclass(frozen=True)
class AnswerRequest:
    """One answer that is wanted.

    Attributes:
        text: the question; "" for what ``everything`` adds.
        organ, abnormality: names; an abnormality of "" asks for a sentence, or for an organ of which nothing is known.
        sentence: of one's own, to compare the organ with.
        group: one of several that the question asked for at once.
        denied, unasked: see ``Answer``.
        reason: why the question is not understood.
    """

    text: str
    organ: str = ""
    abnormality: str = ""
    sentence: str = ""
    group: bool = False
    denied: bool = False
    unasked: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class OrganVectors:
    """What the model makes of the organs that can be read.

    Attributes:
        vectors: organ to the unit vector (of radiographs' observations several) that meets texts.
        reasons: organ to why nothing can be said of it.
        verdicts: organ to how it compares with training; None where that is not known.
        marks: organ to what speaks against its answers: "The liver is cut off by the field of view."
    """

    vectors: dict[str, Float[np.ndarray, "*q e"]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, Verdict | None] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)

    def knows(self, organ: str) -> bool:
        """Whether an organ is encoded, or known not to be readable."""
        return organ in self.vectors or organ in self.reasons

    def joined(self, more: OrganVectors) -> OrganVectors:
        """These and those of other organs."""
        return OrganVectors(
            self.vectors | more.vectors,
            self.reasons | more.reasons,
            self.verdicts | more.verdicts,
            self.marks | more.marks,
        )


@dataclass(frozen=True)
class _OrganScores:
    """One organ's abnormalities with their differences of similarities, and the sentences nearest to it."""

    names: list[str]
    differences: Float[np.ndarray, " n"]
    similar: tuple[SimilarSentence, ...]
    texts: tuple[str, ...]


class Answerer:
    """A trained model that says in words and numbers what the vectors of organs mean.

    Args:
        release: as ``models.release.load_release`` gives it.
        reading: how organs are read, as ``Familiarity`` names it: ``observations`` have texts of their own.

    Attributes:
        scorer, dictionaries: the model's prompts and dictionaries.
        trained: organ to the abnormalities that training reports affirm in it.
        familiarity: what organs looked like in training; None where that was not measured.

    Raises:
        ModelError: code ``not_aligned``: a model that was trained without texts.
    """

    def __init__(self, release: Release, reading: str) -> None:
        release.check_aligned()
        self.release = release
        self.scorer = Scorer(release, observes=reading == "observations")
        self.dictionaries = self.scorer.dictionaries
        self.trained: dict[str, tuple[str, ...]] = {
            organ: tuple(names) for organ, names in release.provenance.get("trained", {}).items()
        }
        self.familiarity: Familiarity | None = familiarity_of(release, reading)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """Unit vectors of texts as answers compare them with images, on the CPU.

        Raises:
            ModelError: code ``text_encoder``: a text is no prompt of the dictionaries, and the encoder cannot be had.
        """
        return torch.from_numpy(self.scorer.directions([(text,) for text in texts]))

    def _encode_channels(
        self, images: Float[Tensor, "b c *s"], regions: Sequence[str] | Mapping[str, Any] | None
    ) -> Float[Tensor, "m e"]:
        """``Release.encode_image``, on the CPU."""
        if regions is not None and not isinstance(regions, Mapping):
            raise ModelError(
                "Channels come with regions by name, not with organs alone.",
                code="regions",
                fix="Give what model_input or a dataset's collate gives.",
            )
        return self.release.encode_image(images, regions).cpu()

    @property
    def known(self) -> Collection[str]:
        """The organs that can be asked about."""
        return self.trained

    def understood(
        self, questions: Sequence[str], everything: bool = False, prompts: Sequence[str] = ()
    ) -> list[AnswerRequest]:
        """What each question asks for, then the sentences, and after them, without words, all that can be asked.

        A question that is not understood is an entry with a reason, as long as there is another.

        Raises:
            VocabularyError: the only question, or every one, is not understood.
            ModelError: nothing was asked.
        """
        found: list[AnswerRequest] = []
        errors: list[VocabularyError] = []
        for texts, read in ((questions, self._question), (prompts, self._sentence)):
            for text in texts:
                try:
                    found += read(text)
                except VocabularyError as error:
                    errors.append(error)
                    found.append(AnswerRequest(text, reason=str(error).removeprefix(f"{text!r}: ")))
        if everything:
            found += [AnswerRequest("", organ, name, group=True) for organ, name in self.screened()]
        if not found:
            raise ModelError("There is no question.", code="no_question", fix='Ask for example "gallstones?".')
        if len(errors) == len(found):
            raise errors[0]
        return found

    def screened(self) -> list[Pair]:
        """Every (organ, abnormality) of the dictionary, of the organs that the model was trained on."""
        of_organ = self.dictionaries.abnormalities.of_organ
        return [
            (organ, name)
            for organ, learned in self.trained.items()
            for name in dict.fromkeys((*learned, *(entry.name for entry in of_organ(organ))))
        ]

    def _question(self, text: str) -> list[AnswerRequest]:
        question = understand(text, self.dictionaries, self.known)
        return [
            replace(request, denied=ask.denied, unasked=question.unasked)
            for ask in question.pairs
            for request in self._requests(text, ask)
        ]

    def _requests(self, text: str, ask: Ask) -> Iterator[AnswerRequest]:
        """The answers wanted; "anything abnormal" becomes all that the organ was learned with."""
        if ask.abnormality is not None:
            yield from (AnswerRequest(text, organ, ask.abnormality) for organ in ask.organs)
            return
        of_organ = self.dictionaries.abnormalities.of_organ
        for organ in ask.organs or tuple(organ for organ, names in self.trained.items() if names):
            names = self.trained.get(organ) or tuple(entry.name for entry in of_organ(organ))
            yield from [AnswerRequest(text, organ, name, group=True) for name in names] or [
                AnswerRequest(text, organ, group=True)
            ]

    def _sentence(self, text: str) -> list[AnswerRequest]:
        organs, sentence = organ_in(text, self.dictionaries, self.known)
        return [AnswerRequest(text, organ, sentence=sentence) for organ in organs]

    def _answers(self, requests: Sequence[AnswerRequest], vectors: OrganVectors) -> list[Answer]:
        """What is said of each: from the vector of its organ, or the reason why it has none.

        Several that one question asks for come ranked, those that were taught first; an organ of which nothing can be
        said takes one line of them.
        """
        read = {organ: self._scores(organ, requests, vector) for organ, vector in vectors.vectors.items()}
        outside = scan_outside(vectors.verdicts)
        out: list[Answer] = []
        groups: dict[str, list[Answer]] = {}
        silent: set[tuple[str, str]] = set()
        for one in requests:
            known = one.organ in read
            unread = (one.text, one.organ)
            if one.group and not known:
                if unread in silent:
                    continue
                silent.add(unread)
            answer = self._answer(one, read.get(one.organ), vectors, outside)
            if not one.group:
                out.append(answer)
            elif one.text in groups:
                groups[one.text].append(answer)
            else:
                groups[one.text] = [answer]
                out.append(answer)
        return [each for one in out for each in (_ranked(groups[_key(one, groups)]) if one.group else [one])]

    def _notes(self, vectors: OrganVectors) -> tuple[str, ...]:
        """What holds for all answers."""
        outside = scan_outside(vectors.verdicts)
        if outside:
            return (f"This scan is outside what this model has seen: {outside}. Its probabilities are not calibrated.",)
        unknown = [organ for organ, verdict in vectors.verdicts.items() if verdict is None]
        if self.familiarity is None and vectors.vectors:
            return (NOT_MEASURED,)
        if unknown:
            names = ", ".join(self.dictionaries.organs[organ].display for organ in unknown)
            return (f"How far these lie from those of training was not measured, too few were validated: {names}.",)
        return ()

    def _scores(self, organ: str, requests: Sequence[AnswerRequest], vector: Float[np.ndarray, "*q e"]) -> _OrganScores:
        """All that is asked of one organ, and all that it was learned with, read off its vector at once."""
        names_requested = (one.abnormality for one in requests if one.organ == organ and one.abnormality)
        names = list(dict.fromkeys((*self.trained.get(organ, ()), *names_requested)))
        differences = self.scorer.differences(vector[None], [(organ, name) for name in names])[0]
        texts = list(normal_prompts(self.dictionaries.organs[organ], self.scorer.templates))
        texts += [text for name in names for text in self.scorer.prompts((organ, name))[0]]
        texts = list(dict.fromkeys(texts))
        similarity = self.scorer.similarities(vector, texts)
        best = np.argsort(-similarity, kind="stable")[:_SIMILAR]
        similar = tuple(SimilarSentence(texts[i], round(float(similarity[i]), 4)) for i in best)
        return _OrganScores(names, differences, similar, tuple(texts))

    def _answer(self, one: AnswerRequest, read: _OrganScores | None, vectors: OrganVectors, outside: str) -> Answer:
        organ, name = one.organ, one.abnormality
        question = one.text or f"{self._display(organ)}: {self._display(name)}"
        blank = Answer(question, organ, name, None, denied=one.denied, unasked=one.unasked, group=one.group)
        if one.reason:
            return replace(blank, reason=one.reason, understood=False)
        if read is None:
            return replace(blank, reason=vectors.reasons[organ], abnormality="" if one.group else name)
        verdict = vectors.verdicts.get(organ)
        blank = replace(
            blank,
            familiar=None if verdict is None else not (verdict.outside or outside),
            distance=None if verdict is None else round(verdict.distance, 3),
            similar=read.similar,
        )
        if one.sentence:
            return self._compared(blank, one, read, vectors)
        if not name:
            return replace(blank, reason=f"The dictionary holds no abnormality of the {self._display(organ)}.")
        learned = self.trained.get(organ, ())
        number = read.names.index(name)
        ranked = [n for n, other in enumerate(read.names) if other in learned or n == number]
        difference = read.differences[number]
        taught = name in learned or not self.dictionaries.abnormalities.descendants(name).isdisjoint(learned)
        caveats = tuple(self._caveats(organ, name, taught, vectors, outside))
        calibration = self.scorer.calibration
        calibrated = calibration.fitted_on is not None and not caveats
        return replace(
            blank,
            probability=float(calibration.probabilities(difference)),
            calibrated=calibrated,
            rank=1 + int((read.differences[ranked] > difference).sum()),
            of=len(ranked),
            taught=taught,
            caveats=caveats,
            threshold=calibration.thresholds.get(f"{organ}:{name}") if calibrated else None,
        )

    def _caveats(self, organ: str, name: str, taught: bool, vectors: OrganVectors, outside: str) -> Iterator[str]:
        """Why a calibration does not hold for an answer."""
        verdict = vectors.verdicts.get(organ)
        if verdict is not None and verdict.outside:
            yield f"outside what this model has seen ({verdict.why})"
        elif outside:
            yield f"outside what this model has seen ({outside})"
        if not taught:
            yield f"never taught: no report of training affirms {self._display(name)} of the {self._display(organ)}"
        if organ in vectors.marks:
            yield vectors.marks[organ]

    def _compared(self, blank: Answer, one: AnswerRequest, read: _OrganScores, vectors: OrganVectors) -> Answer:
        """A sentence of one's own: how similar the organ is to it, and to how many sentences it is less similar."""
        try:
            found = self.scorer.similarities(vectors.vectors[one.organ], [one.sentence, *read.texts])
        except CTGLIPError as error:
            return replace(blank, reason=str(error))
        similarity, others = float(found[0]), found[1:]
        marks = (vectors.marks[one.organ],) if one.organ in vectors.marks else ()
        return replace(
            blank,
            similarity=round(similarity, 4),
            rank=1 + int((others > similarity).sum()),
            of=1 + len(others),
            caveats=("a sentence of your own: a similarity, no probability", *marks),
        )

    def _display(self, name: str) -> str:
        for dictionary in (self.dictionaries.organs, self.dictionaries.abnormalities):
            if name in dictionary:
                return dictionary[name].display
        return name

    def _displays(self, answers: Sequence[Answer], standardized: Standardized) -> dict[str, str]:
        names = [name for answer in answers for name in (answer.organ, answer.abnormality) if name]
        return {name: self._display(name) for name in (*names, *(row.organ for row in standardized.rows))}


def _key(answer: Answer, groups: Mapping[str, Sequence[Answer]]) -> str:
    """The question of a group; what ``everything`` adds has none."""
    return answer.question if answer.question in groups else ""


def _ranked(answers: Sequence[Answer]) -> list[Answer]:
    """Those that were taught first, the most likely first, those without an answer last."""
    return sorted(answers, key=lambda a: (a.probability is None, not a.taught, -(a.probability or 0.0)))
