"""One sentence taken apart: its words, what they name, where, and what the cues reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ctglip.reports.lexicon import Lexicon
from ctglip.reports.measures import SILENT, Mention, measured, removed
from ctglip.reports.negation import Clauses
from ctglip.reports.places import find_locations
from ctglip.reports.trie import Match
from ctglip.reports.where import SIDES
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
        self.mentions = [Mention(m.start, m.end, *m.value) for m in lexicon.find_seen(self.words)]
        spans = [(mention.start, mention.end) for mention in self.mentions]
        self.signs = self._own_signs(spans)
        owners = ((mention.end, lexicon.home_of(mention.kind, mention.key)) for mention in self.mentions)
        homes = [(end, home) for end, home in owners if home] if not SIDES.keys().isdisjoint(self.words) else []
        self.locations, sides = find_locations(self.words, tied, lexicon, spans, homes)
        for number, own in sides.items():
            mention = self.mentions[number]
            mention.sides = own
            before = self.words[max(0, mention.start - 6) : mention.end]
            mention.firm = any(SIDES.get(word) in own for word in before)
        if not self.lexicon.compounded.isdisjoint(self.words):
            self.mentions += self._seconds()
        named = [(location.start, location.end) for location in self.locations if not location.where.adjective]
        self.clauses = Clauses(self.words, self.signs, spans, lexicon, tied, named, lambda: lexicon.definite(text))
        self._mute_headings()
        self._repeat()
        gone = removed(self.words, self.locations, self.mentions, lexicon)
        self.mentions += [*measured(self.words, self.locations, self.mentions, self.clauses, lexicon), *gone]

    def _own_signs(self, spans: Sequence[tuple[int, int]]) -> list[Match]:
        """The cues, each without the words of a finding: "no contrast extravasation" denies, "no contrast" does not."""
        signs = self.lexicon.signs.find(self.words)
        if not any(sign.value[0] == "pseudo" for sign in signs):
            return signs
        found: list[Match] = []
        for sign in signs:
            within = (start for start, end in spans if sign.start < start < sign.end < end)
            start = next(within, None) if sign.value[0] == "pseudo" else None
            rest = self.lexicon.signs.find(self.words[sign.start : start]) if start is not None else [sign]
            found += [m if m is sign else m._replace(start=m.start + sign.start, end=m.end + sign.start) for m in rest]
        return found

    def _seconds(self) -> list[Mention]:
        """The other finding of each word for two: a "hydropneumothorax" is an effusion too."""
        found: list[Mention] = []
        for mention in self.mentions:
            name = self.lexicon.compounds.get(tuple(self.words[mention.start : mention.end]))
            if name is not None:
                found.append(replace(mention, key=name, sides=set(mention.sides)))
        return found

    def _mute_headings(self) -> None:
        """ "Lymph nodes: none enlarged." names the nodes, and does not yet say that some are seen."""
        praised = any(sign.value[0] == "normal" for sign in self.signs)
        if not praised and ":" not in self.words:
            return
        named = {(location.start, location.end) for location in self.locations}
        for mention in self.mentions if named else ():
            if (mention.start, mention.end) in named and self.words[mention.end : mention.end + 1] == [":"]:
                mention.kind = "mute"
            elif praised and any(a <= mention.start and mention.end <= b for a, b in named):
                start, end = self.clauses.clause_of(mention.start)
                if self.clauses.has("normal", start, end) and not self.clauses.has("abnormal_than", start, end):
                    mention.kind = "mute"  # "the inguinal nodes are normal"

    def _repeat(self) -> None:
        """ "A right effusion, none on the left": the finding named before is meant again."""
        for i in range(1, len(self.words) - 2) if "on" in self.words else ():
            none = self.words[i] in _NONE
            if not (none or self.words[i] in self.lexicon.words["quantity"]) or self.words[i + 1] != "on":
                continue
            side = SIDES.get(self.words[i + 2])
            before = max(
                (t for t in self.mentions if t.end <= i and t.kind not in SILENT), key=lambda t: t.end, default=None
            )
            if side is not None and before is not None:
                status: Status | None = "negated" if none else None
                self.mentions.append(Mention(i, i + 1, before.kind, before.key, status, sides={side}, firm=True))
