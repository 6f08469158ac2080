"""One sentence taken apart: its words, what they name, where, and the scope of its cues."""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.reports.assertion import Scopes
from ctglip.reports.laterality import NONE
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.location import find_locations
from ctglip.reports.measures import measured, removed, size_in
from ctglip.reports.mentions import NO_SIDE, SIDES, Concept, Cue, Location, Mention, Span

_NUMBERS = frozenset({"two", "three", "several", "few"})
_NODE = "visible_lymph_node"
_SIDE_BEFORE = 6
"""Words at most between a side and the mention that it stands before."""


class Sentence:
    """One sentence taken apart.

    Attributes:
        words: normal forms.
        mentions: concepts named, measures included.
        locations: organs named.
        cues: words that affirm, deny, doubt, date or part.
        scopes: the clauses, and the scope of the cues in them.
    """

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        self.text = text
        self.lexicon = lexicon
        self.words, tied = lexicon.read(text)
        named = [(Span(start, end), concept) for start, end, concept in lexicon.find_concepts(self.words)]
        spans = [span for span, _ in named]
        self.cues = self._cues(spans)
        homes: list[tuple[int, str]] = []
        if not SIDES.keys().isdisjoint(self.words):
            homes = [(span.end, home) for span, concept in named if (home := lexicon.home_of(concept))]
        self.locations, sides = find_locations(self.words, tied, lexicon, spans, homes)
        mentions = [Mention(span, concept) for span, concept in named]
        if sides or "grade" in self.words:
            mentions = [self._sided(mention, sides.get(n, NO_SIDE)) for n, mention in enumerate(mentions)]
        if not lexicon.compounded.isdisjoint(self.words):
            mentions += self._second_concepts(mentions)
        again = self._repeated(mentions)
        mentions += again
        spans += [mention.span for mention in again]
        nouns = [location.span for location in self.locations if not location.term.adjective]
        subjects = [Cue(p.start, p.start, "break") for p in self.locations if p.elliptic and self._begins(p.start)]
        cues = [*self.cues, *subjects]
        self.scopes = Scopes(self.words, cues, spans, lexicon, tied, nouns, lambda: lexicon.definite(text))
        mentions = [
            self._node(mention, mentions) if mention.concept.name == _NODE else mention
            for mention in self._without_headings(mentions)
        ]
        gone = removed(self.words, self.locations, mentions, self.scopes, lexicon)
        self.mentions = [*mentions, *measured(self.words, self.locations, mentions, self.scopes, lexicon), *gone]

    def _cues(self, spans: Sequence[Span]) -> list[Cue]:
        """The cues, each without the words of a concept: "no contrast extravasation" denies, "no contrast" does not."""
        found: list[Cue] = []
        for cue in self.lexicon.find_cues(self.words):
            if cue.kind != "pseudo":
                found.append(cue)
                continue
            start = next((start for start, end in spans if cue.start < start < cue.end < end), None)
            if start is None:
                found.append(cue)
                continue
            shorter = self.lexicon.find_cues(self.words[cue.start : start])
            found += [c._replace(start=c.start + cue.start, end=c.end + cue.start) for c in shorter]
        return found

    def _begins(self, i: int) -> bool:
        """Whether a side that is a subject begins a statement, and is not the second of two."""
        return i > 1 and not (self.words[i - 1] in ("and", "or") and self.words[i - 2] in SIDES)

    def _sided(self, mention: Mention, sides: frozenset[str]) -> Mention:
        """A mention with its sides; an injury with a grade is a laceration."""
        (start, end), concept = mention.span, mention.concept
        before = self.words[max(0, start - _SIDE_BEFORE) : end]
        if concept.name == "injury" and "grade" in self.words[max(0, start - _SIDE_BEFORE) : start]:
            concept = Concept("abnormality", "laceration")
        leads = any(SIDES.get(word) in sides for word in before)
        return Mention(mention.span, concept, laterality=sides, side_leads=leads)

    def _second_concepts(self, mentions: Sequence[Mention]) -> list[Mention]:
        """The other finding of each word for two: a "hydropneumothorax" is an effusion too."""
        found: list[Mention] = []
        for mention in mentions:
            name = self.lexicon.compounds.get(tuple(self.words[mention.start : mention.end]))
            if name is not None:
                found.append(mention._replace(concept=mention.concept._replace(name=name)))
        return found

    def _node(self, mention: Mention, mentions: Sequence[Mention]) -> Mention:
        """Lymph nodes of 10 mm or more (15 in the groin), by the size behind them, else before, are enlarged."""
        if "lymphadenopathy" not in self.lexicon.abnormalities:
            return mention
        start, end = self.scopes.clause_of(mention.start)
        others = [m.span for m in mentions if not m.concept.silent]
        end = min((span.start for span in others if mention.end <= span.start < end), default=end)
        start = max([start, *(span.end for span in others if span.end <= mention.start)])
        start = max([start, *(i for i in range(start, mention.start) if self.words[i] == ",")])
        limiting = self.lexicon.lists["limiting"]
        size = size_in(self.words[mention.end : end], limiting) or size_in(self.words[start : mention.start], limiting)
        large = size >= (15 if "inguinal" in self.words else 10)
        return mention._replace(concept=mention.concept._replace(name="lymphadenopathy")) if large else mention

    def _without_headings(self, mentions: list[Mention]) -> list[Mention]:
        """ "Lymph nodes: none enlarged." names the nodes, and does not yet say that some are seen."""
        if not self.locations or not mentions:
            return mentions
        normal = any(cue.kind == "normal" for cue in self.cues)
        if not (normal or ":" in self.scopes.vocabulary):
            return mentions
        return [
            mention._replace(concept=mention.concept._replace(kind="mute"))
            if self._only_names(mention, normal)
            else mention
            for mention in mentions
        ]

    def _only_names(self, mention: Mention, normal: bool) -> bool:
        spans = [location.span for location in self.locations]
        if mention.span in spans and self.words[mention.end : mention.end + 1] == [":"]:
            return True
        if not normal or not any(span.holds(mention.span) for span in spans):
            return False
        start, end = self.scopes.clause_of(mention.start)  # "the inguinal nodes are normal"
        return self.scopes.has("normal", start, end) and not self.scopes.has("abnormal_than", start, end)

    def _repeated(self, mentions: Sequence[Mention]) -> list[Mention]:
        """Words that stand for a finding named before: "none on the left", "a tiny one", "but the left is moderate"."""
        found: list[Mention] = []
        pronouns, subjects = self.lexicon.lists["standing"], {p.start: p for p in self.locations if p.elliptic}
        if not mentions or not (subjects or not pronouns.isdisjoint(self.words)):
            return found
        for i, word in enumerate(self.words):
            if word not in pronouns and i not in subjects:
                continue
            elliptic = subjects.get(i) or subjects.get(i - 1)
            side = self._side_of_pronoun(i) if i and not elliptic else None
            if side is None and elliptic is None:
                continue
            before = [m for m in (*mentions, *found) if m.end <= i and not m.concept.silent]
            if not before:
                continue
            last = max(before, key=lambda mention: mention.end)
            if elliptic is not None and self._of_finding(last, elliptic):
                found.append(Mention(elliptic.span, last.concept))
            elif side is not None:
                assertion = "negated" if word in NONE else None
                found.append(Mention(Span(i, i + 1), last.concept, assertion, None, side, side_leads=bool(side)))
        return found

    def _side_of_pronoun(self, i: int) -> frozenset[str] | None:
        """The side of a word that stands for a finding, none with another place, None where it stands for nothing."""
        pronoun = self.words[i] in self.lexicon.lists["pronoun"]
        begin = i + 1
        while self.words[begin : begin + 1] and self.words[begin] in self.lexicon.lists["perceiving"]:
            begin += 1  # "a small one is seen on the left"
        following = self.words[begin : begin + 3]
        if following and following[0] in ("on", "in", "at"):
            side = SIDES.get(following[1]) if len(following) > 1 else None
            if side is not None and (following[0] == "on" or following[2:] in ([], ["."], [","])):
                return frozenset({side})
            return NO_SIDE if pronoun and any(begin < p.start < begin + 4 for p in self.locations) else None
        if self.words[i] == "one" and self.words[i - 1] in SIDES:
            return frozenset({SIDES[self.words[i - 1]]})  # "and a right one containing fat"
        if self.words[i] in NONE and following and following[0] in SIDES:
            return frozenset({SIDES[following[0]]})
        fronted = self.words[max(0, i - 6) : i]
        counted = pronoun or (
            self.words[i] in _NUMBERS and (not following or following[0] in self.lexicon.lists["boundary"])
        )
        if counted and "there" in fronted and "on" in fronted and following[:1] != ["of"]:
            sides = [SIDES[w] for at, w in enumerate(fronted) if w in SIDES and fronted[at - 1] == "on"]
            return frozenset(sides[-1:]) or None  # "on the left there is a small one"
        return None

    def _of_finding(self, last: Mention, elliptic: Location) -> bool:
        """Whether "the left" means the finding named before, and not its organ: how much of it there is, is told."""
        nouns = [p.end for p in self.locations if p.end <= elliptic.start and not p.term.adjective and not p.elliptic]
        if max(nouns, default=0) > last.start:
            return False
        sided = last.laterality or any(p.sides and p.end >= last.start and p.start < last.end for p in self.locations)
        end = next((j for j in range(elliptic.end, len(self.words)) if self.words[j] in (",", ";", "but")), None)
        amount = self.words[elliptic.end : end]
        return bool(sided) and not self.lexicon.lists["amount"].isdisjoint(amount)
