"""Status of what a sentence names: clauses, and what each cue denies, doubts or dates within its clause.

The idea is NegEx's and ConText's (Chapman et al. 2001, Harkema et al. 2009): a cue has a direction and reaches to the
end of its clause or to a word that ends it. The cue lists are data (``cues.yaml``). A clause ends at ";", "but" and
the like, and at a comma or "and" when both sides have a verb of their own: "no effusion, mass or nodule was seen" is
one clause, "no effusion was seen and the heart is enlarged" are two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from ctglip.text.lexicon import Lexicon
from ctglip.text.trie import Mention
from ctglip.types import Status


class Clauses:
    """The clauses of one sentence and the reach of every cue in it.

    Args:
        words: normal forms of the sentence.
        signs: cues found in it (``Lexicon.signs``).
        things: (start, end) of the findings named, so that a denial without an object can look the other way.
        lexicon: for the word lists.
        tied: indices of the words that a hyphen ties to the one before.
    """

    def __init__(
        self,
        words: Sequence[str],
        signs: Sequence[Mention],
        things: Sequence[tuple[int, int]],
        lexicon: Lexicon,
        tied: frozenset[int] = frozenset(),
    ) -> None:
        self.words = words
        self.things = things
        self.tied = tied
        self.small = lexicon.words
        self.perception = lexicon.perception
        inside = [(a, b) for a, b in things if b - a > 1]
        outside = [m for m in signs if not any(a <= m.start and m.end <= b for a, b in inside)]
        self.signs = list(self._with_denials(outside))
        self.telling = [m for m in signs if m.value[:2] == ("history", "still")]
        self.bounds = self._bounds()
        self.reach: dict[str, list[tuple[int, int]]] = {"negation": [], "uncertainty": [], "history": []}
        for sign in self.signs:
            self._spread(sign)
        self._question_marks()
        self._earlier_examinations()

    # --- clauses

    def clause_of(self, index: int) -> tuple[int, int]:
        """(first, last + 1) word of the clause that a word stands in."""
        for start, end in self.bounds:
            if start <= index < end:
                return start, end
        return 0, len(self.words)

    def _bounds(self) -> list[tuple[int, int]]:
        breaks = {m.start: m.end for m in self.signs if m.value[0] == "break"}
        cuts, last = [0], 0
        for i, word in enumerate(self.words):
            ends = i in breaks or word == ";" or (word == ":" and self._introduces(last, i))
            if ends or (word in (",", "and") and i > last and self._splits(last, i)):
                cuts.append(i)
                last = i
        cuts.append(len(self.words))
        return [(a, b) for a, b in itertools.pairwise(cuts) if b > a]

    def _introduces(self, start: int, at: int) -> bool:
        """ "As far as can be seen:" is a clause of its own, "Liver:" is not."""
        return not self.small["introducing"].isdisjoint(self.words[start:at])

    def _splits(self, start: int, at: int) -> bool:
        """Whether a comma or "and" parts two statements."""
        right = self.words[at + 1 :]
        if self.small["verb"].isdisjoint(self.words[start:at]):
            return self._denied(start, at) and self._goes_on(start, at)
        if right[:1] and (right[0] in self.small["relative"] or self._same_subject(right)):
            return False
        return not self.small["verb"].isdisjoint(right) or self._state_follows(at + 1)

    def _same_subject(self, right: Sequence[str]) -> bool:
        """ "... is stable and within normal limits": what follows "and" speaks of the same."""
        return right[0] in self.small["state"] or right[0] == "within"

    def _denied(self, start: int, at: int) -> bool:
        ahead = (m for m in self.signs if m.value[1] == "before" and m.value[0] in ("negation", "normal"))
        return any(start <= m.start < at for m in ahead)

    def _goes_on(self, start: int, at: int) -> bool:
        """ "No effusion, heart enlarged" and "No stone in the left kidney, a stone is seen in the right one"."""
        if self._state_follows(at + 1):
            return True
        placed = not self.small["placing"].isdisjoint(self.words[start:at])
        return placed and self.words[at] == "," and self._verb_follows(at + 1)

    def _verb_follows(self, start: int) -> bool:
        for word in self.words[start:]:
            if word in (",", "and", "or", "nor"):
                return False
            if word in self.small["verb"]:
                return True
        return False

    def _state_follows(self, start: int) -> bool:
        for word in self.words[start:]:
            if word in (",", "and", "or") or word in self.small["verb"]:
                return False
            if word in self.small["state"]:
                return True
        return False

    # --- cues

    def _with_denials(self, signs: Sequence[Mention]) -> Iterator[Mention]:
        """ "not" (or "cannot be", "no longer") and a word of perception become one denial of what stands before."""
        if self.small["deny"].isdisjoint(self.words) and "longer" not in self.words:
            yield from signs
            return
        taken = -1
        starts = {sign.start: sign for sign in signs}
        for i, word in enumerate(self.words):
            sign = starts.get(i)
            if i < taken:
                continue
            following = starts.get(i + 1)
            if word in self.small["deny"] and following is not None and following.value[0] == "negation":
                taken = following.end  # "not absent"
                continue
            plain = sign is None or sign.value[:2] in (("negation", "before"), ("negation", "after"))
            if plain and (word in self.small["deny"] or self.words[i : i + 2] == ["no", "longer"]):
                end = self._perceived(i + 1)
                if end:
                    yield Mention(i, end, ("negation", "after", "perceived"))
                    taken = end
                    continue
            if sign is not None:
                yield sign
                taken = max(taken, sign.end if sign.value[0] == "pseudo" else sign.start)

    def _perceived(self, start: int) -> int | None:
        for i in range(start, min(start + 4, len(self.words))):
            if self.words[i] in self.perception:
                return i + 1
            if self.words[i] in (",", ".", "and", "or"):
                return None
        return None

    def _spread(self, sign: Mention) -> None:
        kind, direction, manner = sign.value
        if direction == "next":
            self.reach[kind].append((sign.end, sign.end + 1))
        denies = kind == "normal" and direction is not None
        kind = "negation" if denies else kind
        if kind not in self.reach or direction not in ("before", "after"):
            return
        start, end = self.clause_of(sign.start)
        ahead = (sign.start if denies else sign.end, self._stop(kind, sign.end, end))
        behind = (self._back(kind, start, sign.start), sign.start)
        first, second = (ahead, behind) if direction == "before" else (behind, ahead)
        if not self._names_a_thing(first) and self._names_a_thing(second) and self._may_turn(kind, direction, ahead):
            first = second
        self.reach[kind].append(first)
        if self._paired(sign, start, end):
            self.reach[kind].append((start, sign.start))
        if manner == "perceived" and first == behind:
            self.reach[kind].append((sign.end, self._first_break(*ahead)))

    def _paired(self, sign: Mention, start: int, end: int) -> bool:
        """ "Pleural effusion - no thickening was detected": the pair was looked for, and the first is only named."""
        alone = sign.start in self.tied and any(a == start and b == sign.start for a, b in self.things)
        return alone and not self.perception.isdisjoint(self.words[sign.end : end])

    def _first_break(self, start: int, end: int) -> int:
        """ "were not seen in pathological size": the denial goes on up to the next part of the sentence."""
        broken = (i for i in range(start, end) if self.words[i] in (",", "and", "with", "(", "other"))
        return next(broken, end)

    def _may_turn(self, kind: str, direction: str, ahead: tuple[int, int]) -> bool:
        """ "Effusion: none." and "Not seen: effusion" reach the other way."""
        if kind != "negation":
            return False
        rest = self.words[ahead[0] : ahead[1]]
        return direction == "after" or all(not w.isalpha() or w in self.perception for w in rest)

    def _names_a_thing(self, span: tuple[int, int]) -> bool:
        return any(span[0] <= start < span[1] for start, _ in self.things)

    def _stop(self, kind: str, start: int, end: int) -> int:
        """Where a cue that looks ahead stops short of its clause's end."""
        for sign in self.signs:
            if start <= sign.start < end and sign.value[0] == "exception":
                end = sign.start
        for i in range(start, end):
            word = self.words[i]
            if word == "," and i + 1 < end:
                listed = "or" in self.words[i:end] or "nor" in self.words[i:end]
                if (kind != "negation" and not listed) or self.words[i + 1] in self.small["explaining"]:
                    return i
            if kind == "negation" and word in ("because", "since", "("):
                return i
            if kind == "history" and word in self.small["verb"]:
                return i  # "previously observed as consolidation are now nodules"
        return end

    def _back(self, kind: str, start: int, end: int) -> int:
        """How far a cue that looks back reaches: past an exception, and for doubts past the last comma."""
        for sign in self.signs:
            if start <= sign.start < end and sign.value[0] == "exception" and sign.start > start:
                start = sign.end
        if kind == "negation":
            return start
        for i in range(end - 1, start, -1):
            if self.words[i] == "," and self._names_a_thing((i, end)) and "or" not in self.words[i:end]:
                return i
        return start

    def _question_marks(self) -> None:
        for i, word in enumerate(self.words):
            if word != "?":
                continue
            start, _ = self.clause_of(i)
            for j in range(i - 1, start - 1, -1):
                if self.words[j] in ("(", ",", ";", "?") and self._names_a_thing((j, i)):
                    start = j
                    break
            self.reach["uncertainty"].append((start, i))

    def _earlier_examinations(self) -> None:
        """What an earlier examination showed is history, unless the sentence tells how it is now."""
        earlier = [m for m in self.signs if m.value[:2] == ("history", "seen_before")]
        if not earlier or any(word.startswith("compar") for word in self.words):
            return
        covered = {i for m in earlier for i in range(m.start, m.end)}
        now = [m.start for m in self.telling if m.start not in covered]
        for mention in earlier:
            start, end = self.clause_of(mention.start)
            if not any(start <= i < end for i in now):
                self.reach["history"].append((start, end))

    # --- answers

    def status(self, start: int, end: int) -> Status:
        """Status of what is named by the words ``start`` to ``end``."""
        if self._within("negation", start):
            return "negated"
        if self._within("history", start):
            return "historical"
        return "uncertain" if self._within("uncertainty", start) or self._cue_inside(start, end) else "affirmed"

    def _cue_inside(self, start: int, end: int) -> bool:
        return any(start < m.start < end and m.value[0] == "uncertainty" for m in self.signs)

    def _within(self, kind: str, index: int) -> bool:
        return any(start <= index < end for start, end in self.reach[kind])

    def has(self, kind: str, start: int, end: int) -> bool:
        """Whether a cue of a kind ("normal", "unassessable") stands in a stretch, not denied itself."""
        return any(
            m.value[0] == kind and start <= m.start < end and not self._within("negation", m.start) for m in self.signs
        )
