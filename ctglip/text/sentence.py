"""One sentence taken apart: its words, what they name, where, and what the cues reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ctglip.text.lexicon import Lexicon
from ctglip.text.measures import SILENT, Thing, measured, removed
from ctglip.text.negation import Clauses
from ctglip.text.places import find_places
from ctglip.text.trie import Mention
from ctglip.text.where import SIDES
from ctglip.types import Status

_NONE = frozenset({"none", "nil"})


class Sentence:
    """One sentence taken apart.

    Attributes:
        words: normal forms.
        things: findings named, measures included.
        places: organs named.
        signs: cues.
        clauses: what the cues reach.
    """

    def __init__(self, text: str, lexicon: Lexicon) -> None:
        self.text = text
        self.lexicon = lexicon
        self.words, tied = lexicon.read(text)
        self.things = [Thing(m.start, m.end, *m.value) for m in lexicon.find_seen(self.words)]
        spans = [(thing.start, thing.end) for thing in self.things]
        self.signs = self._own_signs(spans)
        owners = ((thing.end, lexicon.home_of(thing.kind, thing.key)) for thing in self.things)
        homes = [(end, home) for end, home in owners if home] if not SIDES.keys().isdisjoint(self.words) else []
        self.places, sides = find_places(self.words, tied, lexicon, spans, homes)
        for number, own in sides.items():
            thing = self.things[number]
            thing.sides = own
            before = self.words[max(0, thing.start - 6) : thing.end]
            thing.firm = any(SIDES.get(word) in own for word in before)
        self.things += self._seconds()
        named = [(place.start, place.end) for place in self.places if not place.where.adjective]
        self.clauses = Clauses(self.words, self.signs, spans, lexicon, tied, named, lambda: lexicon.definite(text))
        self._mute_headings()
        self._repeat()
        gone = removed(self.words, self.places, self.things, lexicon)
        self.things += [*measured(self.words, self.places, self.things, self.clauses, lexicon), *gone]

    def _own_signs(self, spans: Sequence[tuple[int, int]]) -> list[Mention]:
        """The cues, each without the words of a finding: "no contrast extravasation" denies, "no contrast" does not."""
        signs = self.lexicon.signs.find(self.words)
        if not any(sign.value[0] == "pseudo" for sign in signs):
            return signs
        found: list[Mention] = []
        for sign in signs:
            within = (start for start, end in spans if sign.start < start < sign.end < end)
            start = next(within, None) if sign.value[0] == "pseudo" else None
            rest = self.lexicon.signs.find(self.words[sign.start : start]) if start is not None else [sign]
            found += [m if m is sign else m._replace(start=m.start + sign.start, end=m.end + sign.start) for m in rest]
        return found

    def _seconds(self) -> list[Thing]:
        """The other finding of each word for two: a "hydropneumothorax" is an effusion too."""
        found: list[Thing] = []
        for thing in self.things:
            name = self.lexicon.compounds.get(tuple(self.words[thing.start : thing.end]))
            if name is not None:
                found.append(replace(thing, key=name, sides=set(thing.sides)))
        return found

    def _mute_headings(self) -> None:
        """ "Lymph nodes: none enlarged." names the nodes, and does not yet say that some are seen."""
        praised = any(sign.value[0] == "normal" for sign in self.signs)
        if not praised and ":" not in self.words:
            return
        named = {(place.start, place.end) for place in self.places}
        for thing in self.things if named else ():
            if (thing.start, thing.end) in named and self.words[thing.end : thing.end + 1] == [":"]:
                thing.kind = "mute"
            elif praised and any(a <= thing.start and thing.end <= b for a, b in named):
                start, end = self.clauses.clause_of(thing.start)
                if self.clauses.has("normal", start, end) and not self.clauses.has("abnormal_than", start, end):
                    thing.kind = "mute"  # "the inguinal nodes are normal"

    def _repeat(self) -> None:
        """ "A right effusion, none on the left": the finding named before is meant again."""
        for i in range(1, len(self.words) - 2) if "on" in self.words else ():
            none = self.words[i] in _NONE
            if not (none or self.words[i] in self.lexicon.words["quantity"]) or self.words[i + 1] != "on":
                continue
            side = SIDES.get(self.words[i + 2])
            before = max(
                (t for t in self.things if t.end <= i and t.kind not in SILENT), key=lambda t: t.end, default=None
            )
            if side is not None and before is not None:
                status: Status | None = "negated" if none else None
                self.things.append(Thing(i, i + 1, before.kind, before.key, status, sides={side}, firm=True))
