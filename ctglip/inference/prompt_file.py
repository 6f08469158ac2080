"""Prompts of one's own, from a YAML file.

::

    liver:hepatic_steatosis:              # or hepatic_steatosis: every organ it can have
      positive: [Fatty {organ}., The {organ} {is} hypodense.]
      negative: [The {organ} {has} normal density.]

Placeholders are those of ``vocabulary.prompts``; a side that is left out keeps the dictionary's prompts.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import RootModel

from ctglip.config import Settings
from ctglip.errors import ConfigError, VocabularyError
from ctglip.files import read_yaml
from ctglip.inference.scoring import Dictionaries, Pair, PromptSet
from ctglip.vocabulary.prompts import PLACEHOLDERS, fill


class CustomPrompts(Settings):
    """The prompts of one entry of the file."""

    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


class _File(RootModel[dict[str, CustomPrompts]]):
    pass


def read_prompts(path: Path, dictionaries: Dictionaries) -> dict[Pair, PromptSet]:
    """Prompts for each (organ, abnormality) that the file names; an empty tuple keeps the dictionary's.

    Raises:
        ConfigError: not such a file, or an unknown placeholder.
        VocabularyError: a name that the dictionaries do not hold, with the nearest ones.
    """
    try:
        entries = _File.model_validate(read_yaml(path)).root
    except ValueError as error:
        first = str(error).strip().splitlines()
        raise ConfigError(
            f"{path} is no prompt file: {' '.join(first[1:3]) or first[0]}.",
            fix="Write organ:abnormality: {positive: [...], negative: [...]}.",
        ) from error
    found: dict[Pair, PromptSet] = {}
    for name, phrases in entries.items():
        organ, colon, rest = name.partition(":")
        abnormality = dictionaries.abnormalities[rest if colon else name]
        organs = (dictionaries.organs[organ].name,) if colon else abnormality.organs
        if colon and organs[0] not in abnormality.organs:
            raise VocabularyError(f"{path}: {name}: {abnormality.display} is not an abnormality of the {organ}.")
        for each in organs:
            entry = dictionaries.organs[each]
            try:
                sides = [
                    tuple(fill(text, entry, abnormality) for text in side)
                    for side in (phrases.positive, phrases.negative)
                ]
            except (KeyError, ValueError, IndexError) as error:
                raise ConfigError(
                    f"{path}: {name}: unknown placeholder {error}.", fix=f"Known: {', '.join(sorted(PLACEHOLDERS))}."
                ) from error
            found[each, abnormality.name] = (sides[0], sides[1])
    return found
