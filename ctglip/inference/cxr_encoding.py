"""Radiographs to embeddings of their organs: from an organ's box, by its learned query, or from the whole radiograph.

An organ on a radiograph is an ``OrganRegion``: its box is (row0, row1, column0, column1) in pixels of the standardised
radiograph.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from ctglip.cxr.regions import region_entries
from ctglip.cxr.views import FRONTAL
from ctglip.data.cxr import CxrInput, CxrInputSettings
from ctglip.data.images import organ_of_region
from ctglip.data.samples import OrganInstance
from ctglip.errors import ModelError
from ctglip.inference.encoding import OrganEmbeddings, concatenated
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.region_readers import Regions
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.types import OrganRegion, Region
from ctglip.vocabulary.organs import OrganDictionary, load_organs

Reading = Literal["box", "query", "whole", "observations"]
"""How an organ is read from a radiograph."""
Read = Literal["organs", "whole", "observations"]
"""How radiographs are wanted to be read: organs as the model finds them, the whole radiograph, or what learned queries
observe."""


def cxr_settings(release: Release) -> CxrInputSettings:
    """How a release wants its radiographs.

    Raises:
        ModelError: code ``other_modality``: it is a model of scans.
    """
    if release.cxr is None:
        raise ModelError("This model was trained on CT scans, not on radiographs.", code="other_modality")
    return CxrInputSettings.model_validate(release.cxr)


def reading_of(model: DualEncoder, read: Read = "organs") -> Reading:
    """How a model reads organs from radiographs.

    Args:
        read: ``whole``: ask the head for whole radiographs although the model finds organs.

    Raises:
        ModelError: code ``no_whole_image``, ``no_observations``.
    """
    if read == "observations":
        if model.resampler is None:
            raise ModelError(
                "This model has no queries that observe radiographs.",
                code="no_observations",
                fix="Read organs or whole radiographs, or train with objective place.",
            )
        return "observations"
    if model.region_reader is None or read == "whole":
        if model.image_head is None:
            raise ModelError("This model has no head for whole radiographs.", code="no_whole_image")
        return "whole"
    return "box" if "boxes" in model.region_inputs else "query"


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
    store: Store, study_ids: Sequence[str], names: Sequence[str], reading: Reading, release: Release
) -> list[OrganInstance]:
    """The wanted organs on some radiographs, radiograph by radiograph: those with a box, those with a query, or all.

    Lateral radiographs are left out where the model was not trained on them.
    """
    views = dict(store.table("studies").select("study_id", "view").iter_rows())
    if not cxr_settings(release).lateral:
        study_ids = [study_id for study_id in study_ids if views.get(study_id) in (None, *FRONTAL)]
    organs = load_organs(release.organ_dictionary / "organs.yaml")
    if reading == "query":
        known = queries_of(release.organs, organs)
        names = [name for name in names if name in known]
    shapes = dict(store.table("studies").select("study_id", "shape").iter_rows())
    if reading != "box":
        return [
            OrganInstance(study_id, global_region(name, shapes[study_id])) for study_id in study_ids for name in names
        ]
    boxes: dict[str, dict[str, tuple[int, int, int, int]]] = {}
    studies = set(study_ids)
    for row in store.table("regions").iter_rows(named=True):
        if row["study_id"] in studies:
            box = row["row0"], row["row1"], row["column0"], row["column1"]
            boxes.setdefault(row["study_id"], {})[row["region"]] = box
    found = ((study_id, organ_box(name, boxes.get(study_id, {}), organs)) for study_id in study_ids for name in names)
    return [OrganInstance(study_id, instance[0]) for study_id, instance in found if instance is not None]


def on_window(radiograph: CxrInput, rows: Sequence[OrganRegion], reading: Reading) -> list[bool]:
    """Whether each organ can be read: a part of its box, at least a pixel wide, lies on the window."""
    if reading != "box":
        return [True] * len(rows)
    boxes = radiograph.boxes(np.array([row.box for row in rows]))
    sides = np.stack([boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]])
    return (sides.min(0) >= 1).tolist()


@torch.no_grad()
def encode_radiographs(
    model: DualEncoder,
    radiographs: Sequence[CxrInput],
    rows: Sequence[Sequence[OrganRegion]],
    queries: Mapping[str, int],
    reading: Reading,
    batch: int = 64,
) -> OrganEmbeddings:
    """Embed organs of radiographs, radiograph after radiograph; each radiograph passes the encoder once.

    Without a head for anatomy the vector that meets findings also meets the organs' names. Of a radiograph that is read
    by its ``observations`` each organ's ``diagnosis`` is all of them, ``[m, q, e]``.

    Args:
        model: put into evaluation mode for the time, left as it was.
        radiographs: as ``data.cxr_input.cxr_input`` gives them.
        rows: the organs of each radiograph, all ``on_window``; a radiograph may have none.
        queries: as ``queries_of`` gives them.
        reading: how organs are read.
        batch: radiographs at a time.
    """
    was_training = model.training
    model.eval()
    parts = [
        _encoded(model, radiographs[start : start + batch], rows[start : start + batch], queries, reading)
        for start in range(0, len(radiographs), batch)
    ]
    model.train(was_training)
    return concatenated(model, parts)


def _encoded(
    model: DualEncoder,
    radiographs: Sequence[CxrInput],
    rows: Sequence[Sequence[OrganRegion]],
    queries: Mapping[str, int],
    reading: Reading,
) -> OrganEmbeddings:
    device = next(model.parameters()).device
    images = torch.from_numpy(np.stack([radiograph.image for radiograph in radiographs])).to(device)
    owner = torch.tensor([image for image, several in enumerate(rows) for _ in several], dtype=torch.long)
    owner = owner.to(device)
    if reading == "whole":
        assert model.image_head is not None
        image = model.image_features(images)
        features, diagnosis = image[owner], model.image_head(image)[owner]
        anatomy = None
    elif reading == "observations":
        assert model.resampler is not None
        vision = model.encode_image(images)
        observed = model.resampler.visual(model.resampler(vision).tokens)
        features, diagnosis, anatomy = vision.pooled[owner], observed[owner], observed.mean(1)[owner]
    else:
        placed = zip(radiographs, rows, strict=True)
        boxes = [radiograph.boxes(np.array([row.box for row in several])) for radiograph, several in placed]
        query_numbers = [queries.get(row.organ, 0) for several in rows for row in several]
        regions = Regions(
            size=torch.zeros(len(owner), 4, device=device),
            organ_id=torch.tensor(query_numbers, dtype=torch.long).to(device),
            study_index=owner,
            boxes=torch.from_numpy(np.concatenate(boxes)).to(device),
        )
        features = model(images, regions)
        diagnosis, anatomy = model.diagnosis(features), model.anatomy(features)
    anatomy = diagnosis if anatomy is None else anatomy
    return OrganEmbeddings(*(value.float().cpu().numpy() for value in (features, anatomy, diagnosis)))
