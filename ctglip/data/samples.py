"""The shapes of training data, each declared once: what datasets give, and the batches that it is collated to.

A sample is numpy, one organ of one study (``OrganSample``) or a whole study (``StudySample``). A batch is torch and
holds every text that it needs once, in a *pool*: ``text_id`` and ``negative_ids`` point into it through ``pool_ids``.
Texts are named by their index in the text bank, ``NO_TEXT`` where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8, Num, Shaped
from torch import Tensor

from ctglip.data.augment import AugmentationParameters
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.rendering import CropStack, RenderedCrops
from ctglip.types import OrganRegion

NO_TEXT = -1
B = TypeVar("B", bound="Batch")


Region = TypeVar("Region", bound=OrganRegion, covariant=True)


@dataclass(frozen=True)
class OrganInstance(Generic[Region]):
    """One organ of one study: its row of the organ table, or its region on a radiograph."""

    study_id: str
    row: Region

    @property
    def organ(self) -> str:
        """Name in the organ dictionary."""
        return self.row.organ


@dataclass(frozen=True)
class OrganSample:
    """One organ of one study with this step's text.

    Attributes:
        crop: the organ, after augmentation.
        settings: how the crop is rendered.
        parameters: of the augmentation.
        organ_id: index of the organ in the list of organs that the objective was built with.
        study_index: the same number for samples of one study.
        text_id: the text of this step; ``NO_TEXT`` where the report does not mention the organ, which then teaches
            anatomy alone.
        text_key: equal texts share it, and so do "normal" texts of one organ, whatever their wording.
        negative_ids: texts that are false of the organ, ``NO_TEXT`` where there is none.
        sentence_ids: all texts of the organ alone.
        row: of the dataset.
    """

    crop: OrganCrop
    settings: CropSettings
    parameters: AugmentationParameters
    organ_id: int
    study_index: int
    text_id: int
    text_key: int
    negative_ids: Int[np.ndarray, " k"]
    sentence_ids: Int[np.ndarray, " n"]
    row: int

    @property
    def image(self) -> Float[np.ndarray, "c x y z"]:
        """What the model sees of the crop; rendered when it is asked for."""
        return CropStack.of([self.crop], self.settings).image[0].numpy()

    @property
    def mask(self) -> Float[np.ndarray, "1 x y z"]:
        """The organ's coverage of each voxel, 0 to 1."""
        return CropStack.of([self.crop], self.settings).mask[0].numpy()

    @property
    def size(self) -> Float[np.ndarray, " 4"]:
        """Standardised log mm per voxel in x, y, z and log volume in ml."""
        return self.crop.size


@dataclass(frozen=True)
class StudySample:
    """A scan or radiograph in v views, with m of its organs or regions and a text for each, and its report.

    Attributes:
        study_id: of the store.
        images: independently augmented views.
        labels: organ labels of the first view; of cached tokens the share of each cell that each label fills; or None.
        boxes: of the organs in each view, half-open ``(low, high)`` along each axis, in voxels or pixels.
        size: as for ``OrganSample``; zeros where it is not known.
        organ_id: of a scan as for ``OrganSample``; of a radiograph the index of a region in the dataset's ``regions``
            where its report is told whole.
        text_id, text_key, negative_ids: as for ``OrganSample``.
        findings, impression, report: texts of the sections, and of both together.
        sentences: the text of every sentence of an organ, by ``sentence_index``.
        organ_sentences: for each organ its ``sentence_index`` values.
        tags: 1 affirmed, 0 negated, -1 not mentioned.
    """

    study_id: str
    images: Float[np.ndarray, "v c *s"]
    labels: Num[np.ndarray, ...] | None
    boxes: Float[np.ndarray, "v m e"]
    size: Float[np.ndarray, "m 4"]
    organ_id: Int[np.ndarray, " m"]
    text_id: Int[np.ndarray, " m"]
    text_key: Int[np.ndarray, " m"]
    negative_ids: Int[np.ndarray, "m k"]
    findings: int = NO_TEXT
    impression: int = NO_TEXT
    report: int = NO_TEXT
    sentences: Mapping[int, int] = field(default_factory=dict)
    organ_sentences: Sequence[Sequence[int]] = ()
    tags: Int8[np.ndarray, " t"] = field(default_factory=lambda: np.zeros(0, np.int8))

    @property
    def image(self) -> Float[np.ndarray, "c ..."]:
        """The first view."""
        return self.images[0]


@dataclass(frozen=True)
class Batch:
    """The texts of M rows.

    Attributes:
        text_id, text_key: one for each row.
        negative_ids: K for each row.
        pool_ids: ascending, every text-bank index above once.
        pool: their embeddings ``[P, T]`` (a frozen text encoder) or their tokens ``[P, K, L]`` (a trained one).
    """

    text_id: Int[Tensor, " m"]
    text_key: Int[Tensor, " m"]
    negative_ids: Int[Tensor, "m k"]
    pool_ids: Int[Tensor, " p"]
    pool: Shaped[Tensor, "p ..."]

    def to(self: B, device: torch.device | str) -> B:
        """The batch on a device."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{n: v if v is None else v.to(device, non_blocking=True) for n, v in values.items()})

    def texts(self) -> dict[str, Tensor]:
        """The text columns, by name."""
        return {one.name: getattr(self, one.name) for one in fields(Batch) if one.name != "pool"}

    def columns(self) -> dict[str, Any]:
        """Everything but the pool, by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("pool", "pool_ids")}

    def all_ids(self) -> Int[Tensor, " n"]:
        """Every text that the batch needs, ``NO_TEXT`` where there is none."""
        return torch.cat([self.text_id.flatten(), self.negative_ids.flatten()])

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of images ``start .. stop - 1``."""
        return {name: value if value is None else value[start:stop] for name, value in self.columns().items()}

    def piece(self: B, start: int, stop: int) -> B:
        """The images ``start .. stop - 1`` with their rows and the texts that these need (one at least)."""
        found = replace(self, **self.cut(start, stop))
        needed = torch.isin(found.pool_ids, found.all_ids())
        needed[0] |= not bool(needed.any())
        return replace(found, pool_ids=found.pool_ids[needed], pool=found.pool[needed])

    def __len__(self) -> int:
        return len(self.text_id)

    @property
    def image_count(self) -> int:
        """How many images there are."""
        return len(self)


@dataclass(frozen=True)
class OrganBatch(Batch):
    """M crops, one organ each; see ``OrganSample``. ``to`` renders crops that are not rendered yet."""

    crops: CropStack | RenderedCrops
    size: Float[Tensor, "m 4"]
    organ_id: Int[Tensor, " m"]
    study_index: Int[Tensor, " m"]

    @property
    def image(self) -> Float[Tensor, "m c *s"]:
        """What the model sees."""
        return self.crops.image

    @property
    def mask(self) -> Float[Tensor, "m 1 *s"]:
        """How much of each voxel the organ covers."""
        return self.crops.mask


@dataclass(frozen=True)
class StudyBatch(Batch):
    """B images with M organs, one image's after the other's; ``study_index`` says whose; see ``StudySample``."""

    image: Float[Tensor, "b c *s"]
    labels: Num[Tensor, "b ..."] | None
    boxes: Float[Tensor, "m e"]
    size: Float[Tensor, "m 4"]
    organ_id: Int[Tensor, " m"]
    study_index: Int[Tensor, " m"]

    @property
    def image_count(self) -> int:
        """How many images there are."""
        return len(self.image)

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of images ``start .. stop - 1``."""
        rows = (self.study_index >= start) & (self.study_index < stop)
        columns = {}
        for name, value in self.columns().items():
            chosen = slice(start, stop) if name in ("image", "labels") else rows
            columns[name] = value if value is None else value[chosen]
        return {**columns, "study_index": columns["study_index"] - start}


@dataclass(frozen=True)
class ReportBatch(Batch):
    """B studies with M regions and N sentences, one study's after the other's; see ``StudySample``.

    ``text_id`` and ``text_key`` are the whole reports'.

    Attributes:
        images: every study in V views.
        row: the place of each study in the batch that it was collated in; unlike ``region_study`` it stays as it is
            when that batch is cut into micro-batches, so it says in ``compute`` what belongs together.
        boxes: of the regions, in voxels or pixels of each view.
        region_study: the image of each region.
        region_id: which organ or region it is.
        region_text: all sentences of it, as one text.
        region_sentences: its sentences one by one, filled up with ``NO_TEXT``.
        sentence_id, sentence_study: every sentence of a study once, and the study's image.
        findings, impression, report: one for each study.
        tags: 1 affirmed, 0 negated, -1 not mentioned.
        labels: label maps of the first views.
    """

    images: Float[Tensor, "b v c *s"]
    row: Int[Tensor, " b"]
    boxes: Float[Tensor, "m v e"]
    region_study: Int[Tensor, " m"]
    region_id: Int[Tensor, " m"]
    region_text: Int[Tensor, " m"]
    region_sentences: Int[Tensor, "m k"]
    sentence_id: Int[Tensor, " n"]
    sentence_study: Int[Tensor, " n"]
    findings: Int[Tensor, " b"]
    impression: Int[Tensor, " b"]
    report: Int[Tensor, " b"]
    tags: Int[Tensor, "b t"]
    labels: Int[Tensor, "b ..."] | None = None

    @property
    def image(self) -> Float[Tensor, "b c *s"]:
        """The first view of each study."""
        return self.images[:, 0]

    @property
    def region_sentence(self) -> Bool[Tensor, "m n"]:
        """Which sentence belongs to which region."""
        same = (self.region_sentences[:, :, None] == self.sentence_id).any(1)
        return same & (self.region_study[:, None] == self.sentence_study)

    def all_ids(self) -> Int[Tensor, " n"]:
        """Every text that the batch needs, ``NO_TEXT`` where there is none."""
        columns = (self.region_text, self.region_sentences, self.sentence_id)
        sections = (self.findings, self.impression, self.report)
        return torch.cat([super().all_ids(), *(ids.flatten() for ids in (*columns, *sections))])

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of images ``start .. stop - 1``."""
        columns = self.columns()
        by_study = ("images", "row", "findings", "impression", "report", "tags", "labels")
        for name in (*(one.name for one in fields(Batch)), *by_study):
            if columns.get(name) is not None:
                columns[name] = columns[name][start:stop]
        for kind in ("region", "sentence"):
            study = columns[f"{kind}_study"]
            rows = (study >= start) & (study < stop)
            for name in [name for name in columns if name.startswith(kind)] + ["boxes"] * (kind == "region"):
                columns[name] = columns[name][rows]
            columns[f"{kind}_study"] = columns[f"{kind}_study"] - start
        return columns
