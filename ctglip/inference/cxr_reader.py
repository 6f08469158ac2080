"""Organs of chest radiographs, read from boxes, by learned queries, from the whole radiograph or its observations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ctglip.cxr.regions import region_entries
from ctglip.data.cxr import CxrInput, cxr_input
from ctglip.data.samples import OrganInstance
from ctglip.inference.cxr_encoding import (
    Read,
    Reading,
    boxes_of,
    cxr_instances,
    cxr_settings,
    encode_radiographs,
    global_region,
    on_window,
    organ_box,
    queries_of,
    reading_of,
    visible_on_radiographs,
)
from ctglip.inference.cxr_maps import cxr_maps
from ctglip.inference.encoding import PARTS, OrganEmbeddings, no_embeddings
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.observations import observation_maps
from ctglip.inference.readers import InMemory, OrganReader, StandardizedStudy
from ctglip.inference.readings import OrganReading
from ctglip.inference.scoring import Scorer
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.types import OrganRegion, Standardized


class RadiographOrganReader(OrganReader):
    """All organs from the middle of the radiograph, which the model sees.

    Args:
        read: organs as the model finds them, the whole radiograph, or its observations.

    Raises:
        ModelError: code ``no_whole_image``, ``no_observations``: it cannot be read so.
    """

    reading: Reading

    def __init__(self, release: Release, read: Read = "organs") -> None:
        super().__init__(release, reading_of(release.model, read))
        self.settings = cxr_settings(release)
        self.queries = queries_of(release.organs, self.organs)

    @staticmethod
    def channel_names(release: Release) -> tuple[str, ...]:
        settings = cxr_settings(release)
        return (f"grey values from 0 to 1, minus {settings.mean:g}, by {settings.std:g}",)

    @property
    def known(self) -> Collection[str]:
        return visible_on_radiographs(self.organs)

    def instances(self, store: Store, study_ids: Sequence[str], names: Sequence[str]) -> list[OrganInstance]:
        return cxr_instances(store, study_ids, names, self.reading, self.release)

    def locate(
        self, organs: Sequence[str], standardized: Standardized, trained: Collection[str], min_organ_ml: float
    ) -> dict[str, OrganReading | str]:
        del min_organ_ml
        radiograph = self.prepare(InMemory(standardized), ())
        boxes = boxes_of(standardized.regions)
        found: dict[str, OrganReading | str] = {}
        for organ in organs:
            if organ in trained or organ in self.known:
                found[organ] = self._read(organ, boxes, radiograph)
            else:
                entry = self.organs[organ]
                found[organ] = f"The {entry.display} {'are' if entry.plural else 'is'} not shown on a chest radiograph."
        return found

    def _read(
        self, organ: str, boxes: Mapping[str, tuple[int, int, int, int]], radiograph: CxrInput
    ) -> OrganReading | str:
        """From its box, by its query, from the whole radiograph; or why it is not."""
        entry = self.organs[organ]
        region = global_region(organ, radiograph.shape)
        global_reading = OrganReading(region, "whole", "the whole radiograph")
        has_image_head = self.release.model.image_head is not None
        if self.reading == "whole":
            return global_reading
        if self.reading == "observations":
            return OrganReading(region, "observations", "the radiograph's observations")
        if self.reading == "query":
            if organ in self.queries:
                return OrganReading(region, "query", "a learned query")
            return global_reading if has_image_head else f"The model has learned no query for the {entry.display}."
        found = organ_box(organ, boxes, self.organs)
        if found is not None and on_window(radiograph, [found[0]], "box")[0]:
            zones = " and the ".join(region_entries()[name].display for name in found[1])
            several = "boxes" if len(found[1]) > 1 else "box"
            return OrganReading(found[0], "box", f"the {several} of the {zones}")
        if has_image_head:
            return global_reading
        if found is None:
            return f"There is no box of the {entry.display}."
        return f"The middle of the radiograph, which the model sees, leaves out the {entry.display}."

    def prepare(self, study: StandardizedStudy, regions: Sequence[OrganRegion]) -> CxrInput:
        del regions
        return cxr_input(study.image(), self.settings)

    def encode(
        self,
        prepared: Sequence[CxrInput],
        regions: Sequence[Sequence[OrganRegion]],
        reading: Reading | str | None = None,
        batch: int = 64,
    ) -> OrganEmbeddings:
        how: Any = reading or self.reading
        visible = [on_window(radiograph, several, how) for radiograph, several in zip(prepared, regions, strict=True)]
        rows = [
            [region for region, is_visible in zip(several, there, strict=True) if is_visible]
            for several, there in zip(regions, visible, strict=True)
        ]
        found = encode_radiographs(self.release.model, prepared, rows, self.queries, how, batch)
        there = np.array([is_visible for several in visible for is_visible in several], dtype=bool)
        if there.all():
            return found
        parts = [np.full((len(there), *getattr(found, name).shape[1:]), np.nan, np.float32) for name in PARTS]
        for part, name in zip(parts, PARTS, strict=True):
            part[there] = getattr(found, name)
        return OrganEmbeddings(*parts) if len(there) else no_embeddings(self.release.model)

    def maps(
        self,
        standardized: Standardized,
        readings: Mapping[str, OrganReading],
        questions: Mapping[str, Sequence[str]],
        scorer: Scorer,
    ) -> Iterator[HeatMap]:
        model, radiograph = self.release.model, self.prepare(InMemory(standardized), ())
        affine = standardized.affine @ radiograph.affine()
        for organ, names in questions.items():
            pairs, read = [(organ, name) for name in names], readings[organ]
            if read.reading == "observations":
                found = observation_maps(model, radiograph, scorer.sides(pairs)[0])
            else:
                how: Any = read.reading
                query = self.queries.get(organ, 0)
                found = cxr_maps(model, radiograph, read.region, query, how, scorer.axes(pairs))
            for name, values in zip(names, found, strict=True):
                yield HeatMap(organ, name, values, affine)

    def model_input(self, standardized: Standardized, regions: Sequence[OrganRegion]) -> dict[str, Any]:
        del regions
        return {"image": torch.from_numpy(self.prepare(InMemory(standardized), ()).image)[None]}
