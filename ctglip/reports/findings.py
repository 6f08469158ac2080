"""One sentence to rows: which abnormality in which organ, with its status, side and level.

``read_sentence`` looks at a sentence by itself. What it leaves open (an organ that only the sentence before names) the
parser closes in ``reports.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ctglip.reports.attachment import Attachment
from ctglip.reports.background import background
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.location import Location
from ctglip.reports.measures import SILENT, Mention
from ctglip.reports.sentence import Sentence
from ctglip.types import Laterality, Status

_SAID = ("affirmed", "uncertain")
_RANK: dict[Status, int] = {"affirmed": 0, "uncertain": 1, "negated": 2, "historical": 3, "normal": 4}
_INTRODUCTION = re.compile(
    r"^(?:when\b.*\b(?:examined|evaluated|assessed)|(?:in|on) (?:the )?(?:evaluation|assessment|examination|study)\b|"
    r"as far as\b|in (?:the )?sections\b|within the limits\b)[^.]{0,120}$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Row:
    """What a sentence says of one organ.

    ``open_to`` names a thing that still seeks its organ in the context, on ``sides`` where it has some of its own;
    ``otherwise`` is what it is when none fits.
    """

    organ: str | None
    abnormality: str | None
    status: Status
    laterality: Laterality | None = None
    level: str | None = None
    reason: str | None = None
    open_to: tuple[str, str] | None = None
    otherwise: tuple[Row, ...] = ()
    sides: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """Rows of one sentence, the organ it leaves as the topic, and whether it speaks of the topic before it.

    ``heading`` is the organ that it is headed by ("BONES: ...").
    """

    rows: tuple[Row, ...]
    topic: str | None
    points_back: bool = False
    heading: str | None = None


class _Reader:
    """Turns what a sentence names into rows."""

    def __init__(self, sentence: Sentence) -> None:
        self.sentence = sentence
        self.lexicon = sentence.lexicon
        self.clauses = sentence.clauses
        self.attachment = Attachment(sentence)

    def rows(self) -> Iterator[Row]:
        """All rows of the sentence."""
        found: list[tuple[Mention, Row]] = []
        for mention in self.sentence.mentions:
            if mention.kind not in SILENT:
                found += [(mention, row) for row in self._rows_of(mention, found)]
        yield from (row for mention, row in found if not self._better_named(mention, row, found))
        yield from self._organ_rows()

    def _better_named(self, mention: Mention, row: Row, found: Sequence[tuple[Mention, Row]]) -> bool:
        """Whether the sentence says more exactly what it is.

        A kind of it in the same organ does. For vague words anything else in the clause does, for words that only
        describe ("density increase consistent with sequelae") what explains them, unless that is a kind of it.
        """
        if row.abnormality is None or row.organ is None or row.status not in _SAID:
            return False
        lexicon = self.lexicon
        describing, vague = row.abnormality in lexicon.describing, row.abnormality in lexicon.vague
        if len(found) < 2 and not (describing or vague):
            return False
        kinds = lexicon.abnormalities.descendants(row.abnormality)
        if not describing and any(
            other.organ == row.organ and other.status == row.status and other.abnormality in kinds
            for beside, other in found
            if other.abnormality not in lexicon.aspects and not self._interpreted(mention, beside)
        ):
            return True
        if not (describing or vague):
            return False
        group, clause = lexicon.organs[row.organ].group, self.clauses.clause_of(mention.start)
        rivals = [
            (beside, other.abnormality, other.status)
            for beside, other in found
            if other.organ and lexicon.organs[other.organ].group == group and other.status in _SAID
            if other.abnormality and other.abnormality not in lexicon.vague | lexicon.describing
            if self.clauses.clause_of(beside.start) == clause
        ]
        if describing:
            return any(name not in kinds and self._explains(beside, mention) for beside, name, _ in rivals)
        return any(status == row.status for _, _, status in rivals)

    def _interpreted(self, seen: Mention, named: Mention) -> bool:
        """Whether one finding is seen and the other what it is held to be: "thickening, in keeping with colitis"."""
        between = self.sentence.words[seen.end : named.start]
        if "with" in between and named.start - seen.end < 6:
            return True  # "ground-glass densities with crazy paving": both are told
        return not self.lexicon.words["naming"].isdisjoint(between)

    def _explains(self, named: Mention, seen: Mention) -> bool:
        """Whether one finding tells what another is: "density increase consistent with sequelae"."""
        words, small = self.sentence.words, self.lexicon.words
        if named.start >= seen.end:
            return not small["interpreting"].isdisjoint(words[seen.end : named.start])
        return seen.start - named.end < 3 and small["boundary"].isdisjoint(words[named.end : seen.start])

    def _rows_of(self, mention: Mention, before: Sequence[tuple[Mention, Row]]) -> Iterator[Row]:
        status = mention.status or self.clauses.status(mention.start, mention.end)
        sides = mention.sides
        reason = self.clauses.reason(mention.start) if status == "uncertain" else None
        if self.attachment.sides_disagree(mention):
            yield from self._of_no_side(mention, status)
            return
        placed = False
        for location in self.attachment.instances_of(mention):
            for organ, laterality in self._members(mention, location, sides):
                resolved = self.attachment.resolved(mention, location, organ)
                if resolved is None:
                    continue
                placed = True
                if self.clauses.clause_of(location.start) == self.clauses.clause_of(mention.start):
                    self.attachment.used.add(id(location))
                side = laterality or self.lexicon.organs[resolved[1]].side
                side = side or self.attachment.side_of_lungs(mention, resolved[1])
                yield Row(resolved[1], resolved[0], status, side, location.level, reason)
        if not placed:
            yield from self._companion(mention, status, before) or self._unplaced(mention, status, sides)

    def _of_no_side(self, mention: Mention, status: Status) -> Iterator[Row]:
        """A finding said to be on one side and in a place on the other: neither is to be believed."""
        name = mention.key if mention.kind == "abnormality" else self.lexicon.alone.get(mention.key)
        rows = self.at_home(name, status, set()) if name else (Row(None, None, status),)
        doubted: Status = "uncertain" if status == "affirmed" else status
        yield from (replace(row, status=doubted, laterality=None, reason="two sides are named for it") for row in rows)

    def _members(
        self, mention: Mention, location: Location, sides: set[str]
    ) -> tuple[tuple[str | None, Laterality | None], ...]:
        """The organs of a place; a side of the finding's own beats that of a place named for something else."""
        pair = (
            self.lexicon.pair_of(location.where)
            if sides and not mention.start <= location.start < mention.end
            else None
        )
        own = location.where.organ and self.lexicon.organs[location.where.organ].side
        if pair is None or (not mention.firm and (location.sides or own)):
            return location.members(sides)
        return Location(location.start, location.end, pair, set(sides), location.level).members()

    def _companion(self, mention: Mention, status: Status, before: Sequence[tuple[Mention, Row]]) -> list[Row]:
        """A thing where the one is that it comes with: "nephrolithiasis on the right, with a calculus of 4 mm"."""
        beside = [other for other, _ in before if other.end <= mention.start]
        if not beside or self.lexicon.words["joining"].isdisjoint(self.sentence.words[beside[-1].end : mention.start]):
            return []
        rows = [row for other, row in before if other is beside[-1] and row.organ]
        resolved = [(row, self.lexicon.resolve(mention.kind, mention.key, row.organ or "")) for row in rows]
        return [Row(found[1], found[0], status, row.laterality, row.level) for row, found in resolved if found]

    def _unplaced(self, mention: Mention, status: Status, sides: set[str]) -> Iterator[Row]:
        """A thing whose organ is not named: at home, or left open to the topic of the sentences before."""
        name = mention.key if mention.kind == "abnormality" else self.lexicon.alone.get(mention.key)
        if mention.kind == "observation" or self.lexicon.is_general(mention.key):
            if self._somewhere(mention):
                return
            topical = self.lexicon.takes_topic(mention.kind, mention.key) and not self._headed(mention)
            seeking = (mention.kind, mention.key) if topical else None
            homed = name is not None and self.lexicon.abnormalities[name].default_organ != "body"
            named = (
                name
                if mention.kind == "abnormality" or self.lexicon.observations.get(mention.key, {}).get("named")
                else None
            )
            home = tuple(self.at_home(str(name), status, sides or self.attachment.side_near(mention))) if homed else ()
            if home and not topical:
                yield from home
                return
            own = frozenset(sides)
            yield Row(None, named, status, None, None, "no organ named", seeking, home, own)
            return
        if not self.attachment.said_elsewhere(mention):
            yield from self.at_home(str(name), status, sides or self.attachment.side_near(mention))

    def _headed(self, mention: Mention) -> bool:
        """ "New lesions: none" is a heading of its own, not of the organ before."""
        words = self.sentence.words
        return words[0] in ("new", "other", "additional") and words[mention.end : mention.end + 1] == [":"]

    def _somewhere(self, mention: Mention) -> bool:
        """Whether its clause names a place for it, though not one that the dictionary has an abnormality for."""
        start, end = self.clauses.clause_of(mention.start)
        inside = (
            location for location in self.sentence.locations if start <= location.start < end and location.where.organ
        )
        known = self.attachment
        inside = (location for location in inside if not known.barred(mention, location) and not known.beside(location))
        return any(not known.belongs_elsewhere(location, mention) for location in inside)

    def at_home(self, name: str, status: Status, sides: set[str]) -> Iterator[Row]:
        """The abnormality in its default organ, on the sides given."""
        where = self.lexicon.where(self.lexicon.abnormalities[name].default_organ)
        for organ, laterality in Location(0, 0, where).members(sides):
            if organ:
                yield Row(organ, name, status, laterality or self.lexicon.organs[organ].side)

    # --- organs without a named abnormality

    def _organ_rows(self) -> Iterator[Row]:
        claimed = bool(self.attachment.used)
        for location in self.sentence.locations:
            if self._inside_mention(location) or (
                id(location) in self.attachment.used and not self._called_normal(location)
            ):
                continue
            status = self._organ_status(location)
            if status is None or (claimed and status != "normal"):
                continue
            for organ, laterality in location.members():
                if organ:
                    side = laterality or self.lexicon.organs[organ].side
                    yield Row(organ, None, status, side, location.level)

    def _called_normal(self, location: Location) -> bool:
        """ "The bladder is intact, ...": the organ itself is normal, whatever else is seen there."""
        for sign in self.sentence.signs:
            if sign.value[0] == "normal" and location.end <= sign.start <= location.end + 1:
                behind = self.sentence.words[sign.end : sign.end + 4]
                return behind[:1] in ([","], [";"]) or (
                    behind[:1] == ["in"] and not {",", "and"}.isdisjoint(behind[2:])
                )
        return False

    def _inside_mention(self, location: Location) -> bool:
        return any(
            t.kind not in SILENT and t.start <= location.start and location.end <= t.end and t.end > t.start + 1
            for t in self.sentence.mentions
        )

    def _of_same_subject(self, end: int) -> int:
        """The end of the clauses that go on about the same: "the appendix is seen, measures 5 mm, and is normal"."""
        words, named = self.sentence.words, (*self.sentence.locations, *self.sentence.mentions)
        while end < len(words) and words[end] in (",", "and"):
            start, stop = self.clauses.clause_of(end)
            first = next((word for word in words[end:stop] if word not in (",", "and")), "")
            if first not in self.lexicon.words["verb"] or any(start <= name.start < stop for name in named):
                break
            end = stop
        return end

    def _organ_status(self, location: Location) -> Status | None:
        start, end = self.clauses.clause_of(location.start)
        for mention in self.sentence.mentions:
            if mention.kind == "pathology" and start <= mention.start < end:
                status = self.clauses.status(mention.start, mention.end)
                return "normal" if status == "negated" else status
        if self.clauses.has("unassessable", start, end):
            return "uncertain"
        if self.clauses.has("normal", start, self._of_same_subject(end)):
            return "normal"
        if self.sentence.text.endswith(":") or _INTRODUCTION.match(self.sentence.text):
            return None
        return self.clauses.status(location.start, location.end)


def read_sentence(text: str, lexicon: Lexicon) -> Reading:
    """Read one sentence without its context; never empty, never an exception on odd text."""
    sentence = Sentence(text, lexicon)
    about = background(text, sentence.words)
    if about == "examination":
        return Reading((Row(None, None, "historical", reason="tells how the scan was made"),), None)
    best: dict[tuple[object, ...], Row] = {}
    for row in _Reader(sentence).rows():
        if about == "patient":
            row = _told_before(row, text)
        key = (row.organ, row.abnormality, row.open_to, row.sides)
        if key not in best or _RANK[row.status] < _RANK[best[key].status]:
            best[key] = row
    rows = tuple(best.values())
    named = [row.organ for row in rows if row.organ]
    topic = named[-1] if named else next((p.where.organ for p in reversed(sentence.locations) if p.where.organ), None)
    if rows:
        return Reading(rows, topic)
    back = _points_back(sentence)
    reason = _reason(sentence, text)
    status = _bare_status(sentence)
    return Reading((Row(None, None, status, reason=reason),), topic, back and not sentence.locations)


def _told_before(row: Row, text: str) -> Row:
    """What is told of the patient is not what is seen; what is asked is no finding at all."""
    if row.status == "uncertain" and row.abnormality and not text.lower().startswith("the patient"):
        return Row(None, None, "historical", reason="asked, scanned or compared with, not seen")
    return replace(row, status="historical", open_to=None, otherwise=())


def _bare_status(sentence: Sentence) -> Status:
    end = len(sentence.words)
    if sentence.clauses.has("normal", 0, end):
        return "normal"
    for mention in sentence.mentions:
        status = sentence.clauses.status(mention.start, mention.end)
        return "normal" if status == "negated" else status
    return "affirmed"


def _points_back(sentence: Sentence) -> bool:
    """Whether a sentence without an organ goes on about the one before: "It is stable.", "No pathology seen."."""
    words, lexicon = sentence.words, sentence.lexicon
    if not words or not lexicon.words["advising"].isdisjoint(words):
        return False
    if any(mention.kind in ("observation", "pathology") for mention in sentence.mentions):
        return True
    measured = any(words[i].isdecimal() and words[i + 1] in ("mm", "cm", "x", "hu") for i in range(len(words) - 1))
    measure = lexicon.measures.find(words[:2])
    if (
        measure
        and measure[0].start == 0
        and measure[0].value[0] == "measure"
        and sentence.clauses.has("normal", 0, len(words))
    ):
        return True  # "Size normal."
    telling = measured or bool(sentence.signs) or bool(lexicon.measures.find(words))
    return measured or (words[0] in lexicon.elliptical and telling)


def _reason(sentence: Sentence, text: str) -> str:
    if not any(c.isalpha() for c in text):
        return "no words"
    if not sentence.lexicon.words["advising"].isdisjoint(sentence.words):
        return "advice, not a finding"
    if sentence.locations:
        return "introduces an organ, states nothing"
    if sentence.mentions:
        return "no organ named"
    return "names no organ and no abnormality of the dictionaries"
