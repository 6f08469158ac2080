"""What goes into objectives: samples as the data rooms make them, and the batches that they are collated to.

Samples are protocols (numpy or torch, any class with these attributes). A batch holds every text that it needs once,
in a *pool*; ``text_id`` and ``negative_ids`` point into it through ``pool_ids``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ctglip.data.rendering import CropStack, DrawnCrops
from ctglip.objectives.texts import Texts

B = TypeVar("B", bound="Batch")


class OrganSample(Protocol):
    """One organ of one study with this step's text; ``data.organs.OrganSample`` is one.

    Attributes:
        image: float16/32 ``[C, *S]``, the organ's crop.
        mask: ``[1, *S]``, the organ's voxels of it, 0 to 1.
        size: float32 ``[4]``, standardised log mm per voxel in x, y, z and log volume in ml.
        organ_id: index of the organ in the list of organs that the objective was built with.
        study_index: the same number for samples of one study.
        text_id: the text of this step, by its index in the text bank; -1 where nothing is said of the organ, which
            then teaches anatomy alone.
        text_key: equal texts share it, and so do "normal" texts of one organ, whatever their wording.
        negative_ids: int64 ``[K]``, dictionary negatives by their index in the text bank, -1 where there is none.
    """

    @property
    def image(self) -> Any: ...
    @property
    def mask(self) -> Any: ...
    @property
    def size(self) -> Any: ...
    @property
    def organ_id(self) -> int: ...
    @property
    def study_index(self) -> int: ...
    @property
    def text_id(self) -> int: ...
    @property
    def text_key(self) -> int: ...
    @property
    def negative_ids(self) -> Any: ...


class StudySample(Protocol):
    """A whole scan, patch or radiograph with m of its organs and a text for each (m may be 0).

    Attributes:
        image: ``[C, *S]``.
        labels: integer ``[*S]``, organ labels, or None.
        boxes: ``[m, 2 d]``, half-open ``(x0, x1, y0, y1, ...)`` in voxels, or None.
        size: ``[m, 4]``, as for ``OrganSample``.
        organ_id, text_id, text_key: ``[m]``, as for ``OrganSample``.
        negative_ids: ``[m, K]``.
    """

    @property
    def image(self) -> Any: ...
    @property
    def labels(self) -> Any: ...
    @property
    def boxes(self) -> Any: ...
    @property
    def size(self) -> Any: ...
    @property
    def organ_id(self) -> Any: ...
    @property
    def text_id(self) -> Any: ...
    @property
    def text_key(self) -> Any: ...
    @property
    def negative_ids(self) -> Any: ...


class PairSample(Protocol):
    """A whole scan or radiograph and its whole report (``text_id``, ``text_key`` as for ``OrganSample``)."""

    @property
    def image(self) -> Any: ...
    @property
    def text_id(self) -> int: ...
    @property
    def text_key(self) -> int: ...


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
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{n: v if v is None else v.to(device, non_blocking=True) for n, v in values.items()})

    def texts(self) -> dict[str, Tensor]:
        """The text columns, by name."""
        return {field.name: getattr(self, field.name) for field in fields(Batch) if field.name != "pool"}

    def columns(self) -> dict[str, Any]:
        """Everything but the pool, by name."""
        names = (field.name for field in fields(self))
        return {name: getattr(self, name) for name in names if name not in ("pool", "pool_ids")}

    def all_ids(self) -> Int[Tensor, " n"]:
        """Every text that the batch needs, -1 where there is none."""
        return torch.cat([self.text_id.flatten(), self.negative_ids.flatten()])

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of images ``start .. stop - 1``."""
        return {name: value if value is None else value[start:stop] for name, value in self.columns().items()}

    def piece(self: B, start: int, stop: int) -> B:
        """The images ``start .. stop - 1`` with their rows and the texts that these need (one at least)."""
        found = replace(self, **self.cut(start, stop))
        kept = torch.isin(found.pool_ids, found.all_ids())
        kept[0] |= not bool(kept.any())
        return replace(found, pool_ids=found.pool_ids[kept], pool=found.pool[kept])

    def __len__(self) -> int:
        return len(self.text_id)

    @property
    def image_count(self) -> int:
        """How many images there are."""
        return len(self)


@dataclass(frozen=True)
class OrganBatch(Batch):
    """M crops, one organ each; see ``OrganSample``. ``to`` draws the channels of those that are not drawn yet."""

    crops: CropStack | DrawnCrops
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
    labels: Int[Tensor, "b ..."] | None
    boxes: Float[Tensor, "m e"] | None
    size: Float[Tensor, "m 4"]
    organ_id: Int[Tensor, " m"]
    study_index: Int[Tensor, " m"]

    @property
    def image_count(self) -> int:
        """How many images there are."""
        return len(self.image)

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of images ``start .. stop - 1``."""
        own = (self.study_index >= start) & (self.study_index < stop)
        columns = {}
        for name, value in self.columns().items():
            rows = slice(start, stop) if name in ("image", "labels") else own
            columns[name] = value if value is None else value[rows]
        return {**columns, "study_index": columns["study_index"] - start}


@dataclass(frozen=True)
class PairBatch(Batch):
    """B images with a report each; see ``PairSample``."""

    image: Float[Tensor, "b c *s"]


def collate_organs(samples: Sequence[OrganSample], texts: Texts, *others: Int[Tensor, "*n"]) -> OrganBatch:
    """Crops to one batch on the CPU (at least one; all with the same number of negatives).

    Args:
        others: texts that are wanted in the pool besides, -1 where there is none.
    """
    integers = {
        name: torch.tensor([int(getattr(sample, name)) for sample in samples])
        for name in ("organ_id", "study_index", "text_id", "text_key")
    }
    negatives = torch.from_numpy(np.stack([np.asarray(sample.negative_ids, np.int64) for sample in samples]))
    pool_ids, pool = texts.collate(integers["text_id"], negatives, *others)
    return OrganBatch(
        crops=crops_of(samples),
        size=torch.from_numpy(np.stack([np.asarray(sample.size) for sample in samples])),
        negative_ids=negatives,
        pool_ids=pool_ids,
        pool=pool,
        **integers,
    )


def collate_studies(samples: Sequence[StudySample], texts: Texts) -> StudyBatch:
    """Studies to one batch on the CPU (at least one, of one shape; organs are concatenated)."""
    integers = {
        name: torch.cat([torch.as_tensor(getattr(sample, name), dtype=torch.long) for sample in samples])
        for name in ("organ_id", "text_id", "text_key", "negative_ids")
    }
    counts = torch.tensor([len(sample.organ_id) for sample in samples])
    pool_ids, pool = texts.collate(integers["text_id"], integers["negative_ids"])
    labels, boxes = [sample.labels for sample in samples], [sample.boxes for sample in samples]
    return StudyBatch(
        image=column(samples, "image"),
        labels=None if labels[0] is None else column(samples, "labels"),
        boxes=None if boxes[0] is None else torch.cat([torch.as_tensor(box) for box in boxes]),
        size=torch.cat([torch.as_tensor(sample.size) for sample in samples]),
        study_index=torch.arange(len(samples)).repeat_interleave(counts),
        pool_ids=pool_ids,
        pool=pool,
        **integers,
    )


def collate_pairs(samples: Sequence[PairSample], texts: Texts) -> PairBatch:
    """Images and reports to one batch on the CPU (at least one, of one shape)."""
    text_id = torch.tensor([int(sample.text_id) for sample in samples])
    pool_ids, pool = texts.collate(text_id)
    return PairBatch(
        image=column(samples, "image"),
        text_id=text_id,
        text_key=torch.tensor([int(sample.text_key) for sample in samples]),
        negative_ids=text_id.new_zeros(len(samples), 0),
        pool_ids=pool_ids,
        pool=pool,
    )


def crops_of(samples: Sequence[Any]) -> CropStack | DrawnCrops:
    """The crops of all samples: to be drawn later where their class can (``stacked``), else as they are."""
    stack = _stack_of(samples)
    return DrawnCrops(column(samples, "image"), column(samples, "mask")) if stack is None else stack


def images_of(samples: Sequence[Any]) -> Tensor:
    """The images of all samples: drawn together where their class can (``stacked``), else one after the other."""
    stack = _stack_of(samples)
    return column(samples, "image") if stack is None else stack.image


def _stack_of(samples: Sequence[Any]) -> CropStack | None:
    together = getattr(type(samples[0]), "stacked", None)
    return together(samples) if together else None


def column(samples: Sequence[Any], name: str) -> Tensor:
    """An attribute of all samples as one tensor, asked for one sample after the other and let go before the next."""
    first = torch.as_tensor(getattr(samples[0], name))
    # numpy asks the system for large pages, which takes a third of the time
    out = torch.from_numpy(np.empty((len(samples), *first.shape), first.numpy().dtype))
    out[0] = first
    for row, sample in zip(out[1:], samples[1:], strict=True):
        row.copy_(torch.as_tensor(getattr(sample, name)))
    return out


def stacked(values: Sequence[Any]) -> Tensor:
    """Arrays or tensors of one shape as one tensor."""
    return torch.stack([torch.as_tensor(value) for value in values])
