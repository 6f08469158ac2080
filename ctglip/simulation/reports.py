"""The report of a simulated study: what is there, some of what is not, in words of ``wording.yaml``."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ctglip.config import Settings, Share
from ctglip.files import read_yaml
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.reader import Reading
from ctglip.simulation.scene import Lesion
from ctglip.simulation.torso import body_plan, body_plans

_REGIONS = (
    "lungs",
    "pleura",
    "heart",
    "pericardium",
    "aorta",
    "liver",
    "gallbladder",
    "spleen",
    "kidneys",
    "urinary_bladder",
    "spine",
)
"""The reading order, before it is shuffled a little."""
_GROUP = {
    "lung_left": "lungs", "lung_right": "lungs", "pleura_left": "pleura", "pleura_right": "pleura",
    "kidney_left": "kidneys", "kidney_right": "kidneys", "thoracic_spine": "spine", "lumbar_spine": "spine",
}  # fmt: skip

LesionsOfOrgans = Mapping[str, Sequence[Lesion]]
"""Lesions of one abnormality by organ."""


class ReportRates(Settings):
    """How much a simulated radiologist says.

    Attributes:
        affirm: share of the abnormalities there that the findings mention.
        conclude: share of the mentioned ones that the impression repeats.
        deny: share of the absent abnormalities that are denied outright.
        normal: share of the organs with nothing wrong that are called normal.
        asides: share of other organs that get a sentence.
        shuffle: deviation of a region's place in the reading order.
    """

    affirm: Share = 0.95
    conclude: Share = 0.7
    deny: Share = 0.3
    normal: Share = 0.5
    asides: Share = 0.3
    shuffle: float = Field(default=1.0, ge=0)


@functools.cache
def wording(file: str = "wording.yaml") -> dict[str, Any]:
    """The sentences of ``wording.yaml`` (CT) or ``cxr_wording.yaml``."""
    return read_yaml(Path(__file__).with_name(file))


def write_report(
    reading: Reading, anatomy: Anatomy, rates: ReportRates, rng: np.random.Generator, *, names_phase: bool = True
) -> str:
    """Free text with a technique, a findings and an impression section.

    Args:
        reading: what is believed to be there.
        anatomy: for its contrast phase and the other organs it holds.
        rates: how much is said.
        rng: draws what is said and how.
        names_phase: whether the technique names the anatomy's contrast phase.
    """
    technique = (anatomy.phase if names_phase else None) or "unknown"
    sections = report_sections(reading, anatomy, rates, rng, wording(), technique)
    return "\n\n".join(f"{name.upper()}: {' '.join(sentences)}" for name, sentences in sections.items())


def report_sections(
    reading: Reading,
    anatomy: Anatomy,
    rates: ReportRates,
    rng: np.random.Generator,
    words: Mapping[str, Any],
    technique: str,
) -> dict[str, list[str]]:
    """The sentences of the sections technique, findings and impression.

    Args:
        reading: what is believed to be there.
        words: sentences as in ``wording.yaml``.
        technique: which of its techniques.
        Others as in :func:`write_report`.
    """
    truth = reading.truth
    sentences_of: dict[str, list[str]] = {region: [] for region in _REGIONS}
    conclusion: list[str] = []
    for abnormality, organs in _by_abnormality(truth).items():
        phrases = words["findings"][abnormality]
        region = _GROUP.get(organs[0], organs[0])
        pairs = {organ: f"{organ}:{abnormality}" for organ in organs}
        absent = [organ for organ, pair in pairs.items() if not truth[pair]]
        told = [pair for pair in pairs.values() if truth[pair] and pair not in reading.silent]
        mentioned = {pair for pair in told if rng.random() < rates.affirm}
        reported, doubted = (
            {organ: reading.lesions[pair] for organ, pair in pairs.items() if pair in some}
            for some in (mentioned - reading.hedged, mentioned & reading.hedged)
        )
        sentences_of[region] += _affirmed(phrases, reported, rng)
        sentences_of[region] += _doubted(phrases, doubted, rng)
        sentences_of[region] += _denied(phrases, absent, both=len(absent) == len(organs), rates=rates, rng=rng)
        if reported and rng.random() < rates.conclude:
            conclusion += _concluded(phrases, reported, rng)
    for region, sentence in _normal(truth, rates, rng, words["normal"]):
        sentences_of[region].insert(0, sentence)
    order = sorted(_REGIONS, key=lambda region: _REGIONS.index(region) + rng.normal(0, rates.shuffle))
    body = [sentence for region in order for sentence in sentences_of[region]]
    for organ, choices in words["asides"].items():
        if anatomy.volume_ml(organ) > 0 and rng.random() < rates.asides:
            body.append(_pick(choices, rng))
    body += reading.history
    rng.shuffle(conclusion)
    nothing = words["nothing"]
    return {
        "technique": [_pick(words["technique"][technique], rng)],
        "findings": body or [_pick(nothing, rng)],
        "impression": conclusion or [_pick(["See findings."] if any(truth.values()) else nothing, rng)],
    }


def operations(anatomy: Anatomy, share: float, rng: np.random.Generator) -> tuple[str, ...]:
    """What is told of organs that a built-in body lacks, of each with a chance of ``share``."""
    lacks = body_plan(anatomy.kind).without if anatomy.kind in body_plans() else ()
    removed = [organ for organ in wording()["removed"] if organ in lacks]
    return tuple(_pick(wording()["removed"][organ], rng) for organ in removed if rng.random() < share)


def _by_abnormality(truth: Mapping[str, int]) -> dict[str, list[str]]:
    """Abnormality to its organs; the two parts of the spine are told of apart."""
    found: dict[str, list[str]] = {}
    for pair in truth:
        organ, abnormality = pair.split(":")
        found.setdefault(abnormality, []).append(organ)
    return found


def _affirmed(words: Mapping[str, Any], reported: LesionsOfOrgans, rng: np.random.Generator) -> list[str]:
    if len(reported) == 2 and "both" in words and rng.random() < 0.5:
        every = [lesion for found in reported.values() for lesion in found]
        return [_filled(_pick(words["both"], rng), next(iter(reported)), every, rng)]
    sentences = []
    for organ, found in reported.items():
        choices = words["many"] if len(found) > 1 and "many" in words else words["one"]
        sentences.append(_filled(_pick(choices, rng), organ, found, rng))
    return sentences


def _doubted(words: Mapping[str, Any], doubted: LesionsOfOrgans, rng: np.random.Generator) -> list[str]:
    """The short form of each, in words of doubt."""
    sentences = []
    for organ, found in doubted.items():
        short = _filled(_pick(words["impression"], rng), organ, found, rng)
        short = re.split(r"[.;]", short)[0]
        doubt = _pick(wording()["doubt"], rng)
        inner = short[0].lower() + short[1:]
        sentences.append(doubt.format(finding=short if doubt.startswith("{") else inner))
    return sentences


def _denied(
    words: Mapping[str, Any], organs: Sequence[str], *, both: bool, rates: ReportRates, rng: np.random.Generator
) -> list[str]:
    if not organs or rng.random() >= rates.deny:
        return []
    if "none_side" not in words:
        return [_filled(_pick(words["none"], rng), organ, (), rng) for organ in organs]
    if both:
        return [_filled(_pick(words["none"], rng), organs[0], (), rng)]
    return [_filled(_pick(words["none_side"], rng), organ, (), rng) for organ in organs]


def _concluded(words: Mapping[str, Any], reported: LesionsOfOrgans, rng: np.random.Generator) -> list[str]:
    if len(reported) == 2 and "impression_both" in words:
        return [_pick(words["impression_both"], rng)]
    return [_filled(_pick(words["impression"], rng), organ, found, rng) for organ, found in reported.items()]


def _normal(
    truth: Mapping[str, int], rates: ReportRates, rng: np.random.Generator, words: Mapping[str, Sequence[str]]
) -> list[tuple[str, str]]:
    """Region and sentence for organs with nothing wrong; a pair is called normal together where both are."""
    organs: dict[str, bool] = {}
    for pair, present in truth.items():
        organ = pair.split(":")[0]
        organs[organ] = organs.get(organ, True) and not present
    if not organs.pop("lungs", True):
        organs["lung_left"] = organs["lung_right"] = False
    found = []
    for region in _REGIONS:
        members = [organ for organ in organs if _GROUP.get(organ, organ) == region]
        healthy = [organ for organ in members if organs[organ] and organ in words]
        if len(members) > 1 and all(organs[organ] for organ in members):
            healthy = [region]
        named = [organ for organ in healthy if rng.random() < rates.normal]
        found += [(region, _pick(words[organ], rng)) for organ in named]
    return found


def _filled(sentence: str, organ: str, lesions: Sequence[Lesion], rng: np.random.Generator) -> str:
    """A sentence with its slots filled from the largest lesion."""
    slots = {
        "side": "left" if organ.endswith("left") else "right",
        "region": organ.split("_")[0],
    }
    if lesions:
        largest = max(lesions, key=lambda lesion: lesion.radius_mm)
        size = max(1, round(2 * largest.radius_mm))
        slots["size"] = f"{size / 10:.1f} cm" if size >= 100 or rng.random() < 0.4 else f"{size} mm"
        slots |= {"amount": largest.detail, "level": largest.detail, "lobe": _lobe(largest.detail)}
        slots["density"] = largest.density or "solid"
    text = re.sub(r"\b([Aa]) (?=8|1[18]\b)", r"\1n ", sentence.format(**slots))
    return text[0].upper() + text[1:]


def _lobe(name: str) -> str:
    """``lung_upper_lobe_left`` as a radiologist writes it."""
    parts = name.split("_")
    return f"{parts[3]} {parts[1]} lobe" if len(parts) == 4 else name


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return str(choices[int(rng.integers(len(choices)))])
