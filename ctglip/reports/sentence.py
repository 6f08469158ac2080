"""One sentence taken apart: its words, what they name, where, and the scope of its cues."""

from __future__ import annotations

from collections.abc import Sequence

from ctglip.reports.assertion import Scopes
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.location import find_locations
from ctglip.reports.measures import measured, removed
from ctglip.reports.mentions import NO_SIDE, SIDES, Concept, Cue, Mention, Span

_NONE = frozenset({"none", "nil"})
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
        named = [(Span(m.start, m.end), m.value) for m in lexicon.find_concepts(self.words)]
        spans = [span for span, _ in named]
        self.cues = self._cues(spans)
        homes: list[tuple[int, str]] = []
        if not SIDES.keys().isdisjoint(self.words):
            homes = [(span.end, home) for span, concept in named if (home := lexicon.home_of(concept))]
        self.locations, sides = find_locations(self.words, tied, lexicon, spans, homes)
        mentions = [self._mention(*parts, sides.get(n, NO_SIDE)) for n, parts in enumerate(named)]
        if not lexicon.compounded.isdisjoint(self.words):
            mentions += self._second_concepts(mentions)
        nouns = [location.span for location in self.locations if not location.term.adjective]
        self.scopes = Scopes(self.words, self.cues, spans, lexicon, tied, nouns, lambda: lexicon.definite(text))
        mentions = self._without_headings(mentions)
        mentions += self._repeated(mentions)
        gone = removed(self.words, self.locations, mentions, lexicon)
        self.mentions = [*mentions, *measured(self.words, self.locations, mentions, self.scopes, lexicon), *gone]

    def _cues(self, spans: Sequence[Span]) -> list[Cue]:
        """The cues, each without the words of a concept: "no contrast extravasation" denies, "no contrast" does not."""
        found: list[Cue] = []
        for cue in self.lexicon.find_cues(self.words):
            within = (start for start, end in spans if cue.start < start < cue.end < end)
            start = next(within, None) if cue.kind == "pseudo" else None
            if start is None:
                found.append(cue)
                continue
            shorter = self.lexicon.find_cues(self.words[cue.start : start])
            found += [c._replace(start=c.start + cue.start, end=c.end + cue.start) for c in shorter]
        return found

    def _mention(self, span: Span, concept: Concept, sides: frozenset[str]) -> Mention:
        before = self.words[max(0, span.start - _SIDE_BEFORE) : span.end] if sides else ()
        leads = any(SIDES.get(word) in sides for word in before)
        return Mention(span, concept, laterality=sides, side_leads=leads)

    def _second_concepts(self, mentions: Sequence[Mention]) -> list[Mention]:
        """The other finding of each word for two: a "hydropneumothorax" is an effusion too."""
        found: list[Mention] = []
        for mention in mentions:
            name = self.lexicon.compounds.get(tuple(self.words[mention.start : mention.end]))
            if name is not None:
                found.append(mention._replace(concept=mention.concept._replace(name=name)))
        return found

    def _without_headings(self, mentions: list[Mention]) -> list[Mention]:
        """ "Lymph nodes: none enlarged." names the nodes, and does not yet say that some are seen."""
        normal = any(cue.kind == "normal" for cue in self.cues)
        if not self.locations or not (normal or ":" in self.words):
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
        """ "A right effusion, none on the left": the finding named before is meant again."""
        found: list[Mention] = []
        for i in range(1, len(self.words) - 2) if "on" in self.words else ():
            none = self.words[i] in _NONE
            if not (none or self.words[i] in self.lexicon.lists["quantity"]) or self.words[i + 1] != "on":
                continue
            side = SIDES.get(self.words[i + 2])
            before = [m for m in (*mentions, *found) if m.end <= i and not m.concept.silent]
            if side is not None and before:
                concept = max(before, key=lambda mention: mention.end).concept
                assertion = "negated" if none else None
                found.append(Mention(Span(i, i + 1), concept, assertion, None, frozenset({side}), side_leads=True))
        return found
