"""Sentences from the dictionaries, with their placeholders filled.

Placeholders: ``{organ}`` display name of the organ ("right kidney", "lungs"); ``{side}`` "right", "left" or nothing;
``{is}``, ``{has}``, ``{shows}``, ``{contains}`` verbs in the organ's number; ``{abnormality}`` display name of the
abnormality.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from ctglip.config import Settings, validate
from ctglip.files import read_yaml
from ctglip.resources import resource
from ctglip.vocabulary.abnormalities import Abnormality
from ctglip.vocabulary.organs import Organ

_VERBS = {"is": "are", "has": "have", "shows": "show", "contains": "contain"}
PLACEHOLDERS = frozenset({"organ", "side", "abnormality", *_VERBS})


class OrganTemplates(Settings):
    """``organ_dictionary/templates.yaml``: sentences that name an organ."""

    version: int = 1
    prompts: tuple[str, ...]


class AbnormalityTemplates(Settings):
    """``abnormality_dictionary/templates.yaml``.

    Attributes:
        normal: sentences that find an organ normal.
        positive: for an abnormality without phrasings of its own.
        negative: likewise.
    """

    version: int = 1
    normal: tuple[str, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@functools.lru_cache(maxsize=8)
def load_organ_templates(path: Path | None = None) -> OrganTemplates:
    """Read organ templates, by default the shipped ones."""
    path = path or resource("organ_dictionary", "templates.yaml")
    return validate(OrganTemplates, read_yaml(path), str(path))


@functools.lru_cache(maxsize=8)
def load_abnormality_templates(path: Path | None = None) -> AbnormalityTemplates:
    """Read abnormality templates, by default the shipped ones."""
    path = path or resource("abnormality_dictionary", "templates.yaml")
    return validate(AbnormalityTemplates, read_yaml(path), str(path))


def fill(template: str, organ: Organ, abnormality: Abnormality | None = None) -> str:
    """One sentence: placeholders filled, blanks tidied, first letter upper case."""
    values = {one: many if organ.plural else one for one, many in _VERBS.items()}
    values |= {"organ": organ.display, "side": organ.side or ""}
    if abnormality is not None:
        values["abnormality"] = abnormality.display
    text = " ".join(template.format_map(values).split())
    text = re.sub(r" ([.,;:])", r"\1", text)
    return text[:1].upper() + text[1:]


def _filled(templates: tuple[str, ...], organ: Organ, abnormality: Abnormality | None = None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fill(template, organ, abnormality) for template in templates))


def organ_prompts(organ: Organ, templates: OrganTemplates | None = None) -> tuple[str, ...]:
    """Sentences that say which organ this is."""
    return _filled((templates or load_organ_templates()).prompts, organ)


def normal_prompts(organ: Organ, templates: AbnormalityTemplates | None = None) -> tuple[str, ...]:
    """Sentences that find the organ normal."""
    return _filled((templates or load_abnormality_templates()).normal, organ)


def positive_prompts(
    abnormality: Abnormality, organ: Organ, templates: AbnormalityTemplates | None = None
) -> tuple[str, ...]:
    """Sentences that affirm the abnormality in the organ: its own phrasings, or the templates' where it has none."""
    phrasings = abnormality.positive or (templates or load_abnormality_templates()).positive
    return _filled(phrasings, organ, abnormality)


def negative_prompts(
    abnormality: Abnormality, organ: Organ, templates: AbnormalityTemplates | None = None
) -> tuple[str, ...]:
    """Sentences that deny the abnormality in the organ: its own phrasings, or the templates' where it has none."""
    phrasings = abnormality.negative or (templates or load_abnormality_templates()).negative
    return _filled(phrasings, organ, abnormality)
