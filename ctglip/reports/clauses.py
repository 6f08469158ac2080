"""OrganTerm one statement of a sentence ends and the next begins.

A statement has a subject and says something of it: "the spleen is enlarged", "heart size normal", "a stone is seen". It
begins after ";", "but" and the like, and after a comma or "and" where what follows is a statement too; what only goes
on with a list is none, even where the list's last item has the verb: "no effusion, mass or nodule was seen".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from ctglip.reports.mentions import SIDES, Cue, Span

_PARTING = frozenset({",", "and", ";"})
_SIZES = frozenset({"mm", "cm"})
_ALTERNATIVE = frozenset({"or", "nor"})
_JOINTS = _PARTING | _ALTERNATIVE


class Statements:
    """Parts a sentence into clauses.

    Args:
        words: normal forms of the sentence.
        cues: cues found in it.
        mentions: the concepts named.
        locations: the organs named.
        lists: word lists of ``cues.yaml``.
        perception: words such as "seen".
        tied: indices of the words that a hyphen ties to the one before.
    """

    def __init__(
        self,
        words: Sequence[str],
        cues: Sequence[Cue],
        mentions: Sequence[Span],
        locations: Sequence[Span],
        lists: Mapping[str, frozenset[str]],
        perception: frozenset[str],
        tied: frozenset[int] = frozenset(),
    ) -> None:
        self.words = words
        self.lists = lists
        self.perception = perception
        self.tied = tied
        self.mentions = dict(mentions)
        self.locations = dict(locations)
        self.breaks: set[int] = set()
        self.denials: set[int] = set()
        self.behind: set[int] = set()
        self.normal: set[int] = set()
        self._normal_ends: set[int] = set()
        self._mention_ends = {end for _, end in mentions}
        for cue in cues:
            self._sort(cue)

    def _sort(self, cue: Cue) -> None:
        kind, direction = cue.kind, cue.direction
        if kind == "break":
            self.breaks.add(cue.start)
        if kind == "normal":
            self.normal.add(cue.start)
            self._normal_ends.add(cue.end - 1)
        if direction == "before" and kind in ("negation", "normal"):
            self.denials.add(cue.start)
        if direction == "after" and kind in ("negation", "uncertainty"):
            self.behind.add(cue.start)

    def bounds(self) -> list[Span]:
        """(first, last + 1) word of each clause, in order and without gaps."""
        cuts, last = [0], 0
        deciding = self.lists["deciding"]
        for at, word in enumerate(self.words):
            if (word in deciding or at in self.breaks or at in self.locations) and self._ends(last, at, word):
                cuts.append(at)
                last = at
        cuts.append(len(self.words))
        return [Span(a, b) for a, b in itertools.pairwise(cuts) if b > a]

    def _ends(self, start: int, at: int, word: str) -> bool:
        if at in self.breaks:
            return True
        if word == ";":
            return not self._goes_on(start, at)
        if word == ":":  # "as far as can be seen:" is a clause of its own, "Liver:" is not
            return not self.lists["introducing"].isdisjoint(self.words[start:at])
        if word == "no" and at > start and at not in self.tied:
            return self._states(start, at) and not self._leads_in(at)
        if word == "there":
            verb = not self.lists["verb"].isdisjoint(self.words[at + 1 : at + 2])
            return at > start and verb and self._states(start, at) and self._complete(at)
        if at > start and word not in _PARTING:
            return self._runs_on(start, at)
        return word in _PARTING and at > start and self._parts(start, at)

    def _runs_on(self, start: int, at: int) -> bool:
        """Whether a statement begins without any sign: "heart is normal lungs are clear", "no mass small hernia"."""
        ended = at in self._mention_ends
        if not self._complete(at):
            return False
        predicate = self._predicate(at, min(self.locations[at] + 4, len(self.words))) if at in self.locations else None
        if predicate is not None and (self.words[at - 1] in self.lists["state"] or at - 1 in self._normal_ends):
            named = any(start <= i < at for i in self.locations)
            return named and predicate[0] != "bare" and self.words[at - 2] != "and"
        if predicate is not None and predicate[0] in ("state", "verb") and ended and predicate[1] <= self.locations[at]:
            return self._denied(start, at)  # "no stones liver normal"
        if ended and self.words[at] in self.lists["quantity"]:
            return any(i in self.mentions for i in range(at + 1, min(at + 4, len(self.words))))
        return False

    def _complete(self, at: int) -> bool:
        """Whether what stands before ends with a finding, a state or a side."""
        before = self.words[at - 1]
        ended = at in self._mention_ends or at - 1 in self._normal_ends
        return ended or before in self.lists["state"] or before in SIDES

    def _leads_in(self, at: int) -> bool:
        """Whether the word before still belongs to what follows: "there is no", "with no", "and no"."""
        before = self.words[at - 1]
        return before in self.lists["boundary"] or before in self.lists["verb"] or before in self.lists["joining"]

    def _goes_on(self, start: int, at: int) -> bool:
        """ "No fracture; dislocation; or effusion": the list that the denial began goes on."""
        rest = self.words[at + 1 :]
        return self._denied(start, at) and not _ALTERNATIVE.isdisjoint(rest) and self.lists["verb"].isdisjoint(rest)

    def _denied(self, start: int, at: int) -> bool:
        return any(start <= i < at for i in self.denials) if self.denials else False

    def _states(self, start: int, at: int) -> bool:
        """Whether a stretch says something by itself: it names a finding, or a state."""
        if not self.lists["state"].isdisjoint(self.words[start:at]):
            return True
        return any(start <= i < at for i in self.mentions) or any(start <= i < at for i in self.normal)

    def _parts(self, start: int, at: int) -> bool:
        """Whether a comma or "and" parts two statements."""
        right = self.words[at + 1 : at + 2]
        if not right or right[0] in self.lists["relative"]:
            return False
        spoken = not self.lists["verb"].isdisjoint(self.words[start:at])
        if spoken and (right[0] in self.lists["state"] or right[0] == "within"):
            return False  # "... is stable and within normal limits" speaks of the same
        stated = self._states(start, at) or self._denied(start, at)
        if not spoken and (not stated or self.words[start] in self.lists["opening"]):
            return False
        return self._statement(start, at, spoken)

    def _statement(self, start: int, at: int, spoken: bool) -> bool:
        """Whether a new statement begins behind ``at``: pieces that only list are read over."""
        denied = self._denied(start, at)
        listed: set[str] = set()
        for number, (a, b, joint) in enumerate(self._pieces(at)):
            if number == 0 and self._opens(a, b, start, at):
                return True
            predicate = self._predicate(a, b)
            if predicate is not None:
                subject = "location" if any(a <= i < predicate[1] for i in self.locations) else "mention"
                if listed - {subject}:
                    return False
                if (predicate[0] == "there" or (predicate[0] == "seen" and not spoken and not denied)) and number:
                    return False
                return self._new(predicate[0], start, at, spoken, joint in _ALTERNATIVE)
            named = {"mention"} if any(a <= i < b for i in self.mentions) else set()
            named |= {"location"} if not named and any(a <= i < b for i in self.locations) else set()
            if not named or (joint in _ALTERNATIVE and denied and "mention" in named):
                return False
            listed |= named
        return False

    def _pieces(self, at: int) -> Iterator[tuple[int, int, str]]:
        """(start, end, what joins it) of the stretches between commas, "and" and "or" from the joint ``at`` on."""
        begin, joint = at + 1, self.words[at]
        for i in range(at + 1, len(self.words)):
            if self.words[i] not in _JOINTS and i not in self.breaks:
                continue
            if i > begin:
                yield begin, i, joint
            if i in self.breaks or self.words[i] == ";":
                return
            joint, begin = self.words[i], i + 1
        if len(self.words) > begin:
            yield begin, len(self.words), joint

    def _opens(self, a: int, b: int, start: int, at: int) -> bool:
        """Whether a piece begins anew: "there is", "no ...", "small right effusion", "diverticula without ..."."""
        if self.words[a] == "there" or (a in self.denials and self.words[a] != "not"):
            return True
        named = [i for i in range(a, b) if i in self.mentions]
        if named and any(named[0] < i < b for i in self.denials):
            return True
        if not named or not _ALTERNATIVE.isdisjoint(self.words[at:]):
            return False
        return self.words[a] in self.lists["quantity"] or (
            self._denied(start, at) and self._told_of(start, a, b, named)
        )

    def _told_of(self, start: int, a: int, b: int, named: Sequence[int]) -> bool:
        """Whether a piece is no item of what is denied: that it is new or noted, or its measure, is told.

        Where each item has a denial of its own, one without but with a place of its own is none either.
        """
        if not self.lists["anew"].isdisjoint(self.words[a:b]):
            return True
        each = self.words[start] == "," and any(i < start for i in self.behind | self.denials)
        if each and not self.lists["placing"].isdisjoint(self.words[named[-1] : b]):
            return True
        return any(self.words[i] in _SIZES and min(abs(i - n) for n in named) < 9 for i in range(a, b))

    def _predicate(self, a: int, b: int) -> tuple[str, int] | None:
        """What is said of a piece's subject, and where: "verb", "seen" (a verb of perception) or "state"."""
        for i in range(a, b):
            if self.words[i] in self.lists["verb"]:
                following = self.words[i + 1 : min(i + 4, b)]
                if following[:1] == ["present"] and self.words[i] in ("is", "are"):
                    return ("there" if i > a else "bare"), i
                perceived = not self.perception.isdisjoint(following)
                perceived = perceived or any(i <= j < b for j in self.behind)
                return ("bare" if i == a else "seen" if perceived else "verb"), i
        for i in range(a, b):
            if self.words[i] in self.lists["state"] or i in self.normal:
                named = any(a <= j < i for j in (*self.locations, *self.mentions))
                if named or i in self.normal:
                    return "state", max(i, a + 1)
        return None

    def _new(self, predicate: str, start: int, at: int, spoken: bool, alternative: bool) -> bool:
        if spoken:
            return True
        if predicate in ("verb", "state") or (predicate == "there" and self.words[at] == ","):
            return not alternative
        placed = not self.lists["placing"].isdisjoint(self.words[start:at])
        return predicate == "seen" and placed and not alternative and self.words[at] == ","
