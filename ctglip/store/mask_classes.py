"""Classes of voxels that a store's masks draw: organs, and findings that others drew, as one label map a study."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ctglip.errors import VocabularyError
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import LesionAnnotation
from ctglip.vocabulary.organs import OrganDictionary

Undrawn = Literal["empty", "leave_out"]


@dataclass(frozen=True)
class MaskClass:
    """One class.

    Attributes:
        name: as it was asked for.
        labels: numbers in the ``organs`` arrays; none of drawn findings.
        organ: that a drawn finding lies in; None: anywhere.
        finding: an abnormality of the dictionary, what its maker calls it, or a region; None of an organ.
        boxes: a finding of which a box alone is known is that whole box, as published protocols of radiographs have it.
    """

    name: str
    labels: tuple[int, ...] = ()
    organ: str | None = None
    finding: str | None = None
    boxes: bool = False

    @property
    def is_organ(self) -> bool:
        """Its truth is the organ masks."""
        return self.finding is None

    def draws(self, lesion: LesionAnnotation) -> bool:
        """Whether a drawn finding is of this class."""
        named = self.finding in (lesion.abnormality, lesion.theirs)
        return (
            not self.is_organ
            and named
            and (self.boxes or lesion.layer is not None)
            and self.organ in (None, lesion.organ)
        )


def mask_classes(names: Sequence[str], store: Store, organs: OrganDictionary) -> tuple[MaskClass, ...]:
    """The classes of some names: organs of the dictionary, then findings that the store has drawn, by abnormality, by
    ``organ:abnormality``, or by what their maker calls them; on radiographs also regions that have boxes
    (``lung_opacity``).

    Raises:
        VocabularyError: code ``unknown_target``: neither, with the nearest names; a name twice; an organ that no mask
            draws.
    """
    if len(set(names)) != len(names) or not names:
        raise VocabularyError("Name at least one target, and each once.", code="unknown_target")
    return tuple(_mask_class(name, store, organs) for name in names)


def _mask_class(name: str, store: Store, organs: OrganDictionary) -> MaskClass:
    if name in organs:
        if not (labels := organs.labels_of(name)):
            raise VocabularyError(f"No masks draw the organ {name!r}.", code="unknown_target",
                                  fix="Name an organ that has a label in organ_dictionary/organs.yaml.")  # fmt: skip
        return MaskClass(name, tuple(sorted(labels)))
    organ, _, finding = name.rpartition(":")
    annotated = annotated_findings(store)
    if finding in annotated and (not organ or organ in organs):
        return MaskClass(name, (), organ or None, finding, store.info.modality == "cxr")
    near = difflib.get_close_matches(name, (*organs.names, *annotated), n=3, cutoff=0.5)
    has = f"it has drawn {', '.join(sorted(annotated)[:6])}" if annotated else "it has none that are drawn"
    raise VocabularyError(
        f"{name!r} is neither an organ of the dictionary nor a drawn finding of the store ({has}).",
        code="unknown_target",
        fix=f"Nearest names: {', '.join(near)}." if near else "Name organs, or findings of lesions.parquet.",
    )


def annotated_findings(store: Store) -> frozenset[str]:
    """What the store's drawn findings are called, by the dictionary and by their makers; of radiographs regions too."""
    lesions = store.table("lesions")
    if store.info.modality == "cxr":
        regions = frozenset(store.table("regions")["region"])
    else:
        lesions, regions = lesions.filter(lesions["layer"].is_not_null()), frozenset()
    return regions.union(*(lesions[column].drop_nulls() for column in ("abnormality", "theirs")))


def class_map(
    study: StudyReader, classes: Sequence[MaskClass], undrawn: Undrawn = "empty"
) -> UInt8[np.ndarray, ...] | None:
    """The class of each voxel or pixel of a study, from 1 in their order, 0 elsewhere; a later one lies on an earlier.

    Args:
        undrawn: of a study without any drawn finding: none is there (``empty``), or nobody looked (``leave_out``).

    Returns:
        None where its masks say nothing of a class.
    """
    lesions = study.lesions()
    any_organ, any_finding = any(one.is_organ for one in classes), any(not one.is_organ for one in classes)
    if any_finding and undrawn == "leave_out" and not lesions and not study.regions():
        return None
    organs = study.organs() if any_organ else None
    if any_organ and organs is None:
        return None
    found = np.zeros(study.shape, np.uint8)
    for number, one in enumerate(classes, start=1):
        if one.is_organ:
            assert organs is not None
            found[np.isin(organs, one.labels)] = number
        for lesion in filter(one.draws, lesions):
            box = lesion.box
            within = tuple(slice(low, high) for low, high in zip(box[::2], box[1::2], strict=True))
            found[within][study.lesion_mask(lesion)] = number
        for region in study.regions() if one.boxes else ():
            if region.name == one.finding:
                found[region.row0 : region.row1, region.column0 : region.column1] = number
    return found
