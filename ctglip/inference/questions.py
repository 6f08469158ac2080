"""A question in words to an organ and an abnormality, through the dictionaries.

``liver: fatty liver`` names both; ``gallstones?`` leaves the organ to the dictionary; ``anything abnormal in the left
kidney?`` asks for everything that the organ can have.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar, get_args

from ctglip.errors import VocabularyError
from ctglip.inference.scoring import Dictionaries
from ctglip.vocabulary.abnormalities import Abnormality
from ctglip.vocabulary.organs import Organ, Side

T = TypeVar("T")
_LONGEST = 8
_PLAIN = frozenset(
    """
    a an and any anything abnormal abnormality abnormalities are can ct do does evidence finding findings for has have
    here image in is it look looks normal of on or patient present problem scan see seen show shows sign signs
    something the there this visible what with within wrong you
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Question:
    """A question understood.

    Attributes:
        text: as asked.
        organs: the organs it is about: one, or both sides where the words name none.
        abnormality: name, or None for "anything abnormal".
    """

    text: str
    organs: tuple[str, ...]
    abnormality: str | None


def parse_question(text: str, dictionaries: Dictionaries, known_organs: Collection[str] = ()) -> Question:
    """Understand a question.

    Args:
        text: ``organ: abnormality``, or free words that name an organ, an abnormality, or both.
        dictionaries: where names and synonyms come from.
        known_organs: organs that can be answered about: a pair (``kidneys``) that is not among them is asked about
            side by side where its sides are.

    Raises:
        VocabularyError: code ``unknown_question``: no organ or abnormality in it, a word that is neither, or an
            abnormality that the organ cannot have; with the nearest names.
    """
    organ, abnormality = _parts(text, dictionaries)
    if organ is None and abnormality is None:
        raise _not_understood(text, text, dictionaries)
    name = None
    if abnormality is not None:
        organ = organ or dictionaries.organs[abnormality.default_organ]
        name = dictionaries.abnormalities.specialise(abnormality.name, organ.name)
        _check_pair(text, organ, dictionaries.abnormalities[name], dictionaries)
    assert organ is not None
    return Question(text, _sides(organ, dictionaries, known_organs), name)


def _parts(text: str, dictionaries: Dictionaries) -> tuple[Organ | None, Abnormality | None]:
    head, colon, tail = text.partition(":")
    if colon:
        organ = _whole(head, dictionaries.organs.find)
        if organ is None:
            raise _not_understood(text, head, dictionaries, abnormalities=False)
        abnormality, rest = _longest(_words(tail), dictionaries.abnormalities.find)
    else:
        abnormality, rest = _longest(_words(text), dictionaries.abnormalities.find)
        organ, rest = _longest(rest, dictionaries.organs.find)
        if organ is None and abnormality is not None:
            organ, rest = _sided(abnormality, rest, dictionaries)
    unknown = [word for word in rest if word not in _PLAIN]
    if unknown:
        raise _not_understood(text, " ".join(unknown), dictionaries)
    return organ, abnormality


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


def _whole(text: str, find: Callable[[str], T | None]) -> T | None:
    words = _words(text)
    found, rest = _longest(words, find)
    return found if not [word for word in rest if word not in _PLAIN] else None


def _longest(words: list[str], find: Callable[[str], T | None]) -> tuple[T | None, list[str]]:
    """The longest run of words that is known, and the words around it."""
    for length in range(min(_LONGEST, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            run = words[start : start + length]
            if length == 1 and run[0] in _PLAIN:
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


def _sides(organ: Organ, dictionaries: Dictionaries, known: Collection[str]) -> tuple[str, ...]:
    if not known or organ.name in known or organ.side is not None:
        return (organ.name,)
    sides = [dictionaries.organs.on_side(organ.name, side) for side in ("left", "right")]
    return tuple(side for side in sides if side in known) or (organ.name,)


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
