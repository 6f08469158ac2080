"""What can truthfully, and what falsely, be said of one organ of one study: the texts that training draws from.

Report sentences and dictionary wording are mixed on both sides, so that wording alone tells nothing: positives are
rendered in dictionary wording half the time, negatives in the words of other studies' reports half the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence, organ_evidence
from ctglip.vocabulary.negatives import allowed_negatives
from ctglip.vocabulary.organs import OrganDictionary
from ctglip.vocabulary.prompts import negative_prompts, normal_prompts, positive_prompts

Kind = Literal["abnormal", "normal", "silent"]
NO_TEXT = -1


@dataclass(frozen=True)
class Statement:
    """One thing that is true of an organ, in the words of its report and in those of the dictionary.

    Attributes:
        key: the same for statements of the same content about the same organ.
        own: texts of the study's report.
        dictionary: texts of the dictionary.
    """

    key: int
    own: tuple[int, ...]
    dictionary: tuple[int, ...]


@dataclass(frozen=True)
class OrganSayings:
    """All that a report lets us say of one organ.

    Attributes:
        kind: abnormal (something is affirmed), normal (spoken of, nothing affirmed or suspected), or silent: no text
            can be given.
        affirmed: what is affirmed.
        statements: one of them is drawn at a step.
        hard: abnormalities of the organ that the report denies.
        others: abnormalities of the organ that the report neither affirms, suspects nor denies.
    """

    organ: str
    kind: Kind
    affirmed: tuple[str, ...]
    statements: tuple[Statement, ...]
    hard: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class Wordings:
    """How an abnormality of an organ is affirmed: by the dictionary, and by the reports of a training split."""

    dictionary: tuple[int, ...]
    reports: tuple[int, ...]


class Phrasebook:
    """Builds the sayings of many organs and numbers every text that they use.

    Args:
        organs, abnormalities: the dictionaries.
        silence_is_normal: an organ that a report never speaks of counts as normal.

    Attributes:
        texts: every text that can be drawn; the numbers in sayings point here.
    """

    def __init__(
        self, organs: OrganDictionary, abnormalities: AbnormalityDictionary, silence_is_normal: bool = False
    ) -> None:
        self.organs = organs
        self.abnormalities = abnormalities
        self.silence_is_normal = silence_is_normal
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._keys: dict[tuple[str, frozenset[str]], int] = {}
        self._dictionary: dict[tuple[str, str], tuple[int, ...]] = {}
        self._reports: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._seen: dict[str, set[str]] = defaultdict(set)

    @property
    def keys(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """What each statement key stands for: an organ and the abnormalities that are affirmed in it."""
        return tuple(self._keys)

    def add(self, findings: Sequence[Finding], organ: str) -> OrganSayings:
        """The sayings of one organ from the findings of its study's report."""
        return self.add_all([(findings, organ)])[0]

    def add_all(self, reports: Sequence[tuple[Sequence[Finding], str]]) -> list[OrganSayings]:
        """The sayings of many (findings, organ). What is affirmed in any of them is denied more often in the others."""
        found = [(organ_evidence(rows, organ, self.organs, self.abnormalities), rows) for rows, organ in reports]
        for evidence, _ in found:
            self._seen[evidence.organ].update(evidence.affirmed)
        return [self._sayings(evidence, rows) for evidence, rows in found]

    def _sayings(self, evidence: OrganEvidence, findings: Sequence[Finding]) -> OrganSayings:
        allowed = allowed_negatives(evidence, self.organs, self.abnormalities)
        affirmed = tuple(evidence.affirmed)
        suspected = bool(evidence.uncertain) or bool(evidence.sentences)
        kind: Kind = "silent"
        statements: tuple[Statement, ...] = ()
        if affirmed:
            kind, statements = "abnormal", self._abnormal(evidence, findings)
        elif not suspected and (evidence.mentioned or self.silence_is_normal):
            kind, statements = "normal", self._normal(evidence, findings, allowed)
        hard = tuple(name for name in allowed if name in evidence.negated)
        others = tuple(name for name in allowed if name not in evidence.negated)
        return OrganSayings(evidence.organ, kind, affirmed, statements, hard, others)

    def wordings(self, organ: str, abnormality: str) -> Wordings:
        """The texts that affirm an abnormality in an organ; those of reports come from all sayings added so far."""
        pair = (organ, abnormality)
        if pair not in self._dictionary:
            prompts = positive_prompts(self.abnormalities[abnormality], self.organs[organ])
            self._dictionary[pair] = self._number(prompts)
        return Wordings(self._dictionary[pair], tuple(dict.fromkeys(self._reports.get(pair, ()))))

    def _abnormal(self, evidence: OrganEvidence, findings: Sequence[Finding]) -> tuple[Statement, ...]:
        organ = evidence.organ
        whole = " ".join(dict.fromkeys((*evidence.sentences, *evidence.affirmed.values())))
        statements = []
        for name, sentence in evidence.affirmed.items():
            said = {f.abnormality for f in findings if f.sentence == sentence}
            alone = self._number((sentence,)) if said == {name} else ()
            if alone and _organs_of(findings, sentence) == {organ}:
                self._reports[organ, name] += alone
            statements.append(Statement(self._key(organ, (name,)), alone, self.wordings(organ, name).dictionary))
        if len(statements) > 1:
            statements.append(Statement(self._key(organ, evidence.affirmed), self._number((whole,)), ()))
        elif not statements[0].own:
            statements[0] = Statement(statements[0].key, self._number((whole,)), statements[0].dictionary)
        return tuple(statements)

    def _normal(
        self, evidence: OrganEvidence, findings: Sequence[Finding], allowed: Iterable[str]
    ) -> tuple[Statement, ...]:
        organ = self.organs[evidence.organ]
        calm = [f.sentence for f in findings if f.organ == organ.name and f.status in ("normal", "negated")]
        own = tuple(dict.fromkeys(s for s in calm if _organs_of(findings, s) == {organ.name}))
        seen = self._seen[organ.name]
        key = self._key(organ.name, ())
        statements = [Statement(key, self._number(own), self._number(normal_prompts(organ)))]
        for names in ([n for n in allowed if n in seen], [n for n in allowed if n not in seen]):
            denials = [text for name in names for text in negative_prompts(self.abnormalities[name], organ)]
            if denials:
                statements.append(Statement(key, self._number(own), self._number(denials)))
        return tuple(statements)

    def _number(self, texts: Iterable[str]) -> tuple[int, ...]:
        found = []
        for text in texts:
            if text not in self._numbers:
                self._numbers[text] = len(self.texts)
                self.texts.append(text)
            found.append(self._numbers[text])
        return tuple(found)

    def _key(self, organ: str, names: Iterable[str]) -> int:
        return self._keys.setdefault((organ, frozenset(names)), len(self._keys))


def _organs_of(findings: Sequence[Finding], sentence: str) -> set[str | None]:
    return {f.organ for f in findings if f.sentence == sentence}


def draw_text(
    sayings: OrganSayings, dictionary_wording: float, rng: np.random.Generator, taken: Mapping[int, int]
) -> tuple[int, int]:
    """This step's text and its key; ``NO_TEXT`` twice for an organ of which nothing is said.

    Args:
        dictionary_wording: probability of the dictionary's words where the report has its own.
        taken: texts already in the batch with their keys: a text under another key is drawn again, a few times.
    """
    if not sayings.statements:
        return NO_TEXT, NO_TEXT
    text, key = NO_TEXT, NO_TEXT
    for _ in range(6):
        statement = sayings.statements[int(rng.integers(len(sayings.statements)))]
        from_dictionary = bool(rng.random() < dictionary_wording)
        pool = (statement.dictionary if from_dictionary else statement.own) or statement.own or statement.dictionary
        text, key = pool[int(rng.integers(len(pool)))], statement.key
        if text not in taken:
            break
    return text, key


def draw_negatives(
    sayings: OrganSayings,
    wordings: Mapping[tuple[str, str], Wordings],
    count: int,
    report_wording: float,
    rng: np.random.Generator,
) -> Int[np.ndarray, " k"]:
    """Texts that are false of the organ: what its report denies first, then other abnormalities of the organ.

    Up to half of them are abnormalities that reports of the split affirm in that organ: those are worth telling apart.

    Args:
        wordings: (organ, abnormality) -> how it is affirmed.
        count: how many; missing ones are ``NO_TEXT``.
        report_wording: probability of another report's words where there are any.
    """
    out = np.full(count, NO_TEXT, dtype=np.int64)
    hard = [sayings.hard[i] for i in rng.permutation(len(sayings.hard))]
    rest = [sayings.others[i] for i in rng.permutation(len(sayings.others))]
    seen = [name for name in rest if wordings[sayings.organ, name].reports][: count // 2]
    rest = [name for name in rest if name not in seen]
    for place, name in enumerate((hard + seen + rest)[:count]):
        words = wordings[sayings.organ, name]
        pool = words.reports if words.reports and rng.random() < report_wording else words.dictionary
        out[place] = pool[int(rng.integers(len(pool)))]
    return out
