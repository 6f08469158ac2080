"""RadGraph's annotations (JSON) as triplets, for those who have them.

Read after the published format (Jain et al. 2021, arXiv 2106.14463): by report, ``entities`` with ``tokens``,
``label`` (``OBS-DP`` or ``Observation::definitely present`` and so on), ``start_ix`` and ``relations``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctglip.errors import ReportError
from ctglip.files import read_json
from ctglip.film.regions import region_entries
from ctglip.film.triplets import Existence, Triplet
from ctglip.vocabulary.abnormalities import AbnormalityDictionary

_STATES: dict[str, Existence] = {
    "obs-dp": "present", "obs-da": "absent", "obs-u": "uncertain",
    "observation::definitely present": "present", "observation::definitely absent": "absent",
    "observation::uncertain": "uncertain",
}  # fmt: skip
_SIDES = ("right", "left")
_BASES = {
    "lung": "lung", "lungs": "lung", "pulmonary": "lung", "pleural": "costophrenic_angle",
    "costophrenic": "costophrenic_angle", "hemidiaphragm": "hemidiaphragm", "diaphragm": "hemidiaphragm",
    "hilum": "hilar_structures", "hila": "hilar_structures", "hilar": "hilar_structures",
    "perihilar": "hilar_structures", "apex": "apical_zone", "apical": "apical_zone", "apices": "apical_zone",
    "upper": "upper_lung_zone", "middle": "mid_lung_zone", "mid": "mid_lung_zone", "lower": "lower_lung_zone",
    "base": "lower_lung_zone", "bases": "lower_lung_zone", "basilar": "lower_lung_zone",
    "clavicle": "clavicle", "rib": "chest_wall", "ribs": "chest_wall", "chest wall": "chest_wall",
}  # fmt: skip
"""Words for sided regions, the later ones the narrower."""
_MIDLINE = {
    "heart": "cardiac_silhouette", "cardiac": "cardiac_silhouette", "mediastinum": "mediastinum",
    "mediastinal": "mediastinum", "cardiomediastinal": "mediastinum", "aorta": "aortic_arch", "aortic": "aortic_arch",
    "trachea": "trachea", "carina": "carina", "spine": "spine", "vertebral": "spine", "thoracic spine": "spine",
    "svc": "svc", "superior vena cava": "svc", "cavoatrial": "cavoatrial_junction", "abdomen": "abdomen",
}  # fmt: skip


def read_radgraph(path: Path, abnormalities: AbnormalityDictionary) -> dict[str, tuple[Triplet, ...]]:
    """Triplets by report id.

    Raises:
        ReportError: ``bad_radgraph`` when the file is not RadGraph's.
    """
    tree = read_json(path)
    try:
        return {str(name): triplets_of(report, abnormalities) for name, report in tree.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"{path} is not RadGraph's format ({type(error).__name__}: {error}).", code="bad_radgraph"
        ) from error


def triplets_of(report: Mapping[str, Any], abnormalities: AbnormalityDictionary) -> tuple[Triplet, ...]:
    """The triplets of one annotated report, in reading order."""
    entities: Mapping[str, Any] = report["entities"]
    tokens = str(report.get("text", "")).split()
    found: dict[Triplet, None] = {}
    for entity in sorted(entities.values(), key=lambda e: int(e["start_ix"])):
        existence = _STATES.get(str(entity["label"]).lower())
        if existence is None or any(kind == "modify" for kind, _ in entity["relations"]):
            continue
        index = sum(token == "." for token in tokens[: int(entity["start_ix"])])  # noqa: S105
        sentence = _sentence(tokens, int(entity["start_ix"]))
        targets = [entities[str(other)] for kind, other in entity["relations"] if kind == "located_at"]
        name = _finding(_with_modifiers(entity, entities), str(entity["tokens"]), targets, abnormalities)
        places = [region for target in targets for region in regions_in(_with_modifiers(target, entities))]
        for region in dict.fromkeys(places) or (None,):
            found[Triplet(region, name, existence, index, sentence)] = None
    return tuple(found)


def _with_modifiers(entity: Mapping[str, Any], entities: Mapping[str, Any]) -> str:
    """An entity's words with those that modify it, in the order of the text."""
    own = next(key for key, value in entities.items() if value is entity)
    members = [entity, *_modifiers(own, entities, {own})]
    return " ".join(str(e["tokens"]) for e in sorted(members, key=lambda e: int(e["start_ix"])))


def _modifiers(key: str, entities: Mapping[str, Any], seen: set[str]) -> Iterator[Mapping[str, Any]]:
    for other, entity in entities.items():
        if other not in seen and any(kind == "modify" and str(to) == key for kind, to in entity["relations"]):
            seen.add(other)
            yield entity
            yield from _modifiers(other, entities, seen)


def _finding(phrase: str, head: str, targets: list[Mapping[str, Any]], abnormalities: AbnormalityDictionary) -> str:
    """The dictionary's name for an observation, tried with its modifiers and its place; its own words otherwise."""
    places = [str(target["tokens"]) for target in targets]
    for text in (phrase, *(f"{place} {head}" for place in places), head, head.removesuffix("s")):
        if (known := abnormalities.find(text)) is not None:
            return known.name
    return head.lower()


def regions_in(text: str) -> tuple[str, ...]:
    """Regions that an anatomy's words name: "left lower lobe" is the left lower lung zone, "lungs" are both."""
    words = re.findall(r"[a-z]+", text.lower())
    phrase = " ".join(words)
    sides = [side for side in _SIDES if side in words] or list(_SIDES)
    bases = [base for word, base in _BASES.items() if word in words or (" " in word and word in phrase)]
    if "lobe" in words or "zone" in words or "lung" in words:
        bases = bases or ["lung"]
    if bases and "mediastinum" not in words:
        names = [f"{side}_{bases[-1]}" for side in sides]
        return tuple(name for name in names if name in region_entries())
    named = (region for word, region in _MIDLINE.items() if word in words or (" " in word and word in phrase))
    return tuple(dict.fromkeys(named))


def _sentence(tokens: list[str], at: int) -> str:
    start = max((i + 1 for i, token in enumerate(tokens[:at]) if token == "."), default=0)  # noqa: S105
    end = next((i for i, token in enumerate(tokens[at:], at) if token == "."), len(tokens))  # noqa: S105
    return " ".join(tokens[start:end])
