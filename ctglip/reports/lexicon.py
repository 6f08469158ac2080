"""Phrases and what they mean: the dictionaries' organs and abnormalities, this room's cues and observations.

A ``Trie`` finds the longest phrases in a list of words. The ``Lexicon`` holds one for organs, one for what is seen
there, one for the words around them (negation, uncertainty, sides), and answers which abnormality an observation is
in an organ: "effusion" in the pleura is a pleural effusion, since the dictionary has the phrase "pleural effusion".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ctglip.files import read_yaml
from ctglip.reports.abbreviations import add_abbreviations, add_compounds
from ctglip.reports.sharing import JOINTS, elided, sharing
from ctglip.reports.spelling import SHORTEST, Spelling
from ctglip.reports.trie import Match, Trie
from ctglip.reports.where import SIDES, Where
from ctglip.reports.words import definite, normal_form, phrase, read_words
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import Organ, OrganDictionary

_HERE = Path(__file__).parent


class Lexicon:
    """Everything that the parser looks words up in, built once from the two dictionaries and this room's YAML."""

    def __init__(self, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
        self.organs = organs
        self.abnormalities = abnormalities
        self.cues = read_yaml(_HERE / "cues.yaml")
        self.words = {name: frozenset(words) for name, words in self.cues["words"].items()}
        self.words["deciding"] = self.words["quantity"] | {",", "and", ";", ":", "no"}
        seen = read_yaml(_HERE / "observations.yaml")
        self.observations: dict[str, dict[str, Any]] = seen["observations"]
        self.structures: dict[str, dict[str, Any]] = {
            name: entry for name, entry in seen["structures"].items() if entry["organ"] in organs
        }
        self._stations: dict[str, str] = {location: to for location, to in seen["stations"].items() if to in organs}
        self._nowhere: list[str] = seen["no_places"]
        self._bones_of: dict[str, str] = {location: to for location, to in seen["bones_of"].items() if to in organs}
        self._near_groups = [frozenset(groups) for groups in seen["near_groups"]]
        lists = ("vague", "describing", "aspects", "topical", "proper")
        self.vague, self.describing, self.aspects, self._topical, self._proper = (frozenset(seen[k]) for k in lists)
        self._weak = {phrase(text) for text in seen["weak"]}
        self._head_words = {phrase(text)[0] for text in seen["heads"]}
        self.locations, self.seen, self.signs, self.levels, self.measures = known = tuple(Trie() for _ in range(5))
        self._in: dict[tuple[str, str], str] = {}
        self._heads: dict[tuple[str, ...], str] = {}
        self.alone: dict[str, str | None] = {}
        self._add_locations()
        self._add_observations()
        for text in seen["mute"]:
            self.seen.add(phrase(text), ("mute", text))
        self._add_abnormalities()
        self.compounds = add_compounds(self.seen, abnormalities.names)
        self.compounded = frozenset(words[0] for words in self.compounds)
        self._add_signs()
        self._add_measures()
        self._expansion = add_abbreviations(self.seen, self.locations, abnormalities.names, organs.names)
        named, spelled = {*self.locations.words, *self.seen.words, *SIDES}, map(normal_form, self.cues["spelled"])
        self.spelling = Spelling({word for trie in known for word in trie.words}, spelled, named)
        self._form = lru_cache(maxsize=100_000)(self._mended)
        self.resolve = lru_cache(maxsize=65_536)(self._resolve)
        self.where = lru_cache(maxsize=1024)(self.where)
        self.station = lru_cache(maxsize=1024)(self.station)
        self.pair_of = lru_cache(maxsize=1024)(self.pair_of)
        self._beside = lru_cache(maxsize=65_536)(self._location_beside)

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
        for text in self._nowhere:
            self.locations.add(phrase(text), Where.of(None))
        for name, structure in self.structures.items():
            for text in structure["phrases"]:
                where = self.where(structure["organ"])._replace(structure=name)
                self.locations.add(phrase(text), where)
        described = [organ for organ in self.organs.organs.values() if organ.anatomy and organ.name != "body"]
        for organ in described:
            for text in (organ.name, *organ.phrases):
                self.locations.add(phrase(text), self._where(organ, False))
        for organ in described:
            for text in organ.adjectives:
                if phrase(text)[0] in SIDES and len(phrase(text)) > 1 and self.organs.mirror(organ.name) != organ.name:
                    continue  # read by its side, so that "left renal vein" is no "left renal"
                near = text.startswith(("peri", "para")) and not organ.name.startswith(text[:4])
                self.locations.add(phrase(text), self._where(organ, True)._replace(near=near))
        for organ in described:
            if organ.side is not None:
                self._add_unsided(organ, organ.side)
        for words in self._weak:
            where = self.locations.get(words)
            if where is not None:
                self.locations.add(words, where._replace(weak=True), replace=True)

    def find_locations(self, words: Sequence[str]) -> list[Match]:
        """Organ phrases, and words such as "paraduodenal" that stand for a place beside an organ."""
        found = self.locations.find(words)
        covered = {i for hit in found for i in range(hit.start, hit.end)}
        found += [location for hit in found for location in elided(words, hit, covered, self.locations)]
        near = [Match(i, i + 1, self._beside(w)) for i, w in enumerate(words) if len(w) > 8 and i not in covered]
        named = (hit for hit in (*found, *near) if hit.value and hit.value.organs)
        return sorted(named, key=lambda hit: hit[:2])

    def find_seen(self, words: Sequence[str]) -> list[Match]:
        """Phrases of what is seen, and adjectives that share their noun: "epidural" in "epidural or subdural bleed"."""
        found = self.seen.find(words)
        listed = [m for m in found if m.end - m.start > 1 and m.start > 1 and words[m.start - 1] in JOINTS]
        if not listed:
            return found
        covered = {i for hit in found for i in range(hit.start, hit.end)}
        shared = [m for hit in listed for m in sharing(words, hit, covered, self.seen, self.locations)]
        return sorted((*found, *shared), key=lambda hit: hit[:2]) if shared else found

    def _location_beside(self, word: str) -> Where | None:
        for prefix in _PREFIXES:
            where = self.locations.get((word[len(prefix) :],)) if word.startswith(prefix) else None
            if where is not None and where.structure is None:
                return where._replace(near=True)
        return None

    def where(self, organ: str) -> Where:
        """What an organ of that name is by side."""
        return self._where(self.organs[organ], False)

    def pair_of(self, where: Where) -> Where | None:
        """The same organ on either side, of a place with or without one; None where it has no sides."""
        if where.left and where.right:
            return where
        organ = self.organs[where.organ] if where.organ else None
        if organ is None or organ.side is None or self.organs.mirror(organ.name) == organ.name:
            return None
        left, right = (self.organs.on_side(organ.name, side) for side in ("left", "right"))
        return Where.of(None, left, right)

    def _where(self, organ: Organ, adjective: bool) -> Where:
        if organ.side is not None:
            return Where.of(organ.name, adjective=adjective)
        left, right = (self.organs.on_side(organ.name, side) for side in ("left", "right"))
        return Where.of(organ.name, left, right, adjective)

    def _add_unsided(self, organ: Organ, side: str) -> None:
        """ "left subclavian artery" makes "subclavian artery" known, with the side to be found around it."""
        other = self.organs.mirror(organ.name)
        if other == organ.name:
            return
        pair = {side: organ.name, "right" if side == "left" else "left": other}
        containers = self.organs.containing(organ.name) & self.organs.containing(other)
        nearest = min(containers, key=lambda whole: (len(self.organs.parts_of(whole)), whole), default=None)
        for adjective, texts in ((False, organ.phrases), (True, organ.adjectives)):
            for text in texts:
                words = phrase(text)
                if side in words:
                    bare = tuple(word for word in words if word != side)
                    known = self.locations.get(bare)
                    vaguer = known is not None and known.organ == nearest
                    where = Where.of(nearest, pair["left"], pair["right"], adjective)
                    self.locations.add(bare, where, replace=vaguer)

    # --- observations and abnormalities

    def _add_observations(self) -> None:
        for structure, entry in self.structures.items():
            for seen, abnormality in entry.get("in", {}).items():
                if abnormality in self.abnormalities:
                    self._in[seen, structure] = abnormality
        for key, entry in self.observations.items():
            for text in entry["phrases"]:
                self.seen.add(phrase(text), ("observation", key))
                self._heads.setdefault(phrase(text), key)
            self.alone[key] = entry.get("alone") if entry.get("alone") in self.abnormalities else None
            for organ, abnormality in (entry.get("in") or {}).items():
                known = organ in self.organs or organ in self.structures
                if known and abnormality in self.abnormalities:
                    self._in[key, organ] = abnormality
        self._told = frozenset(self._in)

    def _add_abnormalities(self) -> None:
        for name, entry in self.abnormalities.abnormalities.items():
            for text in (name, entry.display, *entry.synonyms):
                words = phrase(text)
                known = self.seen.get(words)
                derived = known is not None and known[0] == "observation" and known[1] not in self.observations
                self.seen.add(words, ("abnormality", name), replace=derived)
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
        if key is None and any(m.end == len(rest) for m in self.seen.find(rest)):
            return  # its last words say it already
        if key is None:
            key = self._heads.setdefault(rest, " ".join(rest))
            self.seen.add(rest, ("observation", key))
        where: Where = span.value
        if (key, where.structure or where.organ) in self._told:
            return  # this room says itself what it is there
        for location in {where.structure} if where.structure else where.organs:
            self._in.setdefault((key, location), abnormality)

    def head_of(self, words: tuple[str, ...]) -> tuple[str, str] | None:
        """What an abnormality's phrase says when its organ is taken out: "pleural effusion" is an effusion."""
        rest = words
        for span in reversed(self.locations.find(words)):
            rest = rest[: span.start] + rest[span.end :]
        return self.seen.get(tuple(word for word in rest if word not in _EMPTY)) if rest else None

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
        """The abnormality's own organ, on the side of the place that was named."""
        home = self.abnormalities[abnormality].default_organ
        side = self.organs[organ].side
        return self.organs.on_side(home, side) if side else home

    def home_of(self, kind: str, key: str) -> str | None:
        """The organ of a finding that names none, where it has one."""
        name = key if kind == "abnormality" and key in self.abnormalities else self.alone.get(key)
        return self.abnormalities[name].default_organ if name else None

    def same_side(self, organ: str, other: str) -> bool:
        """Whether a side said of one organ is the other's too: a pleural effusion "in the right lung"."""
        groups = {self.organs[organ].group, self.organs[other].group}
        return len(groups) == 1 or any(groups <= near for near in self._near_groups)

    @cached_property
    def nodal(self) -> frozenset[str]:
        """Abnormalities of lymph nodes."""
        entries = self.abnormalities.abnormalities.values()
        return frozenset(entry.name for entry in entries if entry.default_organ == "lymph_nodes")

    @cached_property
    def lungs(self) -> frozenset[str]:
        """The lungs and their lobes."""
        return frozenset({"lungs", *self.organs.parts_of("lungs")}) if "lungs" in self.organs else frozenset()

    @cached_property
    def node_organs(self) -> frozenset[str]:
        """Lymph nodes, of every station."""
        return self.organs.parts_of("lymph_nodes") if "lymph_nodes" in self.organs else frozenset()

    def station(self, where: Where) -> Where | None:
        """The lymph nodes of a place, or None where it has none of their own."""
        for organ in (where.organ, *sorted(self.organs.containing(where.organ))) if where.organ else ():
            if organ == "lymph_nodes":
                return where._replace(near=False) if where.organ != "lymph_nodes" else None
            if organ in self._stations:
                return self.where(self._stations[organ])
        return None

    def is_general(self, abnormality: str) -> bool:
        """Whether it says nothing about its organ ("cyst", "calcification"): some kind of it is implied by an organ."""
        return abnormality in self._general

    @cached_property
    def _general(self) -> frozenset[str]:
        entries = self.abnormalities.abnormalities.values()
        implying = {general for entry in entries if entry.implied for general in entry.implied.by}
        return frozenset(implying | {entry.name for entry in entries if entry.default_organ == "body"})

    def takes_topic(self, kind: str, key: str) -> bool:
        """Whether a bare word for it means the organ spoken of before: a "nodule", not a "catheter"."""
        if kind == "observation":
            return self.observations.get(key, {}).get("topic", True)
        kinds = {key, *self.abnormalities.ancestors(key)}
        somewhere = self.abnormalities[key].default_organ != "body"
        return somewhere or not kinds.isdisjoint(self._topical)

    def _fit(self, abnormality: str, organ: str) -> str | None:
        """The organ of an abnormality that a named place means: itself, or the organ inside that place."""
        entry = self.abnormalities[abnormality]
        bones = self._bones_of.get(organ) if entry.default_organ == "bones" else None
        if bones is not None:
            return bones  # a "pelvic fracture" is of its bones
        if organ in entry.organs or entry.default_organ == "body":
            return organ
        inside = self.organs.parts_of(organ)
        if entry.default_organ in inside:
            return entry.default_organ
        return next((own for own in entry.organs if own in inside), None)

    # --- words around them

    def _add_signs(self) -> None:
        cues = self.cues
        for kind in ("negation", "uncertainty", "history"):
            for location, texts in cues[kind].items():
                self._sign(texts, (kind, location))
        for text in cues["pathology"]:
            self.seen.add(phrase(text), ("pathology", text))
        for kind in ("pseudo", "exception", "break", "normal", "abnormal_than", "unassessable"):
            self._sign(cues[kind], (kind, None))
        for text in cues["normal"]:
            if phrase(text)[0] in ("no", "without", "nothing"):
                self.signs.add(phrase(text), ("normal", "before", None), replace=True)

    def _sign(self, texts: Iterable[str], value: tuple[str, str | None]) -> None:
        for text in texts:
            self.signs.add(phrase(text), (*value, None))

    def _add_measures(self) -> None:
        for name, entry in self.cues["measures"].items():
            for text in entry["words"]:
                self.measures.add(phrase(text), ("measure", name))
        for change in ("up", "down", "limit"):
            for text in self.cues[change]:
                self.measures.add(phrase(text), ("change", change))
        for text in self.cues["normal"]:
            self.measures.add(phrase(text), ("change", "normal"))
        for text in self.cues["unmeasured"]:
            self.measures.add(phrase(text), ("place", text))
        roots: dict[tuple[str, ...], frozenset[str]] = {}
        for organ, texts in self.cues["levels"].items():
            for text in [*texts, *(f"{text}s" for text in texts)]:
                roots[phrase(text)] = roots.get(phrase(text), frozenset()) | {organ}
            roots["segment",] = frozenset({"liver", "lungs"})
        for words, organs in roots.items():
            self.levels.add(words, organs)

    @cached_property
    def measuring(self) -> frozenset[str]:
        """First words of the attributes that are measured: "size", "wall thickness"."""
        return frozenset(phrase(text)[0] for entry in self.cues["measures"].values() for text in entry["words"])

    @cached_property
    def elliptical(self) -> frozenset[str]:
        """Words that point back to the sentence before."""
        return frozenset(phrase(text)[0] for text in self.cues["elliptical"])

    @cached_property
    def perception(self) -> frozenset[str]:
        """Words such as "seen", that deny what stands before them when "not" does."""
        return frozenset(phrase(text)[0] for text in self.cues["perception"])


_PREFIXES = ("para", "peri", "retro", "supra", "infra", "sub", "inter", "intra", "trans", "juxta", "pre", "pleuro")
_EMPTY = frozenset({"of", "in", "on", "at", "with", "and", "or", "to", "for", "left", "right", "both", "bilateral"})
