"""What can truthfully, and what falsely, be said of one organ of one study: the texts that training draws from.

Wording alone must tell nothing. Positives are rendered in dictionary wording half the time; a negative is what would
be said, as often and in the same words, of the same organ of another study, where it is false of this one. So nothing
is ever only false: an abnormality that no report of the split affirms is no negative either, however a report denies
it. ``tests/objectives/test_style_leak.py`` holds a text-only classifier to AUROC 0.6.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from ctglip.data.samples import NO_TEXT
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.evidence import OrganEvidence, ReportEvidence
from ctglip.vocabulary.negatives import allowed_negatives, confusable, related
from ctglip.vocabulary.organs import OrganDictionary
from ctglip.vocabulary.prompts import negative_prompts, normal_prompts, positive_prompts

CaptionKind = Literal["abnormal", "normal", "silent"]


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


@dataclass(frozen=True, eq=False)
class FindingTexts:
    """What reports of a split affirm of an organ: the same abnormalities, in all the ways that they are said.

    Attributes:
        names: the abnormalities.
        captions: how they are said.
        cumulative: how likely each is to be drawn where its study is drawn, added up from the first on, the last 1.
        total: their sum before.
    """

    organ: str
    names: frozenset[str]
    captions: Sequence[Caption]
    cumulative: Float[np.ndarray, " n"]
    total: float


@dataclass(frozen=True)
class Paraphrases:
    """How an abnormality of an organ is affirmed: by the dictionary, and by the reports of a training split.

    Attributes:
        dictionary: texts of the dictionary.
        finding_texts: what reports affirm of the organ that holds it, alone or with others.
    """

    dictionary: tuple[int, ...]
    finding_texts: tuple[FindingTexts, ...] = ()

    @property
    def reports(self) -> tuple[int, ...]:
        """Texts of reports that affirm it and nothing else."""
        alone = (finding for finding in self.finding_texts if len(finding.names) == 1)
        return tuple(dict.fromkeys(text for one in alone for caption in one.captions for text in caption.report))


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
        self._affirmed: dict[str, set[str]] = defaultdict(set)
        self._prompts: dict[tuple[bool, str, str], tuple[str, ...]] = {}
        self._false: dict[Hashable, tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]] = {}
        self._related: dict[frozenset[str], frozenset[str]] = {}
        self._normal_prompts: dict[str, tuple[tuple[int, ...], ...]] = {}

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
        self._normal_prompts.clear()  # they tell apart what is affirmed of other studies
        return [self._captions(evidence, rows) for evidence, rows in found]

    def affirm(self, names: Mapping[str, Iterable[str]]) -> None:
        """Count abnormalities as affirmed of some organ of that name."""
        for organ, several in names.items():
            self._affirmed[organ].update(several)

    def positive_prompts(self, organ: str, abnormality: str) -> tuple[str, ...]:
        """The dictionary's words that affirm an abnormality of an organ."""
        return self._prompts_of(True, abnormality, organ)

    def prompts_of_normal(self, organ: str) -> tuple[tuple[str, ...], ...]:
        """The dictionary's words for a normal organ: that it is, and what it has not, what others have first."""
        entry, common = self.organs[organ], self._affirmed[organ]
        names = allowed_negatives(OrganEvidence(organ), self.organs, self.abnormalities)
        several = ([n for n in names if n in common], [n for n in names if n not in common])
        denials = ([text for name in names for text in self._prompts_of(False, name, organ)] for names in several)
        return tuple(tuple(texts) for texts in (normal_prompts(entry), *denials) if texts)

    def _captions(self, evidence: OrganEvidence, findings: Sequence[Finding]) -> OrganCaptions:
        affirmed, (kind, several) = tuple(evidence.affirmed), self.statements(evidence, findings)
        key = (evidence.organ, frozenset(affirmed) | evidence.uncertain, evidence.negated)
        if key not in self._false:
            self._false[key] = false_names(*key, self.organs, self.abnormalities)
        possible = self.possible(evidence.elsewhere.union(affirmed) if affirmed else evidence.elsewhere)
        return OrganCaptions(evidence.organ, kind, affirmed, several, *self._false[key], possible)

    def statements(
        self, evidence: OrganEvidence, findings: Sequence[Finding]
    ) -> tuple[CaptionKind, tuple[Caption, ...]]:
        """The kind of an organ and what is true of it; what is affirmed in it is not counted for others."""
        if evidence.affirmed:
            return "abnormal", self._abnormal(evidence, findings)
        suspected = bool(evidence.uncertain) or bool(evidence.sentences)
        if not suspected and (evidence.mentioned or self.unmentioned_as_negative):
            return "normal", self._normal(evidence, findings)
        return "silent", ()

    def possible(self, names: frozenset[str]) -> frozenset[str]:
        """Abnormalities that may be there with all their kin."""
        if names not in self._related:
            self._related[names] = related(names, self.abnormalities)
        return self._related[names]

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
        return tuple(several)

    def _normal(self, evidence: OrganEvidence, findings: Sequence[Finding]) -> tuple[Caption, ...]:
        organ = evidence.organ
        calm = [f.sentence for f in findings if f.organ == organ and f.status in ("normal", "negated")]
        alone = self._number(dict.fromkeys(s for s in calm if _organs_of(findings, s) == {organ}))
        if organ not in self._normal_prompts:
            self._normal_prompts[organ] = tuple(map(self._number, self.prompts_of_normal(organ)))
        key = self._key(organ, ())
        return tuple(Caption(key, alone, prompts) for prompts in self._normal_prompts[organ])

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


def false_names(
    organ: str,
    maybe: frozenset[str],
    negated: frozenset[str],
    organs: OrganDictionary,
    abnormalities: AbnormalityDictionary,
) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
    """What a report denies of an organ, what it passes over, and which is easily mistaken for what is there.

    Args:
        maybe: what it affirms or suspects.
        negated: what it negates.
    """
    evidence = OrganEvidence(organ, uncertain=maybe)
    allowed = allowed_negatives(evidence, organs, abnormalities)
    hard = tuple(name for name in allowed if name in negated)
    return hard, tuple(name for name in allowed if name not in negated), confusable(evidence, abnormalities)


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
        text, key = worded(caption, wording >= dictionary_wording, position), caption.key
        if text not in taken:
            break
    return text, key


def worded(caption: Caption, from_report: bool, chance: float) -> int:
    """The wording that a number from 0 to 1 falls on."""
    pool = (caption.report if from_report else caption.dictionary) or caption.report or caption.dictionary
    return pool[int(chance * len(pool))]
