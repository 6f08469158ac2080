"""What training minimises, one method a file: each collates samples, encodes a batch and computes its losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.objectives.asg import ASG as ASG
    from ctglip.objectives.base import Objective as Objective
    from ctglip.objectives.dino import Dino as Dino
    from ctglip.objectives.ecamp import Ecamp as Ecamp
    from ctglip.objectives.imitate import Imitate as Imitate
    from ctglip.objectives.mim import Mim as Mim
    from ctglip.objectives.mixture import Mixture as Mixture
    from ctglip.objectives.place import Place as Place
    from ctglip.objectives.place_organs import PlaceOrgans as PlaceOrgans
    from ctglip.objectives.text_contrast import GlobalPair as GlobalPair
    from ctglip.objectives.text_contrast import OrganQuery as OrganQuery
    from ctglip.objectives.text_contrast import OrganText as OrganText

__getattr__, __dir__ = public_names(__name__)
