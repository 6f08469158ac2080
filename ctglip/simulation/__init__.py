"""Simulated patients: anatomy, lesions, scans, radiographs and the reports that go with them, with the truth of each.
Knows no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.simulation.anatomy import Anatomy as Anatomy
    from ctglip.simulation.anatomy import load_template as load_template
    from ctglip.simulation.cohort import simulate_cohort as simulate_cohort
    from ctglip.simulation.cxr import CxrSettings as CxrSettings
    from ctglip.simulation.cxr import SimulatedCxr as SimulatedCxr
    from ctglip.simulation.cxr import simulate_radiograph as simulate_radiograph
    from ctglip.simulation.levels import comparable_pairs as comparable_pairs
    from ctglip.simulation.levels import level_settings as level_settings
    from ctglip.simulation.study import SimulatedStudy as SimulatedStudy
    from ctglip.simulation.study import SimulationSettings as SimulationSettings
    from ctglip.simulation.study import simulate_study as simulate_study
    from ctglip.simulation.torso import built_in_anatomy as built_in_anatomy

__getattr__, __dir__ = public_names(__name__)
