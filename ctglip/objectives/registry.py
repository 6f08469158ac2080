"""The objectives that can be trained: a new one is a file with a class, and a line in ``OBJECTIVES``."""

from __future__ import annotations

from collections import ChainMap
from typing import Annotated, Any, Literal

from ctglip.config import OneOf
from ctglip.objectives.asg import ASG
from ctglip.objectives.base import ModelNeeds, Objective, ObjectiveSettings
from ctglip.objectives.dino import Dino
from ctglip.objectives.ecamp import Ecamp, EcampOrgans
from ctglip.objectives.imitate import Imitate
from ctglip.objectives.mim import Mim
from ctglip.objectives.place import Place
from ctglip.objectives.place_organs import PlaceOrgans
from ctglip.objectives.text_contrast import GlobalPair, OrganQuery, OrganText

OBJECTIVES: dict[str, type[Objective]] = {
    "organ_text": OrganText,
    "organ_query": OrganQuery,
    "global_pair": GlobalPair,
    "asg": ASG,
    "place": Place,
    "place_organs": PlaceOrgans,
    "ecamp": Ecamp,
    "ecamp_organs": EcampOrgans,
    "imitate": Imitate,
    "mim": Mim,
    "dino": Dino,
}
"""Objectives by the ``name`` of their settings."""


class MixtureSettings(ObjectiveSettings):
    """Several objectives over one model.

    Attributes:
        parts: by a name of one's own.
        weights: of each part: a number, or points (progress 0 to 1, weight) with straight lines between them.
    """

    name: Literal["mixture"] = "mixture"  # pyright: ignore[reportIncompatibleVariableOverride]
    parts: dict[str, Annotated[ObjectiveSettings, OneOf(OBJECTIVES)]]
    weights: dict[str, float | tuple[tuple[float, float], ...]]


_CHOICES = ChainMap[str, Any]({"mixture": MixtureSettings}, OBJECTIVES)
AnyObjectiveSettings = Annotated[ObjectiveSettings, OneOf(_CHOICES, default="organ_text")]
"""Those of one objective, or of a mixture; without a ``name`` organ_text's."""


def parts_of(settings: ObjectiveSettings) -> dict[str, ObjectiveSettings]:
    """The single objectives of a run's objective, by name."""
    return settings.parts if isinstance(settings, MixtureSettings) else {settings.name: settings}


def needs_of(settings: ObjectiveSettings) -> list[ModelNeeds]:
    """What each part of a run's objective needs of the model."""
    return [OBJECTIVES[part.name].needs(part) for part in parts_of(settings).values()]
