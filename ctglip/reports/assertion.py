"""Assertion of what a sentence names: clauses, and what each cue denies, doubts or dates within its clause.

The idea is NegEx's and ConText's (Chapman et al. 2001, Harkema et al. 2009): a cue has a direction and reaches to the
end of its clause or to a word that ends it. The cue lists are data (``cues.yaml``), clauses are ``clauses.py``'s. What
a denied word belongs to is not denied with it: "no rupture of the aneurysm", "no hydronephrosis from the stone".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from ctglip.reports.clauses import Statements
from ctglip.reports.doubt import DOUBTING, doubts
from ctglip.reports.lexicon import Lexicon
from ctglip.reports.mentions import Cue, Span
from ctglip.types import Status


class Scopes:
    """The clauses of one sentence and the scope of every cue in it.

    Attributes:
        vocabulary: its words as a set.

    Args:
        words: normal forms of the sentence.
        cues: cues found in it (``Lexicon.cues``).
        mentions: the concepts named, so that a denial without an object can look the other way.
        lexicon: for the word lists.
        tied: indices of the words that a hyphen ties to the one before.
        locations: the organs named.
        definite: gives the indices of the words that "the" and its like stand before.
    """

    def __init__(
        self,
        words: Sequence[str],
        cues: Sequence[Cue],
        mentions: Sequence[Span],
        lexicon: Lexicon,
        tied: frozenset[int] = frozenset(),
        locations: Sequence[Span] = (),
        definite: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        self.words = words
        self.vocabulary = frozenset(words)
        self.mentions = mentions
        self.tied = tied
        self.lists = lexicon.lists
        self.perception = lexicon.perception
        inside = {i for a, b in mentions if b - a > 1 for i in range(a, b)}
        covered = [m for m in cues if m.start in inside and any(a <= m.start and m.end <= b for a, b in mentions)]
        self.cues = self._with_denials([m for m in cues if m not in covered] if covered else cues, inside)
        self.bounds = Statements(words, self.cues, mentions, locations, self.lists, self.perception, tied).bounds()
        self._named = locations
        self._scopes: dict[str, list[Span]] = {"negation": [], "uncertainty": [], "history": []}
        self._exceptions: list[int] = []
        self._ahead: list[int] = []
        for start, end, kind, direction, _ in self.cues:
            if kind == "exception":
                self._exceptions.append(start)
            elif kind == "negation" and direction == "before":
                self._ahead.append(end)
        self.doubted: list[Span] = []
        self.hosts: list[tuple[int, int, bool]] = []
        self._definite = definite
        for cue in self.cues:
            self._spread(cue)
        if not DOUBTING.isdisjoint(self.vocabulary):
            excepted = min(self._exceptions, default=len(words))
            known = [mention for mention in mentions if mention[0] < excepted]
            self._scopes["uncertainty"] += doubts(words, known, self.clause_of, self.lists)
        self._earlier_examinations(cues)
        self._operated()

    # --- clauses

    def clause_of(self, index: int) -> Span:
        """(first, last + 1) word of the clause that a word stands in."""
        if len(self.bounds) == 1:
            return self.bounds[0]
        for span in self.bounds:
            if span[0] <= index < span[1]:
                return span
        return Span(0, len(self.words))

    # --- cues

    def _with_denials(self, cues: Sequence[Cue], inside: AbstractSet[int]) -> Sequence[Cue]:
        """ "not" (or "cannot be", "no longer") and a word of perception become one denial of what stands before."""
        if self.lists["deny"].isdisjoint(self.vocabulary) and "longer" not in self.vocabulary:
            return cues
        return list(self._denials(cues, inside))

    def _denials(self, cues: Sequence[Cue], inside: AbstractSet[int]) -> Iterator[Cue]:
        taken = -1
        starts = {cue.start: cue for cue in cues}
        for i, word in enumerate(self.words):
            cue = starts.get(i)
            if i < taken or (i in inside and cue is None):
                continue
            following = starts.get(i + 1)
            if word in self.lists["deny"] and following is not None and following.kind == "negation":
                taken = following.end  # "not absent"
                continue
            plain = cue is None or (cue.kind == "negation" and cue.direction in ("before", "after"))
            if plain and (word in self.lists["deny"] or self.words[i : i + 2] == ["no", "longer"]):
                end = self._perceived(i + 1)
                if end:
                    yield Cue(i, end, "negation", "after", perceived=True)
                    taken = end
                    continue
            if cue is not None:
                yield cue
                taken = max(taken, cue.end if cue.kind == "pseudo" else cue.start)

    def _perceived(self, start: int) -> int | None:
        for i in range(start, min(start + 4, len(self.words))):
            if self.words[i] in self.perception:
                return i + 1
            if self.words[i] in (",", ".", "and", "or"):
                return None
        return None

    def _spread(self, cue: Cue) -> None:
        kind, direction = cue.kind, cue.direction
        if direction == "next":
            self._scopes[kind].append(Span(cue.end, cue.end + 1))
        denies = kind == "normal" and direction is not None
        kind = "negation" if denies else kind
        if kind not in self._scopes or direction not in ("before", "after"):
            return
        start, end = self.clause_of(cue.start)
        ahead = Span(cue.start if denies else cue.end, self._stop(kind, cue.end, end))
        behind = Span(self._back(kind, start, cue.start), cue.start)
        if direction == "after" and start > 0 and not self._names_a_mention(Span(start, end)):
            self._reach_before(kind, start)
        first, second = (ahead, behind) if direction == "before" else (behind, ahead)
        turns = not self._names_a_mention(first) and self._names_a_mention(second)
        if turns and self._may_turn(kind, direction, ahead, behind):
            first = second
        self._scopes[kind].append(first)
        if kind == "negation" and first == ahead:
            self._spare(*ahead)
            self._doubt_last(*ahead)
        if self._paired(cue, start, end):
            self._scopes[kind].append(Span(start, cue.start))
        if cue.perceived and first == behind:
            self._scopes[kind].append(Span(cue.end, self._first_break(*ahead)))

    def _reach_before(self, kind: str, at: int) -> None:
        """Doubt or deny what the clause before names last: "no pneumonia is seen, but it cannot be excluded"."""
        start, _ = self.clause_of(at - 1)
        named = max((span for span in self.mentions if start <= span.start < at), default=None)
        end = self.clause_of(at)[1]
        if named is None or any(at <= a < end for a, _ in self._named):
            return
        if kind == "uncertainty":
            self.doubted.append(named)
        elif kind == "negation" and not self.lists["anaphor"].isdisjoint(self.words[at : at + 2]):
            self._scopes[kind].append(named)  # "an effusion last time, and that is gone"

    def _doubt_last(self, start: int, end: int) -> None:
        """Doubt what stands behind the last comma of a denial, an item or a new statement.

        It has a place of its own, or the denial itself is an item: "small effusion, no pneumothorax, cardiomegaly".
        """
        last = max((i for i in range(start, end) if self.words[i] == ","), default=start)
        named = max((span for span in self.mentions if last < span.start < end), default=None)
        if named is None or last == start or not self._names_a_mention(Span(start, last)):
            return
        rest = self.words[named.end : end]
        mixed = self.words[self.clause_of(start)[0]] == ","
        placed = mixed or not self.lists["placing"].isdisjoint(self.words[named.start : named.end + 1])
        listed = not {"or", "nor", "and"}.isdisjoint(self.words[last:end])
        if placed and not listed and self.lists["verb"].isdisjoint(rest) and self.perception.isdisjoint(rest):
            self.doubted.append(named)

    def _paired(self, cue: Cue, start: int, end: int) -> bool:
        """ "Pleural effusion - no thickening was detected": the pair was looked for, and the first is only named."""
        alone = cue.start in self.tied and any(a == start and b == cue.start for a, b in self.mentions)
        return alone and not self.perception.isdisjoint(self.words[cue.end : end])

    def _first_break(self, start: int, end: int) -> int:
        """ "were not seen in pathological size": the denial goes on up to the next part of the sentence."""
        broken = (
            i
            for i in range(start, end)
            if self.words[i] in (",", "and", "with", "(", "other") or self.words[i] in self.lists["unsure"]
        )
        return next(broken, end)

    def _may_turn(self, kind: str, direction: str, ahead: Span, behind: Span) -> bool:
        """ "Effusion: none." and "Not seen: effusion" reach the other way."""
        if kind != "negation":
            return False
        rest = self.words[ahead[0] : ahead[1]]
        if self.words[ahead[0] - 2 : ahead[0] - 1] == [":"]:
            return True  # "lymphadenopathy: none in the axillae"
        if direction == "after":  # "the spleen is not seen, presumably splenectomy" denies nothing ahead
            return not any(behind[0] <= start < behind[1] for start, _ in self._named)
        return all(not w.isalpha() or w in self.perception for w in rest)

    def _names_a_mention(self, span: Span) -> bool:
        return any(span[0] <= start < span[1] for start, _ in self.mentions)

    def _stop(self, kind: str, start: int, end: int) -> int:
        """Where a cue that looks ahead stops short of its clause's end."""
        end = min((i for i in self._exceptions if start <= i < end), default=end)
        for i in range(start, end):
            word = self.words[i]
            if word == "," and i + 1 < end:
                goes_on = kind == "negation" or self._listed(kind, start, i, end)
                if not goes_on or self.words[i + 1] in self.lists["explaining"]:
                    return i
            if kind == "negation" and word in self.lists["verb"] and self.words[start - 2 : start - 1] == ["lack"]:
                return i  # "the lack of contrast does not ..."
            if word == "," and kind == "negation" and self._second_of_two(start, i, end):
                return i
            if word == "with" and kind == "negation" and self.words[start - 2] in self.lists["undoing"]:
                return i  # "removal of the drain with a small pneumothorax"
            if kind == "negation" and word in ("because", "since", "("):
                return i
            if kind == "uncertainty" and word == ":" and self._names_a_mention(Span(start, i)):
                return i
            if kind == "history" and word in self.lists["verb"]:
                return i  # "previously observed as consolidation are now nodules"
        return end

    def _second_of_two(self, start: int, comma: int, end: int) -> bool:
        """Whether ", and" parts: "without loosening, and a defect at L4"; no list of two has a comma."""
        if self.words[start - 1] != "without" or self.words[comma + 1] != "and":
            return False
        return "," not in self.words[start:comma] and "or" not in self.words[comma:end]

    def _listed(self, kind: str, start: int, comma: int, end: int) -> bool:
        """Whether the list that a doubt or a history begins goes on behind a comma."""
        if not {"or", "nor"}.isdisjoint(self.words[comma:end]):
            return True
        if kind != "uncertainty" or self._placed(start, comma) or self._in_apposition(start):
            return False
        following = next((j for j in range(comma + 1, end) if self.words[j] in (",", "and")), end)
        return self.words[comma + 1] not in self.lists["quantity"] and self._names_a_mention(Span(comma + 1, following))

    def _placed(self, start: int, end: int) -> bool:
        """Whether a stretch tells where something is: "cyst of the left kidney"."""
        named = next((b for a, b in self.mentions if start <= a < end), end)
        return not {"in", "at", "on", "of"}.isdisjoint(self.words[named:end])

    def _in_apposition(self, cue: int) -> bool:
        """Whether a cue stands behind a comma that only explains: "opacities, possibly pneumonia, ..."."""
        start, _ = self.clause_of(cue - 1)
        named = max((b for a, b in self.mentions if start <= a < cue - 1), default=None)
        return named is not None and not {",", "("}.isdisjoint(self.words[named:cue])

    def _back(self, kind: str, start: int, end: int) -> int:
        """How far a cue that looks back reaches: past an exception, and for doubts past the last comma."""
        for cue in self.cues if self._exceptions else ():
            if start < cue.start < end and cue.kind == "exception":
                start = cue.end
        if kind == "negation":
            return start
        for i in range(end - 1, start, -1):
            if self.words[i] == "," and self._names_a_mention(Span(i, end)):
                joined = not {"or", "and"}.isdisjoint(self.words[i:end])
                if not joined or self._placed(start, i):
                    return i
        return start

    # --- what a denied word belongs to

    def _spare(self, start: int, end: int) -> None:
        """Take out of a denial what its object only belongs to: "no rupture of the aneurysm"."""
        ties = self.lists["begins_tie"]
        for i in range(start, end):
            linker = self._linker(i) if self.words[i] in ties else None
            if linker is None:
                continue
            length, kind = linker
            host = min((span for span in self.mentions if i + length <= span.start < end), default=None)
            if host is None or not (kind == "explained" or self._is_host(start, i, length, host)):
                continue
            stop = next((j for j in range(host[1], end) if self.words[j] in ("or", "nor", ",", "into", "to")), end)
            known = any(j in self._definite() for j in range(i + length, host[0] + 1))
            known = known or not self.lists["known"].isdisjoint(self.words[i + length : host[1]])
            self.hosts.append((i, stop, known or kind != "causing"))

    def _linker(self, i: int) -> tuple[int, str] | None:
        """(words, list) of what ties a denied word to what it belongs to, causes or would explain."""
        for length in (3, 2, 1):
            text = " ".join(self.words[i : i + length])
            for kind in ("explained", "tying", "causing"):
                if text in self.lists[kind]:
                    return length, kind
        return None

    def _is_host(self, start: int, at: int, length: int, host: Span) -> bool:
        between = self.words[at + length : host[0]]
        denied = [(a, b) for a, b in self.mentions if start <= a and b <= at]
        if not self.lists["boundary"].isdisjoint(between) or host in self._named:
            return False
        if not self.lists["sizing"].isdisjoint(self.words[host[0] : host[1]]):
            return False  # "no lymph node in pathological size"
        before = any(self.words[i] in self.lists["acting"] for i in range(start, at))
        if self.words[at] == "for":
            return before
        if self.words[at] == "of" and not before:
            named = bool(denied) or self.words[at - 1] not in self.lists["transparent"]
            return named and any(j in self._definite() for j in range(at + 1, host[0] + 1))
        return before or any(span not in self._named for span in denied)

    def _earlier_examinations(self, cues: Sequence[Cue]) -> None:
        """What an earlier examination showed is history, unless the sentence tells how it is now."""
        earlier = [m for m in self.cues if m.kind == "history" and m.direction == "seen_before"]
        if not earlier or any(word.startswith("compar") for word in self.words):
            return
        covered = {i for m in earlier for i in range(m.start, m.end)}
        still = (m.start for m in cues if m.kind == "history" and m.direction == "still")
        now = [start for start in still if start not in covered]
        for hit in earlier:
            start, end = self.clause_of(hit.start)
            if not any(start <= i < end for i in now):
                self._scopes["history"].append(Span(start, end))

    def _operated(self) -> None:
        """ "Nephrectomy for renal cell carcinoma": what was operated is history."""
        if "for" not in self.vocabulary and self.lists["operation"].isdisjoint(self.vocabulary):
            return
        for i, word in enumerate(self.words):
            if word in ("for", "of") and any(self._operation(w, word) for w in self.words[max(0, i - 5) : i]):
                _, end = self.clause_of(i)
                stop = (
                    j
                    for j in range(i + 1, end)
                    if self.words[j] in (",", "and", "with") or self.words[j] in self.lists["verb"]
                )
                self._scopes["history"].append(Span(i, next(stop, end)))

    def _operation(self, word: str, link: str) -> bool:
        return (link == "for" and word.endswith("ectomy")) or word in self.lists["operation"]

    # --- answers

    def assertion(self, start: int, end: int) -> Status:
        """Assertion of what is named by the words ``start`` to ``end``."""
        if self.doubted and any(a <= start < b for a, b in self.doubted):
            return "uncertain"
        host = next((known for a, b, known in self.hosts if a <= start < b), None) if self.hosts else None
        if host is None and self._within("negation", start):
            return "negated"
        if self._within("history", start):
            return "historical"
        doubted = self._within("uncertainty", start) or self._cue_inside(start, end) or host is False
        return "uncertain" if doubted else "affirmed"

    def excepted(self, start: int, other: int) -> bool:
        """Whether an exception stands between two words: "no metastasis other than the lesion in the ilium"."""
        if not self._exceptions:
            return False
        low, high = min(start, other), max(start, other)
        return any(low < i < high for i in self._exceptions)

    def is_host(self, start: int) -> bool:
        """Whether what is denied only belongs to the finding that begins there."""
        return bool(self.hosts) and any(a <= start < b for a, b, _ in self.hosts)

    def reason(self, start: int) -> str | None:
        """Why a finding that begins there is uncertain though no word doubts it."""
        if any(a <= start < b for a, b in self.doubted) and self._within("negation", start):
            return "denied and doubted"
        unsure = any(a <= start < b and not known for a, b, known in self.hosts)
        return "the cause of something denied" if unsure else None

    def sets_off(self, start: int, end: int) -> bool:
        """Whether a stretch leads from one thing said to another: "of normal calibre with no dissection"."""
        return not self.lists["joining"].isdisjoint(self.words[start:end]) or "no" in self.words[start:end]

    def denies_normal(self, start: int) -> bool:
        """Whether what is normal is not: "not normal", and never by the denial of something else."""
        last = max((end for end in self._ahead if end <= start), default=-9)
        return start - last < 3 and "," not in self.words[last:start] and not self._names_a_mention(Span(last, start))

    def _cue_inside(self, start: int, end: int) -> bool:
        return end - start > 1 and any(start < m.start < end and m.kind == "uncertainty" for m in self.cues)

    def _within(self, kind: str, index: int) -> bool:
        scopes = self._scopes[kind]
        return any(start <= index < end for start, end in scopes) if scopes else False

    def has(self, kind: str, start: int, end: int) -> bool:
        """Whether a cue of a kind ("normal", "unassessable") stands in a stretch, not denied itself."""
        at = [m.start for m in self.cues if m.kind == kind and start <= m.start < end]
        return any(not self.denies_normal(i) for i in at) if at else False
