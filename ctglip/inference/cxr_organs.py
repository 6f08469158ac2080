"""The organs of chest radiographs: which there are, by which regions they are known, which queries read them.

An organ on a radiograph is an ``OrganRegion``: its box is (row0, row1, column0, column1) in pixels of the standardised
radiograph.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from ctglip.cxr.regions import region_entries
from ctglip.cxr.views import FRONTAL
from ctglip.data.images import organ_of_region
from ctglip.data.samples import OrganInstance
from ctglip.store.tables import Store
from ctglip.types import OrganRegion, Region
from ctglip.vocabulary.organs import OrganDictionary


@functools.cache
def regions_of(organ: str, organs: OrganDictionary) -> tuple[tuple[str, ...], ...]:
    """What can stand for an organ on a radiograph, best first: sets of regions whose common box is taken.

    The region that it fills; a region that its findings belong to (the lung's, for the pleura); those of its parts.
    """
    entries = region_entries()
    found = [(name,) for name in entries if organ_of_region(name) == organ]
    found += [(name,) for name, entry in entries.items() if organ in entry.organs and (name,) not in found]
    sides = [organs.on_side(organ, side) for side in ("right", "left")]
    if sides[0] != sides[1] and organ not in sides:
        both = [regions_of(side, organs) for side in sides]
        found += [(*right, *left) for right, left in zip(*both, strict=False)]
    return tuple(found)


def queries_of(names: Sequence[str], organs: OrganDictionary) -> dict[str, int]:
    """The number of the learned query that reads each organ on radiographs.

    Queries are learned for the organs that a region shows as a whole; others are read by that of the one region that
    stands for them.

    Args:
        names: the release's organs, in the order of the model's queries.
    """
    numbers = {name: number for number, name in enumerate(names)}
    found: dict[str, int] = {}
    for organ in visible_on_radiographs(organs):
        single_organs = [organ_of_region(several[0]) for several in regions_of(organ, organs) if len(several) == 1]
        known = [numbers[name] for name in single_organs if name in numbers]
        if known:
            found[organ] = known[0]
    return found


def visible_on_radiographs(organs: OrganDictionary) -> tuple[str, ...]:
    """The organs that a chest radiograph has a region of."""
    return tuple(name for name in organs.names if regions_of(name, organs))


RegionBoxes = Mapping[str, tuple[int, int, int, int]]
"""Region to its box (row0, row1, column0, column1) on the standardised radiograph."""


def boxes_of(regions: Sequence[Region]) -> dict[str, tuple[int, int, int, int]]:
    """The boxes of some regions by name."""
    return {box.name: (box.row0, box.row1, box.column0, box.column1) for box in regions}


def organ_box(organ: str, boxes: RegionBoxes, organs: OrganDictionary) -> tuple[OrganRegion, tuple[str, ...]] | None:
    """An organ's region on a radiograph with the regions that it was taken from; None where no box stands for it."""
    for names in regions_of(organ, organs):
        if all(name in boxes for name in names):
            several = np.array([boxes[name] for name in names])
            low, high = several.min(0), several.max(0)
            box = int(low[0]), int(high[1]), int(low[2]), int(high[3])
            return OrganRegion(organ, box), names
    return None


def global_region(organ: str, shape: Sequence[int]) -> OrganRegion:
    """The region of an organ that is read from the whole radiograph."""
    return OrganRegion(organ, (0, int(shape[0]), 0, int(shape[1])))


def cxr_instances(
    store: Store, study_ids: Sequence[str], names: Sequence[str], organs: OrganDictionary, boxed: bool, lateral: bool
) -> list[OrganInstance]:
    """The wanted organs on some radiographs, radiograph by radiograph.

    Args:
        organs: the dictionary.
        boxed: those with a box; else all, on the whole radiograph.
        lateral: lateral radiographs count too.
    """
    views = dict(store.table("studies").select("study_id", "view").iter_rows())
    study_ids = [study_id for study_id in study_ids if lateral or views.get(study_id) in (None, *FRONTAL)]
    if not boxed:
        shapes = dict(store.table("studies").select("study_id", "shape").iter_rows())
        return [
            OrganInstance(study_id, global_region(name, shapes[study_id])) for study_id in study_ids for name in names
        ]
    boxes: dict[str, dict[str, tuple[int, int, int, int]]] = {name: {} for name in study_ids}
    for row in store.table("regions").iter_rows(named=True):
        if row["study_id"] in boxes:
            boxes[row["study_id"]][row["region"]] = row["row0"], row["row1"], row["column0"], row["column1"]
    found = ((study_id, organ_box(name, boxes[study_id], organs)) for study_id in study_ids for name in names)
    return [OrganInstance(study_id, instance[0]) for study_id, instance in found if instance is not None]
