"""Organs of chest radiographs, read from boxes, by learned queries, from the whole radiograph or its observations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctglip.cxr.regions import region_entries
from ctglip.data.augment import AugmentSettings
from ctglip.data.collate import owners
from ctglip.data.cxr import CxrInput, CxrInputSettings, cxr_input, stored_edge
from ctglip.data.cxr_window import cxr_window, upright
from ctglip.data.reader import InMemory, StandardizedStudy
from ctglip.data.samples import OrganInstance
from ctglip.errors import ModelError
from ctglip.inference.cxr_maps import cxr_maps, observation_maps
from ctglip.inference.cxr_organs import (
    boxes_of,
    cxr_instances,
    global_region,
    organ_box,
    queries_of,
    visible_on_radiographs,
)
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.readers import OrganReader, OrganReading, Read
from ctglip.inference.scoring import Dictionaries, Scorer
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.types import Finding, OrganRegion, Standardized


class RadiographOrganReader(OrganReader[CxrInput]):
    """All organs from the middle of the radiograph, which the model sees.

    Args:
        read: organs as the model finds them, the whole radiograph, or its observations.

    Attributes:
        settings: of the model's radiographs, but never mirrored, turned or warped: labels have sides.
        queries: the number of the learned query of each organ.

    """

    reads = ("organs", "whole", "observations")

    def __init__(self, release: Release, read: Read = "organs") -> None:
        model, reading = release.model, "query"
        if read != "organs" or model.region_reader is None:
            reading = "observations" if read == "observations" else "whole"
        elif "boxes" in model.region_inputs:
            reading = "box"
        super().__init__(release, reading)
        self.settings = upright(CxrInputSettings.model_validate(release.cxr))
        self.queries = queries_of(release.organs, self.organs)

    def check_heads(self) -> None:
        """Reading observations takes queries, reading whole radiographs a head of its own."""
        if self.reading == "observations" and self.release.model.resampler is None:
            raise ModelError(
                "This model has no queries that observe radiographs.",
                code="no_observations",
                fix="Read organs or whole radiographs, or train with objective place.",
            )
        if self.reading == "whole" and self.release.model.image_head is None:
            raise ModelError("This model has no head for whole radiographs.", code="no_whole_image")

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One, of grey values."""
        return (f"grey values from 0 to 1, minus {self.settings.mean:g}, by {self.settings.std:g}",)

    @property
    def known(self) -> Collection[str]:
        """Whatever a radiograph shows."""
        return visible_on_radiographs(self.organs)

    @property
    def item_bytes(self) -> int:
        """Of the square that is stored, in 16 bits."""
        return 2 * stored_edge(self.settings) ** 2

    def instances(self, store: Store, study_ids: Sequence[str], names: Sequence[str]) -> list[OrganInstance]:
        """Those with a box, those with a query, or all; none of lateral radiographs, unless the model was trained on
        them."""
        if self.reading == "query":
            names = [name for name in names if name in self.queries]
        return cxr_instances(store, study_ids, names, self.organs, self.reading == "box", self.settings.lateral)

    def trainable(self, store: Store, dictionaries: Dictionaries, findings: Iterable[Finding]) -> Sequence[str]:
        """Those of which a report says something."""
        del store, dictionaries
        mentioned = {row.organ for row in findings if row.abnormality is not None}
        return [name for name in self.known if name in mentioned]

    def locate(
        self, organs: Sequence[str], standardized: Standardized, trained: Collection[str], min_organ_ml: float
    ) -> dict[str, OrganReading | str]:
        """From boxes, by queries or from the whole radiograph, as the model reads."""
        del min_organ_ml
        (radiograph,) = self.prepare(InMemory(standardized), ())
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
        if found is not None and self.visible(radiograph, [found[0]], "box")[0]:
            zones = " and the ".join(region_entries()[name].display for name in found[1])
            several = "boxes" if len(found[1]) > 1 else "box"
            return OrganReading(found[0], "box", f"the {several} of the {zones}")
        if has_image_head:
            return global_reading
        if found is None:
            return f"There is no box of the {entry.display}."
        return f"The middle of the radiograph, which the model sees, leaves out the {entry.display}."

    def prepare(self, study: StandardizedStudy, regions: Sequence[OrganRegion]) -> list[CxrInput]:
        """The radiograph, whatever the organs."""
        del regions
        return [cxr_input(study.image(), self.settings)]

    def visible(self, image: CxrInput, regions: Sequence[OrganRegion], reading: str) -> Sequence[bool]:
        """Of a box a part, at least a pixel wide, must lie on the window."""
        if reading != "box":
            return [True] * len(regions)
        boxes = image.boxes([region.box for region in regions])
        return np.all(boxes[:, 1::2] - boxes[:, ::2] >= 1, axis=1).tolist()

    def inputs(
        self,
        images: Sequence[CxrInput],
        regions: Sequence[Sequence[OrganRegion]],
        reading: str,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: AugmentSettings | None = None,
    ) -> dict[str, Tensor]:
        """An organ that a drawn window cuts off keeps a pixel."""
        del augment  # as in training
        seen = [
            cxr_window(image.pixels, image.scaled_boxes([region.box for region in several]), self.settings, rng)
            for image, several in zip(images, regions, strict=True)
        ]
        found = {
            "images": torch.from_numpy(np.stack([window for window, _ in seen])),
            "study_index": owners([len(several) for several in regions]),
        }
        if reading in ("box", "query"):
            boxes = np.concatenate([placed for _, placed in seen])
            low = np.minimum(boxes[:, ::2], self.settings.size - 1)
            boxes = np.stack([low, np.maximum(boxes[:, 1::2], low + 1)], axis=2).reshape(-1, 4)
            ids = [self.queries.get(region.organ, 0) for several in regions for region in several]
            found |= {"size": torch.zeros(len(ids), 4), "organ_id": torch.tensor(ids, dtype=torch.long)}
            found["boxes"] = torch.from_numpy(boxes.astype(np.float32))
        return {name: value.to(device) for name, value in found.items()}

    def maps(
        self,
        study: StandardizedStudy,
        readings: Mapping[str, OrganReading],
        questions: Mapping[str, Sequence[str]],
        scorer: Scorer,
    ) -> Iterator[HeatMap]:
        """Similarity of the places of a radiograph, or where its observations look."""
        model, (radiograph,) = self.release.model, self.prepare(study, ())
        affine, image = study.affine @ radiograph.affine(), radiograph.image
        for organ, names in questions.items():
            pairs, read = [(organ, name) for name in names], readings[organ]
            if read.reading == "observations":
                found = observation_maps(model, image, scorer.sides(pairs)[0])
            else:
                box, query = radiograph.boxes(read.region.box)[0], self.queries.get(organ, 0)
                found = cxr_maps(model, image, box, query, read.reading, scorer.axes(pairs))
            for name, values in zip(names, found, strict=True):
                yield HeatMap(organ, name, values, affine)

    def placed(self, image: CxrInput, region: OrganRegion, affine: np.ndarray) -> tuple[np.ndarray, None]:
        """The pixels that the model sees; organs have no mask there."""
        del region
        return affine @ image.affine(), None

    def model_input(self, standardized: Standardized, regions: Sequence[OrganRegion]) -> dict[str, Any]:
        """The radiograph; organs are not placed on it."""
        del regions
        return super().model_input(standardized, ())
