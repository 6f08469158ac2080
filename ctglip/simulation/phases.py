"""Contrast phases: what native, arterial and portal venous make of every tissue's HU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import Field
from scipy import ndimage

from ctglip.config import Settings
from ctglip.simulation.anatomy import Anatomy, Phase
from ctglip.simulation.draws import choose
from ctglip.simulation.labels import numbers_of
from ctglip.simulation.scene import depth_mm
from ctglip.simulation.torso import Tissues, tissue_table, tissues_of_labels

PHASES: tuple[Phase, ...] = ("native", "portal", "arterial")
"""In the order of the columns of ``tissues`` in ``body.yaml``."""
_CORTEX_MM = 6.0


class PhaseSettings(Settings):
    """Contrast phases.

    Attributes:
        shares: share of studies in each phase (their sum is taken as 1); empty leaves a body as it was painted.
        timing: deviation of a patient's enhancement, as a share of it: dose, circulation and delay differ.
    """

    shares: dict[Phase, float] = Field(default_factory=dict)
    timing: float = Field(default=0.0, ge=0, le=0.5)

    def draw(self, rng: np.random.Generator) -> Phase | None:
        """The phase of one study; None where phases are off."""
        if not self.shares:
            return None
        shares: dict[Phase, float] = {phase: self.shares.get(phase, 0.0) for phase in PHASES}
        return choose(shares, rng)


def in_phase(anatomy: Anatomy, phase: Phase) -> Anatomy:
    """A native anatomy with every tissue enhanced as in a phase; made once for each anatomy."""
    made = anatomy.enhanced
    if phase not in made:
        table = tissue_table()
        gain = (table[:, PHASES.index(phase)] - table[:, 0])[_tissue(anatomy)]
        hu = anatomy.hu + ndimage.gaussian_filter(gain, 0.55) if gain.any() else anatomy.hu
        made[phase] = replace(anatomy, hu=hu, phase=phase)
    return made[phase]


def timing_hu(phase: Phase, amount: float) -> np.ndarray:
    """HU by label number, float32 ``[256]``, that a stronger (or weaker) enhancement by ``amount`` adds."""
    table = tissue_table()
    gain = table[:, PHASES.index(phase)] - table[:, 0]
    gain[0] = 0
    return (amount * gain[tissues_of_labels()]).astype(np.float32)


def _tissue(anatomy: Anatomy) -> np.ndarray:
    """Tissue numbers of an anatomy's voxels; of a real one by its masks, where the HU are those of soft tissue."""
    if anatomy.tissue is None:
        soft = (anatomy.hu > -20) & (anatomy.hu < 110)
        tissue = np.where(soft, tissues_of_labels()[anatomy.labels], 0).astype(np.uint8)
    else:
        tissue = anatomy.tissue.copy()
    for kidney in ("kidney_left", "kidney_right"):
        box = anatomy.boxes[numbers_of(kidney)[0] - 1]
        if box is not None:
            inside = anatomy.labels[box] == numbers_of(kidney)[0]
            deep = depth_mm(np.pad(inside, 1), anatomy.spacing_mm)[1:-1, 1:-1, 1:-1]
            tissue[box][inside & (deep > _CORTEX_MM)] = Tissues.number("medulla")
    return tissue
