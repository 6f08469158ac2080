"""A radiograph or scan with its report: both sections, sentences, regions with their sentences, tags. What report-level
objectives (IMITATE, ASG, ECAMP, and PLACE as re-implemented from its abstract) are fed with, in 2D and 3D.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ctglip.objectives.samples import Batch, column
from ctglip.objectives.texts import Texts


class ReportSample(Protocol):
    """One radiograph or scan with its report; ``data.report_texts.ReportSample`` is one. Texts are numbers of the text
    bank,
    -1 where there is no such text.

    Attributes:
        images: ``[v, c, *s]``, v views of one study.
        boxes: ``[v, m, 2 d]``, its regions in each view, half-open ``(low, high)`` for each axis, in pixels.
        region_id: ``[m]``, which regions, counted as the data source's ``regions``.
        region_text: ``[m]``, all that is said of each region as one text.
        findings, impression, report: the sections, and both as one text.
        sentences: sentence index -> text.
        region_sentences: for each region the indices of its sentences.
        tags: ``[t]``, 1 affirmed, 0 denied, -1 unsaid.
        labels: integer ``[*s]``, organ labels of the first view, or None.
    """

    @property
    def images(self) -> Any: ...
    @property
    def boxes(self) -> Any: ...
    @property
    def region_id(self) -> Any: ...
    @property
    def region_text(self) -> Any: ...
    @property
    def findings(self) -> int: ...
    @property
    def impression(self) -> int: ...
    @property
    def report(self) -> int: ...
    @property
    def sentences(self) -> Mapping[int, int]: ...
    @property
    def region_sentences(self) -> Sequence[Sequence[int]]: ...
    @property
    def tags(self) -> Any: ...
    @property
    def labels(self) -> Any: ...


@dataclass(frozen=True)
class ReportBatch(Batch):
    """B studies with M regions and N sentences, one study's after the other's; see ``ReportSample``.

    ``text_id`` and ``text_key`` are the whole reports'. A text number of -1 says that there is none.

    Attributes:
        images: every study in V views.
        row: the place of each study in the batch that it was collated in; unlike ``region_study`` it stays as it is
            when that batch is cut into micro-batches, so it says in ``compute`` what belongs together.
        boxes: of the regions, in pixels of each view.
        region_study: the image of each region.
        region_id: which region it is.
        region_text: all that is said of it, as one text.
        region_sentences: its sentences one by one, filled up with -1.
        sentence_id, sentence_study: every sentence of a study once, and the study's image.
        findings, impression, report: one for each study.
        tags: 1 affirmed, 0 denied, -1 unsaid.
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
        """Every text that the batch needs, -1 where there is none."""
        own = (self.region_text, self.region_sentences, self.sentence_id, self.findings, self.impression, self.report)
        return torch.cat([super().all_ids(), *(ids.flatten() for ids in own)])

    def cut(self, start: int, stop: int) -> dict[str, Any]:
        """The columns of images ``start .. stop - 1``."""
        columns = self.columns()
        for name in (
            *Batch.__dataclass_fields__,
            "images",
            "row",
            "findings",
            "impression",
            "report",
            "tags",
            "labels",
        ):
            if columns.get(name) is not None:
                columns[name] = columns[name][start:stop]
        for kind in ("region", "sentence"):
            study = columns[f"{kind}_study"]
            rows = (study >= start) & (study < stop)
            for name in [name for name in columns if name.startswith(kind)] + ["boxes"] * (kind == "region"):
                columns[name] = columns[name][rows]
            columns[f"{kind}_study"] = columns[f"{kind}_study"] - start
        return columns


TOLD = ("findings", "impression", "report", "region_text", "region_sentences", "sentence_id")
"""The columns of a ``ReportBatch`` that number texts."""


def collate_reports(samples: Sequence[ReportSample], texts: Texts, told: Sequence[str] = TOLD) -> ReportBatch:
    """Reports to one batch on the CPU (at least one; images of one shape, equally many views).

    A sentence that a report has twice is there once.

    Args:
        told: the columns whose texts are wanted in the pool; without ``report`` ``text_id`` is -1.
    """
    sections = {
        name: _numbers([getattr(one, name) for one in samples]) for name in ("findings", "impression", "report")
    }
    sentences = [list(dict.fromkeys(number for number in one.sentences.values() if number >= 0)) for one in samples]
    regions = [_own_sentences(one, indices) for one in samples for indices in one.region_sentences]
    width = max(map(len, regions), default=0)
    filled = torch.tensor([own + [-1] * (width - len(own)) for own in regions], dtype=torch.long)
    columns = {
        **sections,
        "region_id": torch.cat([torch.as_tensor(one.region_id, dtype=torch.long) for one in samples]),
        "region_text": torch.cat([torch.as_tensor(one.region_text, dtype=torch.long) for one in samples]),
        "region_study": _owner([len(one.region_id) for one in samples]),
        "region_sentences": filled.reshape(len(regions), width),
        "sentence_id": _numbers([number for own in sentences for number in own]),
        "sentence_study": _owner([len(own) for own in sentences]),
    }
    pool_ids, pool = texts.collate(*(columns[name] for name in told))
    whole = sections["report"] if "report" in told else torch.full((len(samples),), -1)
    return ReportBatch(
        text_id=whole,
        text_key=whole,
        negative_ids=torch.zeros(len(samples), 0, dtype=torch.long),
        pool_ids=pool_ids,
        pool=pool,
        images=column(samples, "images"),
        row=torch.arange(len(samples)),
        boxes=torch.cat([torch.as_tensor(one.boxes).transpose(0, 1) for one in samples]),
        tags=column(samples, "tags").long(),
        labels=None if samples[0].labels is None else column(samples, "labels"),
        **columns,
    )


def _own_sentences(sample: ReportSample, indices: Sequence[int]) -> list[int]:
    numbers = (sample.sentences[index] for index in indices)
    return list(dict.fromkeys(number for number in numbers if number >= 0))


def _numbers(values: Sequence[int]) -> Int[Tensor, " n"]:
    return torch.tensor([int(value) for value in values], dtype=torch.long)


def _owner(counts: Sequence[int]) -> Int[Tensor, " n"]:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.long))
