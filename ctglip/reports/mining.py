"""Words for abnormalities that the dictionary lacks, mined from a user's own reports and proposed to a person.

A candidate is a short run of words that no phrase of the parser covers, in a statement that something is there, is not
there, or may be there ("there is X", "no X was seen", "consistent with X"). Nothing is added by itself.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ctglip.files import read_yaml
from ctglip.reports.assertion import Scopes
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import Span
from ctglip.reports.parser import ReportParser
from ctglip.reports.words import phrase
from ctglip.types import Finding, Report, Status

LONGEST = 4
"""Words of a candidate."""
EXAMPLES = 3
_SAME = 0.8
"""A shorter phrase that hardly ever stands without a longer one says no more than that one."""


@dataclass(frozen=True)
class Proposal:
    """A phrase that may be an abnormality.

    Attributes:
        phrase: its words, lower case, singular.
        studies: how many reports hold it.
        statuses: how often it is affirmed, negated, uncertain, historical.
        organs: organs that its sentences speak of, the most frequent first.
        nearest: entry of the dictionary whose words come closest; the phrase may be a synonym of it.
        examples: sentences that hold it, verbatim.
    """

    phrase: str
    studies: int
    statuses: dict[Status, int]
    organs: tuple[str, ...]
    nearest: str | None
    examples: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data: what was counted, and an entry to start from, in the dictionary's own fields."""
        entry = {"display": self.phrase, "organs": list(self.organs) or ["body"], "ct_appearance": ""}
        return {
            "name": self.phrase.replace(" ", "_"),
            "studies": self.studies,
            "statuses": dict(self.statuses),
            "nearest": self.nearest,
            "examples": list(self.examples),
            "entry": entry,
        }


_HEAD = """\
# Words of {reports} reports that the abnormality dictionary does not know, for a person to judge. `nearest` is the
# entry of which a phrase may only be a synonym. To accept one, copy `entry` under its `name` into abnormalities.yaml,
# give it a parent, sentences of its own and a ct_appearance, then run `ctglip dictionary check`.
"""


def proposals_text(proposals: Sequence[Proposal], reports: int) -> str:
    """The proposals as YAML to be read and edited."""
    listed = [proposal.to_json() for proposal in proposals]
    body = yaml.safe_dump({"proposals": listed}, sort_keys=False, allow_unicode=True, width=118)
    return _HEAD.format(reports=reports) + body


@dataclass
class _Count:
    studies: set[str] = field(default_factory=set)
    statuses: Counter[Status] = field(default_factory=Counter)
    organs: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def mine(
    reports: Iterable[tuple[str, Report]],
    parser: ReportParser,
    fewest: int = 3,
    progress: Callable[[int], None] | None = None,
) -> tuple[Proposal, ...]:
    """Propose phrases, those of most reports first.

    Args:
        reports: (study id, report) pairs.
        parser: what the user's dictionaries know already.
        fewest: reports that must hold a phrase.
        progress: called with the number of reports read.
    """
    lexicon = parser.lexicon
    common = frozenset(word for text in read_yaml(Path(__file__).with_name("common.yaml")) for word in phrase(text))
    found: dict[tuple[str, ...], _Count] = defaultdict(_Count)
    for number, (study, report) in enumerate(reports, start=1):
        for sentence, rows in _sentences(parser.parse(report)):
            for words, status in _candidates(sentence, lexicon, common):
                _count(found[words], study, sentence, rows, status, lexicon)
        if progress:
            progress(number)
    frequent = {words: count for words, count in found.items() if len(count.studies) >= fewest}
    chosen = {words: count for words, count in frequent.items() if not _subsumed(words, frequent)}
    proposals = (_proposal(words, count, lexicon) for words, count in chosen.items())
    return tuple(sorted(proposals, key=lambda p: (-p.studies, p.phrase)))


def _sentences(findings: Sequence[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    grouped: dict[int, list[Finding]] = defaultdict(list)
    for row in findings:
        if row.section in ("findings", "impression"):
            grouped[row.sentence_index].append(row)
    return ((rows[0].sentence, rows) for rows in grouped.values())


def _candidates(sentence: str, lexicon: Lexicon, common: frozenset[str]) -> Iterator[tuple[tuple[str, ...], Status]]:
    """Runs of unknown words that the sentence says something of, and what it says."""
    words = phrase(sentence)
    runs = list(_runs(words, lexicon, common))
    if not runs:
        return
    named = [m for m in lexicon.concepts.find(words) if m.value[0] in ("abnormality", "observation")]
    mentions = [Span(m.start, m.end) for m in named]
    cues = lexicon.find_cues(words)
    scopes = Scopes(words, cues, sorted([*mentions, *runs]), lexicon)
    for start, end in runs:
        first, last = scopes.clause_of(start)
        kinds = {cue.kind for cue in cues if first <= cue.start < last}
        alone = not any(first <= mention < last for mention, _ in mentions)
        listed = not _LISTED.isdisjoint((*words[max(start - 1, 0) : start], *words[end : end + 1]))
        stated = "normal" not in kinds and (kinds & _CUES or _stated(words[first:last], lexicon))
        if stated and (alone or listed) and not words[end - 1].endswith(_NO_NOUN):
            status = scopes.assertion(start, end)
            for begin in range(max(start, end - LONGEST), end):
                yield words[begin:end], status


def _runs(words: Sequence[str], lexicon: Lexicon, common: frozenset[str]) -> Iterator[Span]:
    tries = (lexicon.concepts, lexicon.cues, lexicon.levels, lexicon.measures)
    mentions = [m for trie in tries for m in trie.find(words)] + lexicon.find_locations(words)
    known = {i for m in mentions for i in range(m.start, m.end)}
    lists = common.union(lexicon.perception, lexicon.elliptical, *lexicon.lists.values())
    start = None
    for i, word in enumerate([*words, "."]):
        plain = i not in known and word not in lists and word.isalpha() and len(word) > 2 and i < len(words)
        if plain and start is None:
            start = i
        elif not plain and start is not None:
            yield Span(start, i)
            start = None


def _stated(clause: Sequence[str], lexicon: Lexicon) -> bool:
    """Whether a clause says that something is there: "there is", "was observed", "consistent with"."""
    return "there" in clause or not lexicon.perception.isdisjoint(clause) or not _AGREEING.isdisjoint(clause)


_AGREEING = frozenset({"consistent", "compatible", "favor", "keeping", "representing", "shows", "suspicious"})
_CUES = frozenset({"negation", "uncertainty"})
_LISTED = frozenset({",", "and", "or", "/"})
_NO_NOUN = ("ly", "ed", "ing", "al", "ic", "ar", "ous", "ive", "ary", "able", "ible", "est", "like", "er")
"""Endings of words that only describe: the last word of a candidate names the finding."""


def _count(count: _Count, study: str, sentence: str, rows: Sequence[Finding], status: Status, lexicon: Lexicon) -> None:
    count.studies.add(study)
    count.statuses[status] += 1
    count.organs.update({_largest_container(row.organ, lexicon) for row in rows if row.organ})
    if len(count.examples) < EXAMPLES and sentence not in count.examples:
        count.examples.append(sentence)


def _largest_container(organ: str, lexicon: Lexicon) -> str:
    """The largest organ of the same group that holds it: a lobe's lungs."""
    organs = lexicon.organs
    containers = [container for container in organs.containing(organ) if organs[container].group == organs[organ].group]
    return max(containers, key=lambda container: (len(organs.parts_of(container)), container), default=organ)


def _subsumed(words: tuple[str, ...], frequent: dict[tuple[str, ...], _Count]) -> bool:
    """Whether a longer phrase stands for it, or it adds nothing to its own last words."""
    studies = len(frequent[words].studies)
    longer = (other for other in frequent if len(other) > len(words) and other[-len(words) :] == words)
    if any(len(frequent[other].studies) >= _SAME * studies for other in longer):
        return True
    shorter = (words[i:] for i in range(1, len(words)))
    return any(tail in frequent and len(frequent[tail].studies) * (1 - _SAME) > studies for tail in shorter)


def _proposal(words: tuple[str, ...], count: _Count, lexicon: Lexicon) -> Proposal:
    total = sum(count.organs.values())
    organs = tuple(organ for organ, count in count.organs.most_common(3) if count >= 0.2 * total)
    return Proposal(
        " ".join(words),
        len(count.studies),
        dict(count.statuses.most_common()),
        organs,
        _nearest(words, lexicon),
        tuple(count.examples),
    )


def _nearest(words: tuple[str, ...], lexicon: Lexicon) -> str | None:
    phrases = {p.lower(): e.name for e in lexicon.abnormalities.abnormalities.values() for p in e.phrases}
    near = difflib.get_close_matches(" ".join(words), phrases, n=1, cutoff=0.8)
    return phrases[near[0]] if near else None
