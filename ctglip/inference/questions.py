"""A question in words to organs and abnormalities, through the dictionaries and the report parser.

``liver: fatty liver`` names both; ``gallstones?`` leaves the organ to the dictionary; ``anything abnormal in the left
kidney?`` asks for everything that the organ can have, ``any abnormality?`` for everything. Names of the dictionaries
are looked up first; what they leave over is read as a sentence of a report would be. "No gallstones" asks about
gallstones. A word that is neither known nor plain is never passed over, and a slip is never mended in silence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

from ctglip.errors import VocabularyError
from ctglip.inference.question_words import DENYING, GENERAL, MEASURE, PHRASES, PLAIN, UNASKED
from ctglip.inference.scoring import Dictionaries
from ctglip.reports.findings import StatedOrgan, read_sentence
from ctglip.reports.parser import get_parser
from ctglip.reports.sentence import Sentence
from ctglip.reports.words import normal_form, phrase
from ctglip.vocabulary.abnormalities import Abnormality
from ctglip.vocabulary.organs import Organ, Side

T = TypeVar("T")
_LONGEST = 8
_JOINED = re.compile(r"\s*(?:[,;?]|\band\b|\bor\b|\bbut\b)\s*", re.IGNORECASE)

_IN_BOTH = re.compile(r"(.*\b(?:in|of|to|on|within)\s)(.+?)\s+(?:and|or)\s+(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Ask:
    """One thing that is asked.

    Attributes:
        organs: the organs it is about: one, or both sides where the words name none; empty: all that are known.
        abnormality: name, or None for "anything abnormal".
        denied: it was asked as its absence: "no gallstones".
    """

    organs: tuple[str, ...]
    abnormality: str | None
    denied: bool = False


@dataclass(frozen=True)
class Understood:
    """A question in natural words understood.

    Attributes:
        text: as asked.
        pairs: what it asks, in the order of its words.
        unasked: its words that no answer speaks of: "large".
    """

    text: str
    pairs: tuple[Ask, ...]
    unasked: tuple[str, ...] = ()


def understand(text: str, dictionaries: Dictionaries, known_organs: Collection[str] = ()) -> Understood:
    """Understand a question in natural words: one finding, several, an organ, or everything.

    Args:
        text: ``organ: abnormality``, or words that name an organ, abnormalities, or both.
        dictionaries: where names and synonyms come from.
        known_organs: organs that can be answered about: a pair (``kidneys``) that is not among them is asked about
            side by side where its sides are.

    Raises:
        VocabularyError: code ``unknown_question``: no organ or abnormality in it, a word that is neither, or an
            abnormality that the organ cannot have; with the nearest names.
    """
    words = _words(text)
    unasked = tuple(word for word in words if _unasked(word))
    if words and GENERAL.intersection(words) and all(_plain(word) for word in words):
        return Understood(text, (Ask((), None),), unasked)
    pairs = _pairs_in(text, dictionaries)
    if not pairs:
        raise _not_understood(text, text, dictionaries)
    spoken = [phrase_of(ask, dictionaries) for ask in pairs]
    unasked = tuple(word for word in unasked if not any(word in name for name in spoken))
    placed = tuple(replace(ask, organs=_sides(ask.organs, dictionaries, known_organs)) for ask in pairs)
    return Understood(text, placed, unasked)


def organ_in(text: str, dictionaries: Dictionaries, known_organs: Collection[str] = ()) -> tuple[tuple[str, ...], str]:
    """The organ that a sentence of one's own is about, and the sentence: ``liver: It shows a large mass.``

    Raises:
        VocabularyError: code ``unknown_question``: no organ before a colon, and not one alone in the sentence.
    """
    head, colon, tail = text.partition(":")
    organ = _entire_text(head, dictionaries.organs.find) if colon else None
    if organ is not None and tail.strip():
        return _sides((organ.name,), dictionaries, known_organs), tail.strip()
    rows = read_sentence(text, get_parser(dictionaries.organs, dictionaries.abnormalities).lexicon).rows
    named = tuple(dict.fromkeys(row.organ for row in rows if row.organ))
    if len(named) != 1:
        raise VocabularyError(
            f"{text!r} names {'no organ' if not named else 'several organs'}.",
            code="unknown_question",
            fix='Write the organ before a colon: "liver: The liver shows a large mass."',
        )
    return _sides(named, dictionaries, known_organs), text


def phrase_of(ask: Ask, dictionaries: Dictionaries) -> str:
    """What is asked, in the dictionaries' words."""
    if ask.abnormality is None:
        return "anything abnormal"
    return dictionaries.abnormalities[ask.abnormality].display


def _pairs_in(text: str, dictionaries: Dictionaries) -> list[Ask]:
    """By names; where they leave words over, part by part, and as a sentence."""
    try:
        return [_looked_up(text, dictionaries)]
    except VocabularyError as error:
        several = _shared(text, dictionaries) or _several(text, dictionaries)
        several = several or ([] if ":" in text else _read(text, dictionaries))
        if not several:
            raise error
        return several


def _looked_up(text: str, dictionaries: Dictionaries) -> Ask:
    organs, abnormality, rest = _parts(text, dictionaries)
    denied = not DENYING.isdisjoint(rest)
    if abnormality is None:
        if len(organs) != 1:
            raise _not_understood(text, text, dictionaries)
        return Ask((organs[0].name,), None)
    organs = organs or [dictionaries.organs[abnormality.default_organ]]
    names = [dictionaries.abnormalities.specialise(abnormality.name, organ.name) for organ in organs]
    for organ, name in zip(organs, names, strict=True):
        _check_pair(text, organ, dictionaries.abnormalities[name], dictionaries)
    if len(set(names)) > 1:  # a cyst of the liver and one of the kidney are two
        raise _not_understood(text, text, dictionaries)
    return Ask(tuple(organ.name for organ in organs), names[0], denied)


def _shared(text: str, dictionaries: Dictionaries) -> list[Ask]:
    """ "A cyst in the liver or the left kidney": one finding in two organs; nothing otherwise."""
    found = _IN_BOTH.fullmatch(text)
    if found is None or any(_entire_text(found[n], dictionaries.organs.find) is None for n in (2, 3)):
        return []
    try:
        return [_looked_up(found[1] + found[n], dictionaries) for n in (2, 3)]
    except VocabularyError:
        return []


def _several(text: str, dictionaries: Dictionaries) -> list[Ask]:
    """Parts between commas, "and" and "or", where each asks for an abnormality; nothing otherwise."""
    head, colon, tail = text.rpartition(":")
    parts = [part for part in _JOINED.split(tail) if _words(part)]
    if len(parts) < 2:
        return []
    found: list[Ask] = []
    placed: set[bool] = set()
    for part in parts:
        try:
            pairs = [_looked_up(f"{head}{colon}{part}", dictionaries)]
            placed.add(bool(_parts(f"{head}{colon}{part}", dictionaries)[0]))
        except VocabularyError:
            pairs = [] if colon else _read(part, dictionaries)
        if not pairs or any(ask.abnormality is None for ask in pairs):
            return []
        found += pairs
    if len(placed) > 1:  # "stone or cyst in the right kidney": the organ is that of both
        return []
    denying = not DENYING.isdisjoint(_words(parts[0]))
    return [replace(ask, denied=True) for ask in found] if denying else found


def _read(text: str, dictionaries: Dictionaries) -> list[Ask]:
    """The question read as a sentence of a report; nothing where a word of it means nothing there."""
    lexicon = get_parser(dictionaries.organs, dictionaries.abnormalities).lexicon
    plain = " ".join(word for word in re.findall(r"[\w'/-]+|[,;]", text) if word.lower() not in PLAIN - _KEPT)
    plain = PHRASES.sub("no ", plain)
    slips = [word for word in _words(plain) if lexicon.spelling.correct(normal_form(word)) != normal_form(word)]
    if slips or not plain:
        return []
    sentence = Sentence(plain, lexicon)
    spans = [(mention.start, mention.end) for mention in sentence.mentions]
    spans += [(part.start, part.end) for part in (*sentence.locations, *sentence.cues)]
    meant = {number for start, end in spans for number in range(start, end)}
    known = {form for word in (*PLAIN, *UNASKED, *DENYING, *get_args(Side)) for form in phrase(word)}
    over = [word for n, word in enumerate(sentence.words) if n not in meant and word.isalnum()]
    rows = [row for row in read_sentence(plain, lexicon).rows for row in _placed(row)]
    named = [row for row in rows if row.abnormality]
    if not named or any(word not in known and not MEASURE.fullmatch(word) for word in over):
        return []
    if _left_out(sentence, {str(row.organ) for row in named}, dictionaries):
        return []
    pairs = [Ask((str(row.organ),), row.abnormality, row.status == "negated") for row in named]
    return list(dict.fromkeys(pairs))


def _left_out(sentence: Sentence, covered: set[str], dictionaries: Dictionaries) -> bool:
    """Whether the words name an organ that the rows say nothing of; a region of the body ("abdomen") may be one."""
    organs = dictionaries.organs
    for location in sentence.locations:
        inside = any(mention.start <= location.start and location.end <= mention.end for mention in sentence.mentions)
        around = {
            name
            for named_organ in location.term.organs
            for name in (named_organ, *organs.parts_of(named_organ), *organs.containing(named_organ))
        }
        region = any(organs[named_organ].group in ("regions", "body_wall") for named_organ in location.term.organs)
        if not inside and not region and covered.isdisjoint(around):
            return True
    return False


_KEPT = frozenset("a an and or in of on with the".split())  # noqa: SIM905
"""Plain words that the parser reads."""


def _placed(row: StatedOrgan) -> tuple[StatedOrgan, ...]:
    """A row that has an organ; of one that seeks it in the sentences before, what it is without them."""
    if row.organ is not None:
        return (row,)
    return tuple(other for other in row.otherwise if other.organ is not None)


def _parts(text: str, dictionaries: Dictionaries) -> tuple[list[Organ], Abnormality | None, list[str]]:
    """The organs and the abnormality that a text names, and its other words."""
    head, colon, tail = text.partition(":")
    organs: list[Organ] = []
    if colon:
        organ = _entire_text(head, dictionaries.organs.find)
        if organ is None:
            raise _not_understood(text, head, dictionaries, abnormalities=False)
        abnormality, rest = _longest(_words(tail), dictionaries.abnormalities.find)
        organs.append(organ)
    else:
        abnormality, rest = _longest(_words(text), dictionaries.abnormalities.find)
        organ, rest = _longest(rest, dictionaries.organs.find)
        while organ is not None:
            organs.append(organ)
            organ, rest = _longest(rest, dictionaries.organs.find) if abnormality is not None else (None, rest)
        if not organs and abnormality is not None:
            organ, rest = _sided(abnormality, rest, dictionaries)
            organs = [organ] if organ is not None else []
    unknown = [word for word in rest if not _plain(word) or (abnormality is None and _unasked(word))]
    if unknown:
        raise _not_understood(text, " ".join(unknown), dictionaries)
    return organs, abnormality, rest


def _plain(word: str) -> bool:
    return word in PLAIN or word in DENYING or _unasked(word)


def _unasked(word: str) -> bool:
    return word in UNASKED or MEASURE.fullmatch(word) is not None


def _sided(abnormality: Abnormality, rest: list[str], dictionaries: Dictionaries) -> tuple[Organ | None, list[str]]:
    """ "left pleural effusion": the side that stands alone names the side of the abnormality's own organ."""
    sides: list[Side] = [side for side in get_args(Side) if side in rest]
    if len(sides) != 1:
        return None, rest
    organ = dictionaries.organs[dictionaries.organs.on_side(abnormality.default_organ, sides[0])]
    if organ.side is None:
        return None, rest
    return organ, [word for word in rest if word != sides[0]]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'/-]+", text.lower().replace("_", " "))


def _entire_text(text: str, find: Callable[[str], T | None]) -> T | None:
    words = _words(text)
    found, rest = _longest(words, find)
    return found if not [word for word in rest if not _plain(word)] else None


def _longest(words: list[str], find: Callable[[str], T | None]) -> tuple[T | None, list[str]]:
    """The longest run of words that is known, and the words around it."""
    for length in range(min(_LONGEST, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            run = words[start : start + length]
            if length == 1 and run[0] in PLAIN:
                continue
            for spelling in _spellings(run):
                found = find(spelling)
                if found is not None:
                    return found, words[:start] + words[start + length :]
    return None, words


def _spellings(run: list[str]) -> list[str]:
    """The words as they are, and with the last one in the singular."""
    text = " ".join(run)
    last = run[-1]
    singular = [last[:-3] + "y"] if last.endswith("ies") else []
    singular += [last[:-2]] if last.endswith("es") else []
    singular += [last[:-1]] if last.endswith("s") else []
    return [text, *(" ".join([*run[:-1], word]) for word in singular if word)]


def _check_pair(text: str, organ: Organ, abnormality: Abnormality, dictionaries: Dictionaries) -> None:
    if organ.name in abnormality.organs:
        return
    where = [dictionaries.organs[name].display for name in abnormality.organs[:6]]
    raise VocabularyError(
        f"{text!r}: {abnormality.display} is not an abnormality of the {organ.display}.",
        code="unknown_question",
        fix=f"It belongs to: {', '.join(where)}.",
    )


def _sides(organs: Sequence[str], dictionaries: Dictionaries, known: Collection[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in organs:
        sides = [dictionaries.organs.on_side(name, side) for side in ("left", "right")]
        covered = not known or name in known or dictionaries.organs[name].side is not None
        found += [name] if covered else [side for side in sides if side in known] or [name]
    return tuple(dict.fromkeys(found))


def _not_understood(text: str, words: str, dictionaries: Dictionaries, abnormalities: bool = True) -> VocabularyError:
    phrases = [phrase for organ in dictionaries.organs.organs.values() for phrase in organ.phrases]
    if abnormalities:
        phrases += [p for entry in dictionaries.abnormalities.abnormalities.values() for p in entry.phrases]
    near = difflib.get_close_matches(" ".join(_words(words)), phrases, n=3, cutoff=0.5)
    what = "an organ" if not abnormalities else "an organ or abnormality"
    return VocabularyError(
        f"{text!r}: {words.strip()!r} is not {what} of the dictionaries.",
        code="unknown_question",
        fix=f"Did you mean: {', '.join(near)}?" if near else 'Ask "liver: hepatic steatosis" or "gallstones?".',
    )
