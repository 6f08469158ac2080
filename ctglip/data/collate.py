"""Samples to batches on the CPU, texts by their numbers: what objectives call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ctglip.data.rendering import CropStack
from ctglip.data.samples import NO_TEXT, OrganBatch, OrganSample, ReportBatch, StudyBatch, StudySample

TextPool = Callable[..., tuple[Tensor, Tensor]]
"""Columns of text numbers to ``pool_ids`` and ``pool`` (``objectives.texts.Texts.collate``)."""
REPORT_TEXTS = ("findings", "impression", "report", "region_text", "region_sentences", "sentence_id")
"""The columns of a ``ReportBatch`` that number texts."""


def collate_organs(samples: Sequence[OrganSample], pool: TextPool, *others: Int[Tensor, "*n"]) -> OrganBatch:
    """Crops to one batch (at least one; all with the same number of negatives).

    Args:
        others: texts that are wanted in the pool besides, ``NO_TEXT`` where there is none.
    """
    integers = {name: integer_column(samples, name) for name in ("organ_id", "study_index", "text_id", "text_key")}
    negatives = torch.from_numpy(np.stack([np.asarray(sample.negative_ids, np.int64) for sample in samples]))
    pool_ids, texts = pool(integers["text_id"], negatives, *others)
    return OrganBatch(
        crops=CropStack.of([sample.crop for sample in samples], samples[0].settings),
        size=torch.from_numpy(np.stack([sample.size for sample in samples])),
        negative_ids=negatives,
        pool_ids=pool_ids,
        pool=texts,
        **integers,
    )


def collate_studies(samples: Sequence[StudySample], pool: TextPool) -> StudyBatch:
    """Studies with their organs to one batch (at least one, of one shape); of several views the first is taken."""
    integers = {name: joined(samples, name).long() for name in ("organ_id", "text_id", "text_key", "negative_ids")}
    pool_ids, texts = pool(integers["text_id"], integers["negative_ids"])
    return StudyBatch(
        image=column(samples, "image"),
        labels=None if samples[0].labels is None else column(samples, "labels"),
        boxes=torch.cat([torch.as_tensor(sample.boxes[0]) for sample in samples]),
        size=joined(samples, "size"),
        study_index=owners([len(sample.organ_id) for sample in samples]),
        pool_ids=pool_ids,
        pool=texts,
        **integers,
    )


def collate_reports(samples: Sequence[StudySample], pool: TextPool, texts: Sequence[str] = REPORT_TEXTS) -> ReportBatch:
    """Studies with their reports to one batch (at least one; images of one shape, equally many views).

    A sentence that a report has twice is there once.

    Args:
        texts: the columns whose texts are wanted in the pool; without ``report`` ``text_id`` is ``NO_TEXT``.
    """
    sections = {name: integer_column(samples, name) for name in ("findings", "impression", "report")}
    sentences = [list(dict.fromkeys(text for text in one.sentences.values() if text != NO_TEXT)) for one in samples]
    regions = [_sentences_of(one, indices) for one in samples for indices in one.organ_sentences]
    width = max(map(len, regions), default=0)
    padded = [ids + [NO_TEXT] * (width - len(ids)) for ids in regions]
    columns = {
        **sections,
        "region_id": joined(samples, "organ_id").long(),
        "region_text": joined(samples, "text_id").long(),
        "region_study": owners([len(one.organ_id) for one in samples]),
        "region_sentences": torch.tensor(padded, dtype=torch.long).reshape(len(regions), width),
        "sentence_id": torch.tensor([text for ids in sentences for text in ids], dtype=torch.long),
        "sentence_study": owners([len(ids) for ids in sentences]),
    }
    pool_ids, embeddings = pool(*(columns[name] for name in texts))
    report = sections["report"] if "report" in texts else torch.full((len(samples),), NO_TEXT)
    return ReportBatch(
        text_id=report,
        text_key=report,
        negative_ids=torch.zeros(len(samples), 0, dtype=torch.long),
        pool_ids=pool_ids,
        pool=embeddings,
        images=column(samples, "images"),
        row=torch.arange(len(samples)),
        boxes=torch.cat([torch.as_tensor(one.boxes).transpose(0, 1) for one in samples]),
        tags=column(samples, "tags").long(),
        labels=None if samples[0].labels is None else column(samples, "labels"),
        **columns,
    )


def images_of(samples: Sequence[OrganSample] | Sequence[StudySample]) -> Float[Tensor, "b c *s"]:
    """The images of all samples; crops are rendered together."""
    crops = [sample.crop for sample in samples if isinstance(sample, OrganSample)]
    return CropStack.of(crops, samples[0].settings).image if crops else column(samples, "image")  # pyright: ignore


def column(samples: Sequence[Any], name: str) -> Tensor:
    """An attribute that has one shape in all samples, ``[b, ...]``."""
    first = torch.as_tensor(getattr(samples[0], name))
    # numpy asks the system for large pages, which takes a third of the time
    out = torch.from_numpy(np.empty((len(samples), *first.shape), first.numpy().dtype))
    for row, sample in zip(out, samples, strict=True):
        row.copy_(torch.as_tensor(getattr(sample, name)))
    return out


def integer_column(samples: Sequence[Any], name: str) -> Int[Tensor, " b"]:
    """A whole number of each sample."""
    return torch.tensor([int(getattr(sample, name)) for sample in samples], dtype=torch.long)


def joined(samples: Sequence[Any], name: str) -> Tensor:
    """An attribute with a row for each organ, one sample's after the other's."""
    return torch.cat([torch.as_tensor(getattr(sample, name)) for sample in samples])


def owners(counts: Sequence[int]) -> Int[Tensor, " n"]:
    """For each organ the place of its image in the batch."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.long))


def _sentences_of(sample: StudySample, indices: Sequence[int]) -> list[int]:
    texts = (sample.sentences[index] for index in indices)
    return list(dict.fromkeys(text for text in texts if text != NO_TEXT))
