"""Does an organ look like those that the model learned from? How far it lies from them, in features and in HU.

A calibration holds for scans like those that it was fitted on. Two distances say how like them an organ is: that of its
features from the mean of the training organs of its name (Mahalanobis; the covariance is one for all organs), and that
of its HU (mean and standard deviation, in standard deviations of training). Each has a limit, which all but one in a
hundred organs of the validation split keep; an organ beyond either is outside what the model has seen.
``evaluation.familiarity`` fits both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ctglip.config import Settings
from ctglip.models.release import Release

LEAST_ORGANS = 2
"""A scan is judged as a whole from this many organs on."""


class HURange(Settings):
    """The HU of one organ in training.

    Attributes:
        mean, mean_sd: over studies, of the organ's mean HU.
        spread, spread_sd: over studies, of the standard deviation of its HU; None where that was not measured.
        limit: the distance that ``share`` of the validation organs keep.
    """

    mean: float
    mean_sd: float
    spread: float | None = None
    spread_sd: float = 1.0
    limit: float

    def distance(self, mean: float, spread: float | None) -> float:
        """How far an organ's HU lie from those of training, in standard deviations."""
        off = [(mean - self.mean) / self.mean_sd]
        if self.spread is not None and spread is not None:
            off.append((spread - self.spread) / self.spread_sd)
        return math.hypot(*off)


class OrganRange(Settings):
    """One organ as training and validation had it.

    Attributes:
        row: of the organ's mean in ``means``.
        training, validation: how many organs were measured.
        limit: the feature distance that ``share`` of the validation organs keep.
        hu: its HU; None on radiographs.
    """

    row: int
    training: int
    validation: int
    limit: float
    hu: HURange | None = None


class FamiliaritySettings(Settings):
    """``model/familiarity.json``.

    Attributes:
        share: of the validation organs that keep the limits.
        reading: how organs were read (the model's region reader; of radiographs box, query, whole or observations).
        organs: name to what was measured; others are not measured.
    """

    share: float
    reading: str
    organs: dict[str, OrganRange]


@dataclass(frozen=True)
class Verdict:
    """How one organ compares with those of training.

    Attributes:
        outside: it lies beyond a limit.
        distance: the larger of its two distances, each as a multiple of its limit: above 1 is outside.
        why: in words; empty where it is inside.
    """

    outside: bool
    distance: float
    why: str = ""


@dataclass(frozen=True)
class Familiarity:
    """What is known of the organs of training.

    Attributes:
        about: limits and HU.
        means: of the organs' features.
        whiten: ``|(x - mean) @ whiten|`` is the distance of features x.
    """

    about: FamiliaritySettings
    means: Float[np.ndarray, "o d"]
    whiten: Float[np.ndarray, "d d"]

    def distances(self, organ: str, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Of the features of some organs of one name."""
        off = features - self.means[self.about.organs[organ].row]
        return np.linalg.norm(off.astype(np.float64) @ self.whiten, axis=1)

    def compare(
        self,
        organ: str,
        hu: tuple[float, float | None] | None,
        features: Float[np.ndarray, " d"],
        display: str = "",
    ) -> Verdict | None:
        """Compare one organ with those of training; None where its name was not measured.

        Args:
            hu: mean and standard deviation of its HU; None where nobody measured them.
            features: as ``inference.encoding.OrganEmbeddings`` has them.
            display: what it is called, for the words.
        """
        known = self.about.organs.get(organ)
        if known is None or not np.isfinite(features).all():
            return None
        far = {"features": float(self.distances(organ, features[None])[0]) / known.limit}
        if known.hu is not None and hu is not None:
            far["HU"] = known.hu.distance(*hu) / known.hu.limit
        what = max(far, key=lambda name: far[name])
        if far[what] <= 1:
            return Verdict(False, far[what])
        name, most = display or organ.replace("_", " "), f"{self.about.share:.0%}".replace("%", " %")
        text = f"{name}: {what} {far[what]:.1f} times as far from training as {most} of the validation organs reach"
        if what == "HU" and known.hu is not None and hu is not None:
            text += f" (mean {hu[0]:.0f} HU, in training {known.hu.mean:.0f} ± {known.hu.mean_sd:.0f})"
        return Verdict(True, far[what], text)


def familiarity_of(release: Release, reading: str) -> Familiarity | None:
    """What a model knows of the organs of its training; None where that was not measured, or for another reading."""
    if release.familiarity is None:
        return None
    about = FamiliaritySettings.model_validate(release.familiarity.about)
    if about.reading != reading:
        return None
    arrays = release.familiarity.arrays
    return Familiarity(about, arrays["means"].numpy(), arrays["whiten"].numpy())


def scan_outside(verdicts: Mapping[str, Verdict | None]) -> str:
    """Why a whole scan lies outside what a model has seen, or nothing: half of its organs do, two at least."""
    known = [verdict for verdict in verdicts.values() if verdict is not None]
    outside = sum(verdict.outside for verdict in known)
    if outside < LEAST_ORGANS or 2 * outside < len(known):
        return ""
    return f"{outside} of the {len(known)} organs that were compared with training lie outside of it"
