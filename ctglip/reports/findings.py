"""One sentence to rows: which abnormality in which organ, with its status, side and level.

``read_sentence`` looks at a sentence by itself. What it leaves open (an organ that only the sentence before names) the
parser closes in ``parser.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ctglip.reports.attachment import Attachment
from ctglip.reports.background import background
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import NO_SIDE, Concept, Location, Mention, members
from ctglip.reports.sentence import Sentence
from ctglip.types import Laterality, Status

_STATED = ("affirmed", "uncertain")
_RANK: dict[Status, int] = {"affirmed": 0, "uncertain": 1, "negated": 2, "historical": 3, "normal": 4}
_INTRODUCTION = re.compile(
    r"^(?:when\b.*\b(?:examined|evaluated|assessed)|(?:in|on) (?:the )?(?:evaluation|assessment|examination|study)\b|"
    r"as far as\b|in (?:the )?sections\b|within the limits\b)[^.]{0,120}$",
    re.IGNORECASE,
)


class StatedOrgan(NamedTuple):
    """What a sentence states of one organ.

    ``open_to`` is a concept that still seeks its organ in the context, on ``sides`` where it has some of its own;
    ``otherwise`` is what it is when none fits.
    """

    organ: str | None
    abnormality: str | None
    status: Status
    laterality: Laterality | None = None
    level: str | None = None
    reason: str | None = None
    open_to: Concept | None = None
    otherwise: tuple[StatedOrgan, ...] = ()
    sides: frozenset[str] = NO_SIDE


NOT_SEEN = StatedOrgan(None, None, "historical", reason="asked, scanned or compared with, not seen")
"""What a sentence about the patient or the question states."""


class SentenceReading(NamedTuple):
    """Rows of one sentence, the organ it leaves as the topic, and whether it speaks of the topic before it.

    ``heading`` is the organ that it is headed by ("BONES: ..."); ``of_organ`` tells whether it speaks of an organ on a
    side ("the left kidney is small"), and not of a finding alone.
    """

    rows: tuple[StatedOrgan, ...]
    topic: str | None
    points_back: bool = False
    heading: str | None = None
    of_organ: bool = False


class _RowBuilder:
    """Turns what a sentence names into rows."""

    def __init__(self, sentence: Sentence) -> None:
        self.sentence = sentence
        self.words = sentence.words
        self.lexicon = sentence.lexicon
        self.scopes = sentence.scopes
        self.locations = list(sentence.locations)
        self.attachment = Attachment(sentence, sentence.locations)
        self.claimed: set[int | None] = set()
        self.found: list[tuple[Mention, StatedOrgan]] = []

    def rows(self) -> list[StatedOrgan]:
        """All rows of the sentence."""
        mentions = [mention for mention in self.sentence.mentions if not mention.concept.silent]
        for mention in mentions:
            attached = self.attachment.attach(mention)
            mentions += attached.coordinated  # read behind all others
            if attached.sided is not None:
                self.locations = [attached.sided if p[:2] == attached.sided[:2] else p for p in self.locations]
                self.attachment = Attachment(self.sentence, self.locations)
            if attached.claimed:
                self._claim(attached.claimed)
            self.found += [(attached.mention, row) for row in self._rows_of(attached.mention, attached.locations)]
        rows = [row for mention, row in self.found if not self._named_better(mention, row)]
        rows += self._organ_rows()
        return rows

    # --- one mention

    def _claim(self, locations: Sequence[Location]) -> None:
        """Mark locations as spoken for; a station that was made for a mention is none of the sentence's."""
        for location in locations:
            self.claimed.add(_number_of(location, self.locations))

    def _rows_of(self, mention: Mention, locations: Sequence[Location]) -> list[StatedOrgan]:
        status = mention.assertion or self.scopes.assertion(mention.start, mention.end)
        if self.attachment.sides_disagree(mention):
            return self._on_no_side(mention, status)
        reason = self.scopes.reason(mention.start) if status == "uncertain" else None
        found: list[StatedOrgan] = []
        clause = self.scopes.clause_of(mention.start)
        for location in locations:
            before = len(found)
            for organ, laterality in self._members(mention, location):
                resolved = self.lexicon.meaning(mention.concept, organ, location.term.structure) if organ else None
                if resolved is None:
                    continue
                side = laterality or self.lexicon.side_of(resolved[1])
                side = side or self._side_of_lungs(mention, resolved[1])
                found.append(StatedOrgan(resolved[1], resolved[0], status, side, location.level, reason))
            if len(found) > before and self.scopes.clause_of(location.start) == clause:
                self._claim([location])
        return found or self._with_last_mention(mention, status) or list(self._unplaced(mention, status))

    def _on_no_side(self, mention: Mention, status: Status) -> list[StatedOrgan]:
        """A mention of one side in a location of the other: neither is to be believed."""
        name = self.lexicon.abnormality_of(mention.concept)
        rows = self._at_home(name, status, NO_SIDE) if name else [StatedOrgan(None, None, status)]
        doubted: Status = "uncertain" if status == "affirmed" else status
        return [row._replace(status=doubted, laterality=None, reason="two sides are named for it") for row in rows]

    def _members(self, mention: Mention, location: Location) -> tuple[tuple[str | None, Laterality | None], ...]:
        """The organs of a location; a mention's own side beats that of a location named for something else."""
        sides = mention.laterality
        inside = mention.start <= location.start < mention.end
        pair = self.lexicon.pair_of(location.term) if sides and not inside else None
        if pair is None or (not mention.side_leads and self.lexicon.sides_of(location)):
            return location.members(sides)
        return members(pair, sides)

    def _side_of_lungs(self, mention: Mention, organ: str | None) -> Laterality | None:
        """The side of an embolus by the lobes whose arteries it is in: "in the right lower lobe pulmonary arteries"."""
        if organ != "pulmonary_artery":
            return None
        clause = self.scopes.clause_of(mention.start)
        lobes = [
            p for p in self.locations if p.term.organs & self.lexicon.lungs and not self.attachment.barred(mention, p)
        ]
        lobes = [p for p in lobes if self.scopes.clause_of(p.start) == clause]
        sides = NO_SIDE.union(*(self.lexicon.sides_of(p) for p in lobes))
        if "both" in sides or len(sides) == 2:
            return "bilateral"
        return "left" if sides == {"left"} else "right" if sides == {"right"} else None

    def _with_last_mention(self, mention: Mention, status: Status) -> list[StatedOrgan]:
        """A finding where the one is that it comes with: "nephrolithiasis on the right, with a calculus of 4 mm"."""
        before = [other for other, _ in self.found if other.end <= mention.start]
        if not before or self.lexicon.lists["joining"].isdisjoint(self.words[before[-1].end : mention.start]):
            return []
        rows = [row for other, row in self.found if other is before[-1] and row.organ]
        resolved = [(row, self.lexicon.resolve(*mention.concept[:2], row.organ or "")) for row in rows]
        return [StatedOrgan(pair[1], pair[0], status, row.laterality, row.level) for row, pair in resolved if pair]

    def _unplaced(self, mention: Mention, status: Status) -> Iterator[StatedOrgan]:
        """A finding whose organ is not named: at home, or left open to the topic of the sentences before."""
        concept, lexicon = mention.concept, self.lexicon
        name = lexicon.abnormality_of(concept)
        sides = mention.laterality or self.attachment.side_near(mention)
        if concept.kind != "observation" and concept.name not in lexicon.organless:
            home = [] if self.attachment.at_other_organ(mention) else self._at_home(str(name), status, sides)
            for row in home:
                side = None if status == "negated" else self._side_of_lungs(mention, row.organ)
                yield row._replace(laterality=row.laterality or side)
            return
        if self._at_unknown_location(mention):
            return
        topical = lexicon.takes_topic(concept) and not self._heads_list(mention)
        homed = name is not None and lexicon.abnormalities[name].default_organ != "body"
        home = tuple(self._at_home(str(name), status, sides)) if homed else ()
        if home and not topical:
            yield from home
            return
        named = concept.kind == "abnormality" or lexicon.observations.get(concept.name, {}).get("named")
        yield StatedOrgan(
            None,
            name if named else None,
            status,
            reason="no organ named",
            open_to=concept._replace(general=False) if topical else None,
            otherwise=home,
            sides=mention.laterality,
        )

    def _heads_list(self, mention: Mention) -> bool:
        """ "New lesions: none" is a heading of its own, not of the organ before."""
        return self.words[0] in ("new", "other", "additional") and self.words[mention.end : mention.end + 1] == [":"]

    def _at_unknown_location(self, mention: Mention) -> bool:
        """Whether its clause names an organ for it, though not one that the dictionary has an abnormality for."""
        start, end = self.scopes.clause_of(mention.start)
        attachment = self.attachment
        return any(
            start <= location.start < end
            and location.term.organ
            and not attachment.barred(mention, location)
            and not attachment.adjacent(location)
            and not attachment.in_other_mention(location, mention)
            for location in self.locations
        )

    def _at_home(self, name: str, status: Status, sides: frozenset[str]) -> list[StatedOrgan]:
        """The abnormality in its default organ, on the sides given."""
        term = self.lexicon.term_of(self.lexicon.abnormalities[name].default_organ)
        found = members(term, sides)
        return [StatedOrgan(organ, name, status, side or self.lexicon.side_of(organ)) for organ, side in found if organ]

    # --- two mentions of the same

    def _named_better(self, mention: Mention, row: StatedOrgan) -> bool:
        """Whether the sentence says more exactly what it is.

        A subtype of it in the same organ does. For vague words anything else in the clause does, for words that only
        describe ("density increase consistent with sequelae") what explains them, unless that is a subtype of it.
        """
        if row.abnormality is None or row.organ is None or row.status not in _STATED:
            return False
        lexicon = self.lexicon
        describing, vague = row.abnormality in lexicon.describing, row.abnormality in lexicon.vague
        if len(self.found) < 2 and not (describing or vague):
            return False
        subtypes = lexicon.abnormalities.descendants(row.abnormality)
        for named, other in self.found if subtypes and not describing else ():
            same = other.organ == row.organ and other.status == row.status and other.abnormality in subtypes
            if same and other.abnormality not in lexicon.aspects and not self._interpreted(mention, named):
                return True
        rivals = self._rivals(mention, row) if describing or vague else []
        if describing:
            return any(other.abnormality not in subtypes and self._explains(named, mention) for named, other in rivals)
        return any(other.status == row.status for _, other in rivals)

    def _rivals(self, mention: Mention, row: StatedOrgan) -> list[tuple[Mention, StatedOrgan]]:
        """What the clause names exactly in organs of the same group."""
        lexicon = self.lexicon
        group, clause = lexicon.organs[row.organ or ""].group, self.scopes.clause_of(mention.start)
        return [
            (named, other)
            for named, other in self.found
            if other.organ and lexicon.organs[other.organ].group == group and other.status in _STATED
            if other.abnormality
            and other.abnormality not in lexicon.vague
            and other.abnormality not in lexicon.describing
            if self.scopes.clause_of(named.start) == clause
        ]

    def _interpreted(self, first: Mention, second: Mention) -> bool:
        """Whether one finding is seen and the other what it is held to be: "thickening, in keeping with colitis"."""
        between = self.words[first.end : second.start]
        if "with" in between and second.start - first.end < 6:
            return True  # "ground-glass densities with crazy paving": both are meant
        return not self.lexicon.lists["naming"].isdisjoint(between)

    def _explains(self, named: Mention, described: Mention) -> bool:
        """Whether one finding tells what another is: "density increase consistent with sequelae"."""
        lists = self.lexicon.lists
        if named.start >= described.end:
            return not lists["interpreting"].isdisjoint(self.words[described.end : named.start])
        return described.start - named.end < 3 and lists["boundary"].isdisjoint(self.words[named.end : described.start])

    # --- organs without a named abnormality

    def _organ_rows(self) -> Iterator[StatedOrgan]:
        claiming = bool(self.claimed)
        for number, location in enumerate(self.locations):
            if number in self.claimed and not self._called_normal(location):
                continue
            status = None if self._inside_mention(location) else self._organ_status(location)
            if status is None or (claiming and status != "normal"):
                continue
            for organ, laterality in location.members():
                if organ:
                    yield StatedOrgan(organ, None, status, laterality or self.lexicon.side_of(organ), location.level)

    def _called_normal(self, location: Location) -> bool:
        """ "The bladder is intact, ...": the organ itself is normal, whatever else is seen there."""
        for cue in self.sentence.cues:
            if cue.kind == "normal" and location.end <= cue.start <= location.end + 1:
                behind = self.words[cue.end : cue.end + 4]
                listed = behind[:1] == ["in"] and not {",", "and"}.isdisjoint(behind[2:])
                return behind[:1] in ([","], [";"]) or listed
        return False

    def _inside_mention(self, location: Location) -> bool:
        return any(
            not mention.concept.silent and mention.span.holds(location.span) and mention.end > mention.start + 1
            for mention in self.sentence.mentions
        )

    def _end_of_subject(self, end: int) -> int:
        """The end of the clauses that go on about the same: "the appendix is seen, measures 5 mm, and is normal"."""
        words, named = self.words, (*self.sentence.locations, *self.sentence.mentions)
        while end < len(words) and words[end] in (",", "and"):
            start, stop = self.scopes.clause_of(end)
            first = next((word for word in words[end:stop] if word not in (",", "and")), "")
            if first not in self.lexicon.lists["verb"] or any(start <= name.start < stop for name in named):
                break
            end = stop
        return end

    def _organ_status(self, location: Location) -> Status | None:
        start, end = self.scopes.clause_of(location.start)
        for mention in self.sentence.mentions:
            if mention.concept.kind == "pathology" and start <= mention.start < end:
                status = self.scopes.assertion(mention.start, mention.end)
                return "normal" if status == "negated" else status
        if self.scopes.has("unassessable", start, end):
            return "uncertain"
        if self.scopes.has("normal", start, self._end_of_subject(end)):
            return "normal"
        if self.sentence.text.endswith(":") or _INTRODUCTION.match(self.sentence.text):
            return None
        return self.scopes.assertion(location.start, location.end)


def _number_of(location: Location, locations: Sequence[Location]) -> int | None:
    for number, other in enumerate(locations):
        if other is location:
            return number
    return None


def read_sentence(text: str, lexicon: Lexicon) -> SentenceReading:
    """Read one sentence without its context; never empty, never an exception on odd text."""
    sentence = Sentence(text, lexicon)
    about = background(text, sentence.scopes.vocabulary)
    if about == "examination":
        return SentenceReading((StatedOrgan(None, None, "historical", reason="tells how the scan was made"),), None)
    best: dict[tuple[object, ...], StatedOrgan] = {}
    for row in _RowBuilder(sentence).rows():
        if about == "patient":
            row = _of_patient(row, text)
        side = row.laterality if row.laterality in ("left", "right") and not lexicon.side_of(row.organ) else None
        key = (row.organ, row.abnormality, row.open_to, row.sides, side)
        if key not in best or _RANK[row.status] < _RANK[best[key].status]:
            best[key] = row
    rows = tuple(best.values())
    named = [row.organ for row in rows if row.organ]
    topic = named[-1] if named else next((p.term.organ for p in reversed(sentence.locations) if p.term.organ), None)
    if rows:
        sided = any(row.laterality for row in rows)
        nouns = [p for p in sentence.locations if not (p.term.adjective or p.elliptic)] if sided else ()
        return SentenceReading(rows, topic, of_organ=any(lexicon.sides_of(location) for location in nouns))
    row = StatedOrgan(None, None, _bare_status(sentence), reason=_reason(sentence))
    return SentenceReading((row,), topic, not sentence.locations and _points_back(sentence))


def _of_patient(row: StatedOrgan, text: str) -> StatedOrgan:
    """What the patient has is not what is seen; what is asked is no finding at all."""
    if row.status == "uncertain" and row.abnormality and not text.lower().startswith("the patient"):
        return NOT_SEEN
    return row._replace(status="historical", open_to=None, otherwise=())


def _bare_status(sentence: Sentence) -> Status:
    if sentence.scopes.has("normal", 0, len(sentence.words)):
        return "normal"
    if not sentence.mentions:
        return "affirmed"
    status = sentence.scopes.assertion(*sentence.mentions[0].span)
    return "normal" if status == "negated" else status


def _points_back(sentence: Sentence) -> bool:
    """Whether a sentence without an organ goes on about the one before: "It is stable.", "No pathology seen."."""
    words, lexicon = sentence.words, sentence.lexicon
    if not words or not lexicon.lists["advising"].isdisjoint(words):
        return False
    if any(mention.concept.kind in ("observation", "pathology") for mention in sentence.mentions):
        return True
    if any(words[i].isdecimal() and words[i + 1] in ("mm", "cm", "x", "hu") for i in range(len(words) - 1)):
        return True
    opening = next(iter(lexicon.measures.find(words[:2])), None)
    measure = opening is not None and opening.start == 0 and opening.value[0] == "measure"
    if measure and sentence.scopes.has("normal", 0, len(words)):
        return True  # "Size normal."
    return words[0] in lexicon.elliptical and (bool(sentence.cues) or bool(lexicon.measures.find(words)))


def _reason(sentence: Sentence) -> str:
    if not any(c.isalpha() for c in sentence.text):
        return "no words"
    if not sentence.lexicon.lists["advising"].isdisjoint(sentence.words):
        return "advice, not a finding"
    if sentence.locations:
        return "introduces an organ, states nothing"
    if sentence.mentions:
        return "no organ named"
    return "names no organ and no abnormality of the dictionaries"
