"""What can be wrong in a simulated study: every (organ, abnormality) pair, what it needs, how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ctglip.simulation import lesions_abdomen as abdomen
from ctglip.simulation import lesions_chest as chest
from ctglip.simulation import lesions_size as size
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.scene import Lesion, Scene
from ctglip.simulation.warp import Warp

Painter = Callable[[Scene, str, np.random.Generator], list[Lesion]]
Warper = Callable[[Anatomy, str, np.random.Generator], Warp]


@dataclass(frozen=True)
class Kind:
    """One pair that a study may have.

    Attributes:
        organ: organ of the pair, a name in the organ dictionary.
        abnormality: name in the abnormality dictionary.
        paint: changes the image and says where.
        warp: changes the shape beforehand, if the abnormality is one of size; drawn from the same random numbers.
        needs: the structure that must be in the anatomy (the lung, for its pleura).
        min_ml: how much of it.
    """

    organ: str
    abnormality: str
    paint: Painter
    warp: Warper | None = None
    needs: str = ""
    min_ml: float = 1.0

    @property
    def pair(self) -> str:
        """The column of the label table."""
        return f"{self.organ}:{self.abnormality}"

    def possible(self, anatomy: Anatomy) -> bool:
        """Whether enough of the structure is in the anatomy."""
        if self.abnormality == "compression_fracture":
            return bool(size.fracture_levels(anatomy, self.organ))
        return anatomy.volume_ml(self.needs or self.organ) >= self.min_ml


def _both(organ: str, abnormality: str, paint: Painter, needs: str, min_ml: float) -> tuple[Kind, ...]:
    return tuple(
        Kind(f"{organ}_{side}", abnormality, paint, needs=f"{needs}_{side}", min_ml=min_ml)
        for side in ("left", "right")
    )


KINDS: tuple[Kind, ...] = (
    Kind("liver", "hepatic_steatosis", abdomen.hepatic_steatosis, min_ml=300),
    Kind("lungs", "emphysema", chest.emphysema, min_ml=1000),
    *_both("pleura", "pleural_effusion", chest.pleural_effusion, "lung", 500),
    *_both("lung", "consolidation", chest.consolidation, "lung", 500),
    *_both("lung", "lung_nodule", chest.lung_nodule, "lung", 500),
    Kind("heart", "cardiomegaly", size.cardiomegaly, size.cardiomegaly_warp, min_ml=250),
    Kind("pericardium", "pericardial_effusion", chest.pericardial_effusion, needs="heart", min_ml=250),
    Kind("liver", "liver_metastasis", abdomen.liver_metastasis, min_ml=300),
    Kind("liver", "liver_cyst", abdomen.liver_cyst, min_ml=300),
    Kind("gallbladder", "gallstone", abdomen.gallstone, min_ml=5),
    Kind("spleen", "splenomegaly", size.splenomegaly, size.splenomegaly_warp, min_ml=40),
    *_both("kidney", "hydronephrosis", abdomen.hydronephrosis, "kidney", 50),
    *_both("kidney", "renal_cyst", abdomen.renal_cyst, "kidney", 50),
    *_both("kidney", "renal_stone", abdomen.renal_stone, "kidney", 50),
    Kind("urinary_bladder", "bladder_stone", abdomen.bladder_stone, min_ml=30),
    Kind("aorta", "aortic_aneurysm", size.aortic_aneurysm, size.aneurysm_warp, min_ml=30),
    Kind("aorta", "aortic_calcification", abdomen.aortic_calcification, min_ml=30),
    Kind("thoracic_spine", "compression_fracture", size.compression_fracture, size.fracture_warp),
    Kind("lumbar_spine", "compression_fracture", size.compression_fracture, size.fracture_warp),
)
"""In the order in which they are painted."""


def possible_kinds(anatomy: Anatomy) -> tuple[Kind, ...]:
    """The pairs that an anatomy has the organs for."""
    return tuple(kind for kind in KINDS if kind.possible(anatomy))
