"""The simulated radiologist: what is seen, believed, doubted and left out, and the slips of the pen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ctglip.config import Settings, Share
from ctglip.simulation.lesions_size import LEVELS
from ctglip.simulation.lungs import LOBES
from ctglip.simulation.scene import Lesion

_INVENTED_MM = {"cardiomegaly": 72.0, "splenomegaly": 72.0, "aortic_aneurysm": 18.0}
_SMALL_MM = 4.0


class ReaderSettings(Settings):
    """How a radiologist errs.

    Attributes:
        overlook: share of the abnormalities that are not seen: the organ may be called normal.
        overlook_small: the same where nothing is larger than 8 mm.
        silent: share of those seen that the report does not mention.
        hedge: share of those mentioned that are told with doubt.
        invent: share of the absent ones that are affirmed.
        wrong_side: share of those on one side that are told of the other.
        phase: share of reports that name the contrast phase.
        history: share of removed organs whose operation is told.
        slip: share of longer words with two letters exchanged.
    """

    overlook: Share = 0.0
    overlook_small: Share = 0.0
    silent: Share = 0.0
    hedge: Share = 0.0
    invent: Share = 0.0
    wrong_side: Share = 0.0
    phase: Share = 1.0
    history: Share = 1.0
    slip: Share = 0.0


@dataclass(frozen=True)
class Reading:
    """What a radiologist believes of a study.

    Attributes:
        truth: 0 or 1 for each ``organ:abnormality``, as believed.
        lesions: what is believed to be there.
        silent: pairs that are believed and not told.
        hedged: pairs that are told with doubt.
        departures: (pair, what became of it) where the report will say other than what is so.
        history: sentences on earlier operations.
    """

    truth: Mapping[str, int]
    lesions: Mapping[str, Sequence[Lesion]]
    silent: frozenset[str] = frozenset()
    hedged: frozenset[str] = frozenset()
    departures: tuple[tuple[str, str], ...] = ()
    history: tuple[str, ...] = ()


def read(
    truth: Mapping[str, int],
    lesions: Mapping[str, Sequence[Lesion]],
    settings: ReaderSettings,
    rng: np.random.Generator,
) -> Reading:
    """What a radiologist makes of the truth; with no errors, the truth itself."""
    believed, found, departures = dict(truth), dict(lesions), list[tuple[str, str]]()
    silent, hedged = set[str](), set[str]()
    for pair, present in truth.items():
        chances = rng.random(5)
        if not present:
            if chances[0] < settings.invent and not believed[pair]:
                believed[pair], found[pair] = 1, [_invented(pair, rng)]
                departures.append((pair, "invented"))
            continue
        small = max(lesion.radius_mm for lesion in lesions[pair]) <= _SMALL_MM
        if chances[1] < (settings.overlook_small if small else settings.overlook):
            believed[pair] = 0
            del found[pair]
            departures.append((pair, "overlooked"))
            continue
        named, other = pair, _other_side(pair)
        if other in truth and not truth[other] and not believed[other] and chances[2] < settings.wrong_side:
            named = other
            believed[pair], believed[named] = 0, 1
            found[named] = [_mirrored(lesion, named) for lesion in found.pop(pair)]
            departures.append((pair, "wrong_side"))
        if chances[3] < settings.silent:
            silent.add(named)
            departures.append((pair, "silent"))
        elif chances[4] < settings.hedge:
            hedged.add(named)
            departures.append((pair, "hedged"))
    return Reading(believed, found, frozenset(silent), frozenset(hedged), tuple(departures))


def _other_side(pair: str) -> str:
    organ, abnormality = pair.split(":")
    return f"{_swapped(organ)}:{abnormality}" if organ.endswith(("_left", "_right")) else ""


def _swapped(name: str) -> str:
    swapped = re.sub("left|right", lambda side: "right" if side.group() == "left" else "left", name)
    return "lung_upper_lobe_left" if swapped == "lung_middle_lobe_left" else swapped


def _mirrored(lesion: Lesion, pair: str) -> Lesion:
    return replace(lesion, organ=pair.split(":")[0], detail=_swapped(lesion.detail))


def _invented(pair: str, rng: np.random.Generator) -> Lesion:
    organ, abnormality = pair.split(":")
    detail = "small" if abnormality == "pleural_effusion" else ""
    if organ in LEVELS:
        detail = str(rng.choice(LEVELS[organ]))
    elif organ.startswith("lung_"):
        detail = str(rng.choice(LOBES[organ.removeprefix("lung_")]))
    radius = _INVENTED_MM.get(abnormality) or float(rng.uniform(3, 9))
    return Lesion(abnormality, organ, (0.0, 0.0, 0.0), radius, detail)


def slips(text: str, share: float, rng: np.random.Generator) -> str:
    """A text with two inner letters exchanged in a share of its words of six letters or more."""
    if not share:
        return text

    def slip(match: re.Match[str]) -> str:
        word = match.group()
        if rng.random() >= share:
            return word
        at = int(rng.integers(1, len(word) - 2))
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return re.sub(r"\b[a-z]{6,}\b", slip, text)
