"""What can truthfully, and what falsely, be said of one organ of one study: the texts that training draws from.

Wording alone must tell nothing. Positives are rendered in dictionary wording half the time; a negative is what would
be said, as often and in the same words, of the same organ of another study, where it is false of this one. So nothing
is ever only false: an abnormality that no report of the split affirms is no negative either, however a report denies
it. ``tests/objectives/test_style_leak.py`` holds a text-only classifier to AUROC 0.6.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ctglip.data.samples import NO_TEXT
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence, ReportEvidence
from ctglip.vocabulary.negatives import CONFUSABLE_WEIGHT, Strategy, allowed_negatives, confusable, related
from ctglip.vocabulary.organs import OrganDictionary
from ctglip.vocabulary.prompts import negative_prompts, normal_prompts, positive_prompts

CaptionKind = Literal["abnormal", "normal", "silent"]
_REMEMBERED = 10_000
"""Captions whose false texts are remembered."""


@dataclass(frozen=True, slots=True)
class Caption:
    """One thing that is true of an organ, in the words of its report and in those of the dictionary.

    Attributes:
        key: the same for captions of the same content about the same organ.
        report: texts of the study's report.
        dictionary: texts of the dictionary.
        names: the abnormalities that it affirms; none for a normal organ.
    """

    key: int
    report: tuple[int, ...]
    dictionary: tuple[int, ...]
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class OrganCaptions:
    """All that a report lets us say of one organ.

    Attributes:
        kind: abnormal (something is affirmed), normal (spoken of, nothing affirmed or suspected), or silent: no text
            can be given.
        affirmed: what is affirmed.
        captions: one of them is drawn at a step.
        hard: abnormalities of the organ that the report denies.
        others: abnormalities of the organ that the report neither affirms, suspects nor denies.
        near: which of them are easily mistaken for what the report affirms or suspects.
        possible: abnormalities that may be there, in whatever organ, with all their kin.
    """

    organ: str
    kind: CaptionKind
    affirmed: tuple[str, ...]
    captions: tuple[Caption, ...]
    hard: tuple[str, ...]
    others: tuple[str, ...]
    near: frozenset[str] = frozenset()
    possible: frozenset[str] = frozenset()

    @property
    def sentences(self) -> tuple[int, ...]:
        """Every text of the organ alone; in the dictionary's words where the report has none."""
        single = (caption for caption in self.captions if len(caption.names) < 2)
        return tuple(dict.fromkeys(text for one in single for text in one.report or one.dictionary[:1]))


@dataclass(frozen=True)
class FindingTexts:
    """What reports of a split affirm of an organ: the same abnormalities, in all the ways that they are said.

    Attributes:
        names: the abnormalities.
        captions: how they are said.
        cumulative: how likely each is to be drawn where its study is drawn, added up from the first on.
        total: their sum.
    """

    organ: str
    names: frozenset[str]
    captions: tuple[Caption, ...]
    cumulative: tuple[float, ...]
    total: float


@dataclass(frozen=True)
class Paraphrases:
    """How an abnormality of an organ is affirmed: by the dictionary, and by the reports of a training split.

    Attributes:
        dictionary: texts of the dictionary.
        reports: texts of reports that affirm it and nothing else.
        finding_texts: what reports affirm of the organ that holds it, alone or with others.
    """

    dictionary: tuple[int, ...]
    reports: tuple[int, ...]
    finding_texts: tuple[FindingTexts, ...] = ()


class CaptionBuilder:
    """Builds the captions of many organs and numbers every text that they use.

    Args:
        organs, abnormalities: the dictionaries.
        unmentioned_as_negative: an organ that a report never speaks of counts as normal.

    Attributes:
        texts: every text that can be drawn; the numbers in captions point here.
    """

    def __init__(
        self, organs: OrganDictionary, abnormalities: AbnormalityDictionary, unmentioned_as_negative: bool = False
    ) -> None:
        self.organs = organs
        self.abnormalities = abnormalities
        self.unmentioned_as_negative = unmentioned_as_negative
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._keys: dict[tuple[str, frozenset[str]], int] = {}
        self._captions_by_names: dict[tuple[str, frozenset[str]], list[tuple[Caption, float]]] = defaultdict(list)
        self._finding_texts: dict[tuple[str, str], list[FindingTexts]] | None = None
        self._affirmed: dict[str, set[str]] = defaultdict(set)
        self._prompts: dict[tuple[bool, str, str], tuple[str, ...]] = {}
        self._false: dict[Hashable, tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]] = {}
        self._related: dict[frozenset[str], frozenset[str]] = {}
        self._normal_prompts: dict[str, tuple[tuple[int, ...], ...]] = {}

    @property
    def keys(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """What each caption key stands for: an organ and the abnormalities that are affirmed in it."""
        return tuple(self._keys)

    def add(self, findings: Sequence[Finding], organ: str) -> OrganCaptions:
        """The captions of one organ from the findings of its study's report."""
        return self.add_all([(findings, organ)])[0]

    def add_all(self, reports: Sequence[tuple[Sequence[Finding], str]]) -> list[OrganCaptions]:
        """Captions of many (findings, organ). What is affirmed in any of them is denied more often in the others."""
        found, report = [], None
        for rows, organ in reports:
            if report is None or report[0] is not rows:
                report = rows, ReportEvidence(rows, self.organs, self.abnormalities)
            found.append((report[1].of(organ), rows))
        for evidence, _ in found:
            self._affirmed[evidence.organ].update(evidence.affirmed)
        self._finding_texts = None
        self._normal_prompts.clear()  # they tell apart what is affirmed of other studies
        return [self._captions(evidence, rows) for evidence, rows in found]

    def paraphrases(self, organ: str, abnormality: str) -> Paraphrases:
        """The texts that affirm an abnormality in an organ; those of reports come from all captions added so far."""
        prompts = self._number(self._prompts_of(True, abnormality, organ))
        finding_texts = tuple(self._finding_texts_by_name().get((organ, abnormality), ()))
        alone = (finding for finding in finding_texts if finding.names == {abnormality})
        reports = (text for finding in alone for caption in finding.captions for text in caption.report)
        return Paraphrases(prompts, tuple(dict.fromkeys(reports)), finding_texts)

    def _finding_texts_by_name(self) -> dict[tuple[str, str], list[FindingTexts]]:
        if self._finding_texts is None:
            self._finding_texts = {}
            for (organ, names), weighted in self._captions_by_names.items():
                weights = np.array([weight for _, weight in weighted])
                finding = FindingTexts(
                    organ, names, tuple(s for s, _ in weighted), _cumulative(weights), float(weights.sum())
                )
                for name in names:
                    self._finding_texts.setdefault((organ, name), []).append(finding)
        return self._finding_texts

    def _captions(self, evidence: OrganEvidence, findings: Sequence[Finding]) -> OrganCaptions:
        affirmed = tuple(evidence.affirmed)
        suspected = bool(evidence.uncertain) or bool(evidence.sentences)
        key = (evidence.organ, frozenset(affirmed) | evidence.uncertain, evidence.negated)
        if key not in self._false:
            self._false[key] = self._false_names(evidence)
        hard, others, near = self._false[key]
        kind: CaptionKind = "silent"
        several: tuple[Caption, ...] = ()
        if affirmed:
            kind, several = "abnormal", self._abnormal(evidence, findings)
        elif not suspected and (evidence.mentioned or self.unmentioned_as_negative):
            kind, several = "normal", self._normal(evidence, findings)
        maybe = evidence.elsewhere.union(affirmed) if affirmed else evidence.elsewhere
        if maybe not in self._related:
            self._related[maybe] = related(maybe, self.abnormalities)
        return OrganCaptions(evidence.organ, kind, affirmed, several, hard, others, near, self._related[maybe])

    def _false_names(self, evidence: OrganEvidence) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
        """What the report denies, what it passes over, and which is easily mistaken for what is there."""
        allowed = allowed_negatives(evidence, self.organs, self.abnormalities)
        hard = tuple(name for name in allowed if name in evidence.negated)
        others = tuple(name for name in allowed if name not in evidence.negated)
        return hard, others, confusable(evidence, self.abnormalities)

    def _abnormal(self, evidence: OrganEvidence, findings: Sequence[Finding]) -> tuple[Caption, ...]:
        organ = evidence.organ
        sentences = " ".join(dict.fromkeys((*evidence.sentences, *evidence.affirmed.values())))
        several = []
        for name, sentence in evidence.affirmed.items():
            stated = {f.abnormality for f in findings if f.sentence == sentence}
            alone = self._number((sentence,)) if stated == {name} else ()
            prompts = self._number(self._prompts_of(True, name, organ))
            several.append(Caption(self._key(organ, (name,)), alone, prompts, frozenset((name,))))
        if len(several) > 1:
            every = frozenset(evidence.affirmed)
            several.append(Caption(self._key(organ, every), self._number((sentences,)), (), every))
        elif not several[0].report:
            several[0] = replace(several[0], report=self._number((sentences,)))
        for caption in several:
            self._captions_by_names[organ, caption.names].append((caption, 1 / len(several)))
        return tuple(several)

    def _normal(self, evidence: OrganEvidence, findings: Sequence[Finding]) -> tuple[Caption, ...]:
        organ = evidence.organ
        calm = [f.sentence for f in findings if f.organ == organ and f.status in ("normal", "negated")]
        alone = self._number(dict.fromkeys(s for s in calm if _organs_of(findings, s) == {organ}))
        if organ not in self._normal_prompts:
            self._normal_prompts[organ] = self._prompts_of_normal(evidence)
        key = self._key(organ, ())
        return tuple(Caption(key, alone, prompts) for prompts in self._normal_prompts[organ])

    def _prompts_of_normal(self, evidence: OrganEvidence) -> tuple[tuple[int, ...], ...]:
        """The dictionary's words for a normal organ: that it is, and what it has not, what others have first."""
        organ = self.organs[evidence.organ]
        allowed = allowed_negatives(evidence, self.organs, self.abnormalities)
        common = self._affirmed[organ.name]
        several = ([n for n in allowed if n in common], [n for n in allowed if n not in common])
        denials = ([text for name in names for text in self._prompts_of(False, name, organ.name)] for names in several)
        return tuple(self._number(texts) for texts in (normal_prompts(organ), *denials) if texts)

    def _prompts_of(self, affirmed: bool, abnormality: str, organ: str) -> tuple[str, ...]:
        """The dictionary's prompts, filled in once."""
        key = (affirmed, abnormality, organ)
        if key not in self._prompts:
            fill = positive_prompts if affirmed else negative_prompts
            self._prompts[key] = tuple(fill(self.abnormalities[abnormality], self.organs[organ]))
        return self._prompts[key]

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
    captions: OrganCaptions, dictionary_wording: float, rng: np.random.Generator, taken: Mapping[int, int]
) -> tuple[int, int]:
    """This step's text and its key; ``NO_TEXT`` twice for an organ that has no caption.

    Args:
        dictionary_wording: probability of the dictionary's words where the report has its own.
        taken: texts already in the batch with their keys: a text under another key is drawn again, a few times.
    """
    if not captions.captions:
        return NO_TEXT, NO_TEXT
    text, key = NO_TEXT, NO_TEXT
    for _ in range(6):
        which, wording, position = rng.random(3).tolist()
        caption = captions.captions[int(which * len(captions.captions))]
        text, key = _worded(caption, wording >= dictionary_wording, position), caption.key
        if text not in taken:
            break
    return text, key


class Negatives:
    """Draws texts that are false of an organ: what its report denies first, then what other studies' reports affirm.

    What is false of whom is worked out once for each saying (of very many, now and then anew).

    Args:
        paraphrases: (organ, abnormality) -> how it is affirmed.
        strategy: ``none`` and ``batch`` draw nothing here, ``random`` draws from all abnormalities, ``same_organ`` from
            this organ's, ``hierarchy`` likewise, but what is easily mistaken more often.
    """

    def __init__(self, paraphrases: Mapping[tuple[str, str], Paraphrases], strategy: Strategy = "same_organ") -> None:
        self.paraphrases = paraphrases
        self.strategy: Strategy = strategy
        self._false: dict[Hashable, _False] = {}

    def draw(
        self, captions: OrganCaptions, count: int, report_wording: float, rng: np.random.Generator
    ) -> Int[np.ndarray, " k"]:
        """So many texts; missing ones are ``NO_TEXT``.

        Args:
            report_wording: probability of a report's words where there are any.
        """
        false = self._of(captions)
        if not (count and false.finding_texts):
            return np.full(count, NO_TEXT, dtype=np.int64)
        first = [false.denied[i] for i in rng.permutation(len(false.denied))[:count]] if false.denied else []
        out = []
        for number, (which, caption, wording, position) in enumerate(rng.random((count, 4)).tolist()):
            finding = false.finding_texts[
                first[number] if number < len(first) else bisect_right(false.cumulative, which)
            ]
            chosen = finding.captions[bisect_right(finding.cumulative, caption)]
            out.append(_worded(chosen, wording < report_wording, position))
        return np.array(out, dtype=np.int64)

    def _of(self, captions: OrganCaptions) -> _False:
        key = (captions.organ, captions.hard, captions.others, captions.near, captions.possible)
        if key not in self._false:
            if len(self._false) >= _REMEMBERED:
                self._false.clear()
            finding_texts = tuple(_false_finding_texts(captions, self.paraphrases, self.strategy))
            weights = np.array([finding.total for finding in finding_texts])
            if self.strategy == "hierarchy":
                weights *= [CONFUSABLE_WEIGHT if finding.names & captions.near else 1.0 for finding in finding_texts]
            denied = tuple(
                position for position, finding in enumerate(finding_texts) if finding.names.issubset(captions.hard)
            )
            self._false[key] = _False(finding_texts, _cumulative(weights), denied)
        return self._false[key]


@dataclass(frozen=True)
class _False:
    """Claims that are false of an organ, how likely each is (added up), and which of them its report denies."""

    finding_texts: tuple[FindingTexts, ...]
    cumulative: tuple[float, ...]
    denied: tuple[int, ...]


def _false_finding_texts(
    captions: OrganCaptions, paraphrases: Mapping[tuple[str, str], Paraphrases], strategy: Strategy
) -> list[FindingTexts]:
    """Claims of which no part can be true of the study's organ, nor, where organs are mixed, of any other organ."""
    if strategy in ("none", "batch"):
        return []
    false = {*captions.hard, *captions.others}
    every = (finding for name in sorted(false) for finding in paraphrases[captions.organ, name].finding_texts)
    usable = [finding for finding in every if finding.names <= false]
    if strategy == "random":
        pairs = (words for (organ, _), words in paraphrases.items() if organ != captions.organ and words.finding_texts)
        usable += [c for words in pairs for c in words.finding_texts if c.names.isdisjoint(captions.possible)]
    return list({(finding.organ, finding.names): finding for finding in usable}.values())


def _cumulative(weights: Float[np.ndarray, " n"]) -> tuple[float, ...]:
    """Weights added up from the first on, the last 1: where ``bisect_right`` finds the one that a chance falls on."""
    sums = np.cumsum(weights)
    return tuple((sums / sums[-1]).tolist()) if len(sums) else ()


def _worded(caption: Caption, from_report: bool, chance: float) -> int:
    """The wording that a number from 0 to 1 falls on."""
    pool = (caption.report if from_report else caption.dictionary) or caption.report or caption.dictionary
    return pool[int(chance * len(pool))]


def permuted(captions: list[OrganCaptions], rng: np.random.Generator) -> list[OrganCaptions]:
    """Captions exchanged between the studies of each organ."""
    out = list(captions)
    for organ in dict.fromkeys(s.organ for s in captions):
        rows = [row for row, s in enumerate(captions) if s.organ == organ]
        for row, other in zip(rows, rng.permutation(rows), strict=True):
            out[row] = captions[int(other)]
    return out
