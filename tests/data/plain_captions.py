"""Captions, negatives and pools as Python objects, worked out over all organs at once: what tables must give."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ctglip.data.caption_parts import CaptionRules, Reports
from ctglip.data.captions import Caption, CaptionBuilder, FindingTexts, OrganCaptions, Paraphrases
from ctglip.data.mirror import Mirror
from ctglip.data.samples import NO_TEXT
from ctglip.data.sampling import Pools
from ctglip.reports.parser import get_parser
from ctglip.types import Finding
from ctglip.vocabulary.evidence import organ_evidence
from ctglip.vocabulary.negatives import CONFUSABLE_WEIGHT, Strategy


class CaptionBook(CaptionBuilder):
    """A builder that remembers all captions, and knows how each abnormality is affirmed in them."""

    def add_all(self, reports: Sequence[tuple[Sequence[Finding], str]]) -> list[OrganCaptions]:
        found = super().add_all(reports)
        self.every = [*getattr(self, "every", ()), *found]
        return found

    def paraphrases(self, organ: str, abnormality: str) -> Paraphrases:
        by_names: dict[frozenset[str], list[tuple[Caption, float]]] = defaultdict(list)
        for one in self.every:
            for caption in one.captions if one.organ == organ and one.kind == "abnormal" else ():
                by_names[caption.names].append((caption, 1 / len(one.captions)))
        found = []
        for names, weighted in by_names.items():
            weights = np.array([weight for _, weight in weighted])
            if abnormality in names:
                key = (organ, names)
                if key not in self._known():
                    sums = np.cumsum(weights)
                    captions = tuple(one for one, _ in weighted)
                    self._known()[key] = FindingTexts(organ, names, captions, sums / sums[-1], float(weights.sum()))
                found.append(self._known()[key])
        return Paraphrases(self._number(self.positive_prompts(organ, abnormality)), tuple(found))

    def _known(self) -> dict[tuple[str, frozenset[str]], FindingTexts]:
        """Of the captions so far, one object for each."""
        if getattr(self, "_count", None) != len(self.every):
            self._count, self._objects = len(self.every), {}
        return self._objects


class PlainCaptions:
    """All captions of a split: what ``join_captions`` makes tables of.

    Attributes:
        kept: the rows that are not held out.
        captions: of them.
        mirrored: row -> captions of its mirror image.
    """

    def __init__(self, reports: Reports, rules: CaptionRules) -> None:
        self.book = CaptionBook(rules.organs, rules.abnormalities, rules.unmentioned_as_negative)
        affirmed = [organ_evidence(*report, rules.organs, rules.abnormalities).affirmed for report in reports]
        self.kept = [row for row, names in enumerate(affirmed) if rules.held_out.isdisjoint(names)]
        used = [reports[row] for row in self.kept]
        self.captions = self.book.add_all(used)
        self.mirrored: dict[int, OrganCaptions] = {}
        if rules.mirrored:
            mirror = Mirror(rules.organs, get_parser())
            turned = [(row, mirror.findings(*report)) for row, report in enumerate(used)]
            there = [(row, findings) for row, findings in turned if findings is not None]
            others = self.book.add_all([(findings, rules.organs.mirror(used[row][1])) for row, findings in there])
            self.mirrored = dict(zip([row for row, _ in there], others, strict=True))

    def paraphrases(self) -> dict[tuple[str, str], Paraphrases]:
        every = (*self.captions, *self.mirrored.values())
        pairs = dict.fromkeys((one.organ, name) for one in every for name in (*one.hard, *one.others))
        return {pair: self.book.paraphrases(*pair) for pair in pairs}


def pools_of(captions: Sequence[OrganCaptions]) -> Pools:
    """The rows of each organ, by what they are drawn for."""
    abnormal: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    calm: dict[str, dict[str, list[int]]] = {kind: defaultdict(list) for kind in ("normal", "silent")}
    for row, one in enumerate(captions):
        for name in one.affirmed:
            abnormal[one.organ][name].append(row)
        if one.kind != "abnormal":
            calm[one.kind][one.organ].append(row)
    organs = sorted({one.organ for one in captions})
    normal, silent = ({organ: np.array(rows[organ], dtype=int) for organ in organs} for rows in calm.values())
    pools = {organ: [np.array(rows) for rows in names.values()] for organ, names in abnormal.items()}
    return Pools(organs, pools, normal, silent)


def plain_negatives(
    paraphrases: Mapping[tuple[str, str], Paraphrases],
    strategy: Strategy,
    captions: OrganCaptions,
    count: int,
    report_wording: float,
    rng: np.random.Generator,
) -> list[int]:
    """What ``Negatives.draw`` draws."""
    finding_texts = _false(captions, paraphrases, strategy)
    if not (count and finding_texts):
        return [NO_TEXT] * count
    weights = np.array([finding.total for finding in finding_texts])
    if strategy == "confusable":
        weights *= [CONFUSABLE_WEIGHT if finding.names & captions.near else 1.0 for finding in finding_texts]
    cumulative = np.cumsum(weights) / np.cumsum(weights)[-1]
    denied = [number for number, one in enumerate(finding_texts) if one.names.issubset(captions.hard)]
    first = [denied[i] for i in rng.permutation(len(denied))[:count]] if denied else []
    out = []
    for number, (which, chance, wording, position) in enumerate(rng.random((count, 4)).tolist()):
        finding = finding_texts[first[number] if number < len(first) else bisect_right(cumulative, which)]
        caption = finding.captions[bisect_right(finding.cumulative, chance)]
        pool = caption.report if wording < report_wording else caption.dictionary
        pool = pool or caption.report or caption.dictionary
        out.append(pool[int(position * len(pool))])
    return out


def _false(
    captions: OrganCaptions, paraphrases: Mapping[tuple[str, str], Paraphrases], strategy: Strategy
) -> list[FindingTexts]:
    if strategy in ("none", "batch"):
        return []
    false = {*captions.hard, *captions.others}
    every = (finding for name in sorted(false) for finding in paraphrases[captions.organ, name].finding_texts)
    usable = [finding for finding in every if finding.names <= false]
    if strategy == "random":
        pairs = (words for (organ, _), words in paraphrases.items() if organ != captions.organ)
        usable += [c for words in pairs for c in words.finding_texts if c.names.isdisjoint(captions.possible)]
    return list({(finding.organ, finding.names): finding for finding in usable}.values())
