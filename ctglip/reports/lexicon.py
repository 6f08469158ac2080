"""Phrases and what they mean: the dictionaries' organs and abnormalities, this room's cues and observations.

A ``Trie`` finds the longest phrases in a list of words. The ``Lexicon`` holds one for organs, one for concepts,
one for the words around them (negation, uncertainty, sides), and answers which abnormality an observation is
in an organ: "effusion" in the pleura is a pleural effusion, since the dictionary has the phrase "pleural effusion".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from ctglip.files import read_yaml
from ctglip.reports.abbreviations import add_abbreviations, add_compounds
from ctglip.reports.cues import add_cues, add_measures, word_lists
from ctglip.reports.mentions import NO_SIDE, SIDES, STATION, Concept, Cue, Location, OrganTerm
from ctglip.reports.sharing import JOINTS, elided, sharing
from ctglip.reports.spelling import SHORTEST, Spelling
from ctglip.reports.trie import Trie, TrieMatch
from ctglip.reports.words import Forms, definite, normal_form, phrase, read_words
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import Organ, OrganDictionary

_FOLDER = Path(__file__).parent


class Lexicon:
    """Everything that the parser looks words up in, built once from the two dictionaries and this room's YAML.

    Attributes:
        data: ``cues.yaml``; ``lists`` its short lists of words by name.
        measuring: first words of the attributes that are measured: "size", "wall thickness".
        elliptical: words that point back to the sentence before.
        perception: words such as "seen", that deny what stands before them when "not" does.
        side_of: gives the side of an organ, None for None and where it has none.
    """

    def __init__(self, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
        self.organs = organs
        self.abnormalities = abnormalities
        self.data = read_yaml(_FOLDER / "cues.yaml")
        self.lists = word_lists(self.data)
        measures = [text for entry in self.data["measures"].values() for text in entry["words"]]
        self.measuring, self.elliptical, self.perception = (
            frozenset(phrase(text)[0] for text in texts)
            for texts in (measures, self.data["elliptical"], self.data["perception"])
        )
        known = read_yaml(_FOLDER / "observations.yaml")
        self.observations: dict[str, dict[str, Any]] = known["observations"]
        self.structures: dict[str, dict[str, Any]] = {
            name: entry for name, entry in known["structures"].items() if entry["organ"] in organs
        }
        self._stations: dict[str, str] = {location: to for location, to in known["stations"].items() if to in organs}
        self._no_locations: list[str] = known["no_places"]
        self._bones_of: dict[str, str] = {location: to for location, to in known["bones_of"].items() if to in organs}
        self._near_groups = [frozenset(groups) for groups in known["near_groups"]]
        lists = ("vague", "describing", "aspects", "topical", "proper")
        self.vague, self.describing, self.aspects, self._topical, self._proper = (frozenset(known[k]) for k in lists)
        self._bare: dict[str, str] = {name: to for name, to in known["bare"].items() if to in abnormalities}
        self._weak = {phrase(text) for text in known["weak"]}
        self._head_words = {phrase(text)[0] for text in known["heads"]}
        self.locations, self.concepts, self.cues, self.levels, self.measures = tries = tuple(Trie() for _ in range(5))
        self.cues.skipped = self.lists["adverb"]
        self._in: dict[tuple[str, str], str] = {}
        self._heads: dict[tuple[str, ...], str] = {}
        self.alone: dict[str, str | None] = {}
        self._add_locations()
        self._add_observations()
        for text in known["mute"]:
            self.concepts.add(phrase(text), Concept("mute", text))
        self._add_abnormalities()
        self.compounds = add_compounds(self.concepts, abnormalities.names)
        self.compounded = frozenset(words[0] for words in self.compounds)
        add_cues(self.data, self.cues, self.concepts)
        add_measures(self.data, self.measures, self.levels)
        self._expansion = add_abbreviations(self.concepts, self.locations, abnormalities.names, organs.names)
        named, spelled = {*self.locations.words, *self.concepts.words, *SIDES}, map(normal_form, self.data["spelled"])
        self.spelling = Spelling({word for trie in tries for word in trie.words}, spelled, named)
        self._form = Forms(self._mended).__getitem__
        self.resolve = cache(self._resolve)
        self.term_of = cache(self.term_of)
        self.station = cache(self.station)
        self.pair_of = cache(self.pair_of)
        self.inside = cache(self.inside)
        self.side_of = {None: None, **{name: organ.side for name, organ in organs.organs.items()}}.__getitem__
        self.home_of = cache(self.home_of)
        self.is_nodal = cache(self.is_nodal)
        self.head_of = cache(self.head_of)
        self.fits = cache(self.fits)
        self._near = self._near_organs()

    def _mended(self, word: str) -> str:
        if self._expansion.is_exact(word):
            return word
        word = normal_form(word)
        return word if len(word) < SHORTEST else self.spelling.correct(word)

    def read(self, text: str) -> tuple[list[str], frozenset[int]]:
        """The words of a text with slips of one letter mended, and those that a hyphen ties to the one before."""
        return self._expansion.apply(*read_words(text, self._form))

    def definite(self, text: str) -> frozenset[int]:
        """Indices, among the words that ``read`` gives, of those right behind "the", "this" and "these"."""
        return self._expansion.apply(read_words(text, self._form)[0], definite(text, self._form))[1]

    # --- organs

    def _add_locations(self) -> None:
        for text in self._no_locations:
            self.locations.add(phrase(text), OrganTerm.of(None))
        for name, structure in self.structures.items():
            for text in structure["phrases"]:
                term = self.term_of(structure["organ"])._replace(structure=name)
                self.locations.add(phrase(text), term)
        described = [organ for organ in self.organs.organs.values() if organ.anatomy and organ.name != "body"]
        for organ in described:
            for text in (organ.name, *organ.phrases):
                self.locations.add(phrase(text), self._term(organ, False))
        for organ in described:
            for text in organ.adjectives:
                if phrase(text)[0] in SIDES and len(phrase(text)) > 1 and self.organs.mirror(organ.name) != organ.name:
                    continue  # read by its side, so that "left renal vein" is no "left renal"
                near = text.startswith(("peri", "para")) and not organ.name.startswith(text[:4])
                self.locations.add(phrase(text), self._term(organ, True)._replace(near=near))
        for organ in described:
            if organ.side is not None:
                self._add_unsided(organ, organ.side)
        for words in self._weak:
            term = self.locations.get(words)
            if term is not None:
                self.locations.add(words, term._replace(weak=True), replace=True)

    def find_locations(self, words: Sequence[str]) -> list[TrieMatch]:
        """Organ phrases, and words such as "paraduodenal" that stand for what is next to an organ."""
        found = self.locations.find(words)
        named = [hit for hit in found if hit.start and hit.end - hit.start > 1]
        near = not self._near.keys().isdisjoint(words)
        if named or near:
            covered = {i for start, end, _ in found for i in range(start, end)}
            more = [location for hit in named for location in elided(words, hit, covered, self.locations)]
            beside = (
                [(i, word) for i, word in enumerate(words) if word in self._near and i not in covered] if near else ()
            )
            more += [TrieMatch(i, i + 1, self._near[word]) for i, word in beside]
            if more:
                found = sorted([*found, *more], key=itemgetter(0, 1))
        return [hit for hit in found if hit.value.organs]

    def find_cues(self, words: Sequence[str]) -> list[Cue]:
        """Cues, the longest that begins at each word."""
        return [Cue(start, end, *value) for start, end, value in self.cues.find(words)]

    def find_concepts(self, words: Sequence[str]) -> list[TrieMatch]:
        """Phrases of what is seen, and adjectives that share their noun: "epidural" in "epidural or subdural bleed"."""
        found = self.concepts.find(words)
        listed = [m for m in found if m.end - m.start > 1 and m.start > 1 and words[m.start - 1] in JOINTS]
        if not listed:
            return found
        covered = {i for hit in found for i in range(hit.start, hit.end)}
        shared = [m for hit in listed for m in sharing(words, hit, covered, self.concepts, self.locations)]
        return sorted((*found, *shared), key=lambda hit: hit[:2]) if shared else found

    def _near_organs(self) -> dict[str, OrganTerm]:
        """Long words such as "paraduodenal" that stand for what is next to an organ."""
        found: dict[str, OrganTerm] = {}
        single = {word: term for word in self.locations.words if (term := self.locations.get((word,))) is not None}
        for prefix in _PREFIXES:
            for word, term in single.items():
                if term.structure is None and len(prefix) + len(word) > 8:
                    found.setdefault(prefix + word, term._replace(near=True))
        return found

    def inside(self, organs: frozenset[str]) -> frozenset[str]:
        """The parts of some organs."""
        return frozenset().union(*map(self.organs.parts_of, organs))

    def term_of(self, organ: str) -> OrganTerm:
        """What an organ of that name is by side."""
        return self._term(self.organs[organ], False)

    def pair_of(self, term: OrganTerm) -> OrganTerm | None:
        """The same organ on either side, of a term with or without one; None where it has no sides."""
        if term.left and term.right:
            return term
        organ = self.organs[term.organ] if term.organ else None
        if organ is None or organ.side is None or self.organs.mirror(organ.name) == organ.name:
            return None
        left, right = (self.organs.on_side(organ.name, side) for side in ("left", "right"))
        return OrganTerm.of(None, left, right)

    def _term(self, organ: Organ, adjective: bool) -> OrganTerm:
        if organ.side is not None:
            return OrganTerm.of(organ.name, adjective=adjective)
        left, right = (self.organs.on_side(organ.name, side) for side in ("left", "right"))
        return OrganTerm.of(organ.name, left, right, adjective)

    def _add_unsided(self, organ: Organ, side: str) -> None:
        """ "left subclavian artery" makes "subclavian artery" known, with the side to be found around it."""
        other = self.organs.mirror(organ.name)
        if other == organ.name:
            return
        pair = {side: organ.name, "right" if side == "left" else "left": other}
        containers = self.organs.containing(organ.name) & self.organs.containing(other)
        nearest = min(containers, key=lambda name: (len(self.organs.parts_of(name)), name), default=None)
        for adjective, texts in ((False, organ.phrases), (True, organ.adjectives)):
            for text in texts:
                words = phrase(text)
                if side in words:
                    bare = tuple(word for word in words if word != side)
                    known = self.locations.get(bare)
                    vaguer = known is not None and known.organ == nearest
                    term = OrganTerm.of(nearest, pair["left"], pair["right"], adjective)
                    self.locations.add(bare, term, replace=vaguer)

    # --- observations and abnormalities

    def _add_observations(self) -> None:
        for structure, entry in self.structures.items():
            for observation, abnormality in entry.get("in", {}).items():
                if abnormality in self.abnormalities:
                    self._in[observation, structure] = abnormality
        for key, entry in self.observations.items():
            for text in entry["phrases"]:
                self.concepts.add(phrase(text), Concept("observation", key))
                self._heads.setdefault(phrase(text), key)
            self.alone[key] = entry.get("alone") if entry.get("alone") in self.abnormalities else None
            for organ, abnormality in (entry.get("in") or {}).items():
                known = organ in self.organs or organ in self.structures
                if known and abnormality in self.abnormalities:
                    self._in[key, organ] = abnormality
        self._defined = frozenset(self._in)

    def _add_abnormalities(self) -> None:
        for name, entry in self.abnormalities.abnormalities.items():
            for text in (name, entry.display, *entry.synonyms):
                words = phrase(text)
                known = self.concepts.get(words)
                derived = known is not None and known[0] == "observation" and known[1] not in self.observations
                self.concepts.add(words, Concept("abnormality", name), replace=derived)
                self._add_head(words, name)

    def _add_head(self, words: tuple[str, ...], abnormality: str) -> None:
        """From "renal cyst": a "cyst" in the kidneys is a renal_cyst."""
        spans = self.locations.find(words)
        if len(spans) != 1:
            return
        span = spans[0]
        rest = tuple(word for word in words[: span.start] + words[span.end :] if word not in _EMPTY)
        if not rest or rest[-1] not in self._head_words:
            return
        key = self._heads.get(rest)
        if key is None and any(m.end == len(rest) for m in self.concepts.find(rest)):
            return  # its last words say it already
        if key is None:
            key = self._heads.setdefault(rest, " ".join(rest))
            self.concepts.add(rest, Concept("observation", key))
        term: OrganTerm = span.value
        if (key, term.structure or term.organ) in self._defined:
            return  # this room says itself what it is there
        for location in {term.structure} if term.structure else term.organs:
            self._in.setdefault((key, location), abnormality)

    def head_of(self, words: tuple[str, ...]) -> Concept | None:
        """What an abnormality's phrase says when its organ is taken out: "pleural effusion" is an effusion."""
        rest = words
        for span in reversed(self.locations.find(words)):
            rest = rest[: span.start] + rest[span.end :]
        return self.concepts.get(tuple(word for word in rest if word not in _EMPTY))

    def _resolve(self, kind: str, key: str, organ: str, structure: str | None = None) -> tuple[str, str] | None:
        """(abnormality, organ) of an observation or abnormality in an organ, or None when they do not fit."""
        name = self._in.get((key, structure or ""))
        if name is not None:
            return name, self._fit(name, organ) or self._home(name, organ)
        if kind == "abnormality":
            return self._as_abnormality(key, organ)
        for location in (organ, *sorted(self.organs.containing(organ), key=lambda w: len(self.organs.parts_of(w)))):
            name = self._in.get((key, location))
            if name is None:
                continue
            fitting = self._fit(name, organ)
            if fitting or self.organs[organ].group == self.organs[location].group:
                return name, fitting or self._home(name, organ)
        anywhere = self._in.get((key, "body"))
        return (anywhere, organ) if anywhere else None

    def _as_abnormality(self, name: str, organ: str) -> tuple[str, str] | None:
        fitting = self._fit(name, organ)
        return (self.abnormalities.specialise(name, fitting), fitting) if fitting else None

    def general(self, name: str, organ: str) -> tuple[str, str] | None:
        """An abnormality of another organ by its general word: a "millimetric nodule" in the thyroid is a nodule."""
        if name in self._proper:
            return None
        implied = self.abnormalities[name].implied
        found = (self._as_abnormality(other, organ) for other in (implied.by if implied else ()))
        return next((pair for pair in found if pair), None)

    def _home(self, abnormality: str, organ: str) -> str:
        """The abnormality's own organ, on the side of the location that was named."""
        home = self.abnormalities[abnormality].default_organ
        side = self.organs[organ].side
        return self.organs.on_side(home, side) if side else home

    def sides_of(self, location: Location) -> frozenset[str]:
        """The sides that the words give a location, else the side of its organ."""
        side = None if location.sides else self.side_of(location.term.organ)
        return location.sides or (frozenset({side}) if side else NO_SIDE)

    def abnormality_of(self, concept: Concept) -> str | None:
        """The abnormality that a concept means where no organ is named, if it means one."""
        meant = self._bare if concept.kind == "abnormality" else self.alone
        return meant.get(concept.name, concept.name if meant is self._bare else None)

    def home_of(self, concept: Concept) -> str | None:
        """The organ of a concept whose words name none, where it has one."""
        name = self.abnormality_of(concept)
        return self.abnormalities[name].default_organ if name else None

    def same_side(self, organ: str, other: str) -> bool:
        """Whether a side of one organ is the other's too: a pleural effusion "in the right lung"."""
        groups = {self.organs[organ].group, self.organs[other].group}
        return len(groups) == 1 or any(groups <= near for near in self._near_groups)

    def is_nodal(self, concept: Concept) -> bool:
        """Whether it is an abnormality of lymph nodes."""
        return concept.kind == "abnormality" and self.abnormalities[concept.name].default_organ == "lymph_nodes"

    @cached_property
    def lungs(self) -> frozenset[str]:
        """The lungs and their lobes."""
        return frozenset({"lungs", *self.organs.parts_of("lungs")}) if "lungs" in self.organs else frozenset()

    @cached_property
    def node_organs(self) -> frozenset[str]:
        """Lymph nodes, of every station."""
        return self.organs.parts_of("lymph_nodes") if "lymph_nodes" in self.organs else frozenset()

    def station(self, term: OrganTerm) -> OrganTerm | None:
        """The lymph nodes of a location, or None where it has none of their own."""
        for organ in (term.organ, *sorted(self.organs.containing(term.organ))) if term.organ else ():
            if organ == "lymph_nodes":
                return term._replace(near=False) if term.organ != "lymph_nodes" else None
            if organ in self._stations:
                return self.term_of(self._stations[organ])
        return None

    @cached_property
    def organless(self) -> frozenset[str]:
        """Abnormalities that do not tell their organ ("cyst", "calcification"): an organ implies a subtype of them."""
        entries = self.abnormalities.abnormalities.values()
        implying = {general for entry in entries if entry.implied for general in entry.implied.by}
        return frozenset(implying | {entry.name for entry in entries if entry.default_organ == "body"})

    def takes_topic(self, concept: Concept) -> bool:
        """Whether a bare word for it means the organ spoken of before: a "nodule", not a "catheter"."""
        if concept.kind == "observation":
            return self.observations.get(concept.name, {}).get("topic", True)
        kinds = {concept.name, *self.abnormalities.ancestors(concept.name)}
        homed = self.abnormalities[concept.name].default_organ != "body"
        return homed or not kinds.isdisjoint(self._topical)

    def _fit(self, abnormality: str, organ: str) -> str | None:
        """The organ of an abnormality that a named location means: itself, or the organ inside it."""
        entry = self.abnormalities[abnormality]
        bones = self._bones_of.get(organ) if entry.default_organ == "bones" else None
        if bones is not None:
            return bones  # a "pelvic fracture" is of its bones
        if organ in entry.organs or entry.default_organ == "body":
            return organ
        inside = self.organs.parts_of(organ)
        if entry.default_organ in inside:
            return entry.default_organ
        return next((name for name in entry.organs if name in inside), None)

    def meaning(self, concept: Concept, organ: str, structure: str | None) -> tuple[str, str] | None:
        """(abnormality, organ) of a concept in an organ or a part of it, or None where they do not fit."""
        found = self.resolve(concept.kind, concept.name, organ, structure)
        return found or (self.general(concept.name, organ) if concept.general else None)

    def fits(self, concept: Concept, term: OrganTerm) -> bool:
        """Whether a concept can be in one of the organs of a term."""
        if self.is_nodal(concept):
            return self.station(term) is not None or term.organ == "lymph_nodes"
        if (term.structure or "").endswith(STATION):
            return False
        return any(self.meaning(concept, organ, term.structure) for organ in term.organs)


_PREFIXES = ("para", "peri", "retro", "supra", "infra", "sub", "inter", "intra", "trans", "juxta", "pre", "pleuro")
_EMPTY = frozenset({"of", "in", "on", "at", "with", "and", "or", "to", "for", "left", "right", "both", "bilateral"})
