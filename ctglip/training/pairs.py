"""Samples of what a run learns from, as a page: what the model sees, the text beside it, and what is false of it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ctglip.data.augment import AugmentationParameters
from ctglip.data.crops import voxel_mm
from ctglip.data.dataset import TextDataset
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.features.text_bank import TextBank
from ctglip.files import write_text
from ctglip.objectives.texts import Texts
from ctglip.pages.cxr import cxr_picture
from ctglip.pages.pairs import NegativeText, PairSample, PairsPage, render
from ctglip.pages.parts import Fact, Picture
from ctglip.pages.pictures import best_slice, slice_picture
from ctglip.training.assembly import Assembly
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.types import OrganRow, Region
from ctglip.vocabulary.organs import OrganDictionary

_DARK_HU = -300
_NEGATIVES = 4
_PIXELS = 288
_REGIONS = 8
_SILENT = "Nothing is said of this organ: it teaches anatomy alone."
_NOTES = (
    "Pictures show what the model sees in the first step, with shifts and changes of HU as the augmentation has them; "
    "the outline is the mask that goes with it.",
    "A text that is false of an organ is worded now as in the dictionary, now as in another study's report.",
)


def write_pairs(path: Path, parts: Assembly, config: PretrainConfig, count: int) -> None:
    """Write the page of the first batch's pairs: picture, mask outline, text, sampled negatives.

    Args:
        path: the page.
        parts: the run's; its first batch is drawn as training draws it, augmentation included.
        config: the run's.
        count: samples at most, shared by the parts of a mixture.
    """
    banks = [module.bank for module in parts.objective.modules() if isinstance(module, Texts)]
    bank = banks[0] if banks else None
    share = -(-count // len(parts.sources))
    samples = [s for source in parts.sources.values() for s in _samples(source, parts, config, bank)[:share]]
    with_text, abnormal = (sum(getattr(one, name) for one in parts.taught) for name in ("with_text", "abnormal"))
    release = parts.release
    facts = (
        Fact(
            "Organs with a text",
            str(with_text),
            f"{abnormal} abnormal",
        ),
        Fact("Grid of a crop" if release.reads_crops else "Grid", " × ".join(map(str, release.sides))),
    )
    if any(sample.negatives for sample in samples):
        facts += (Fact("Negatives of each organ", str(config.data.negatives)),)
    write_text(path, render(PairsPage("What this run learns from", tuple(samples[:count]), facts, _NOTES)))


def _samples(
    source: TextDataset[Any], parts: Assembly, config: PretrainConfig, bank: TextBank | None
) -> list[PairSample]:
    first_batch = source.batch(0, parts.rank, parts.world)
    if isinstance(source, OrganDataset):
        return [_crop(one, source, parts, config, bank) for one in _in_turn(first_batch)]
    names = source.studies(0)
    studies = names if len(names) == len(first_batch) else [""] * len(first_batch)
    rendering = _RENDERINGS[config.data.name](config.data, tuple(getattr(source, "regions", ())))
    return [
        found
        for one, study_id in zip(first_batch, studies, strict=True)
        for found in _scan(one, study_id, parts.release.organs, rendering, bank, parts.dictionaries.organs)
    ]


@dataclass(frozen=True)
class _Rendering:
    """How scans became inputs, which their pictures (axial slices with an outline) undo, and the names of regions.

    Attributes:
        title: of a whole image.
        boxed: where all regions of a report are shown.
    """

    title: ClassVar[str] = "Whole scan"
    boxed: ClassVar[bool] = False
    data: Any
    regions: tuple[str, ...]

    def picture(self, image: np.ndarray, masks: Mapping[str, np.ndarray], subject: str) -> Picture | None:
        """An image with what is meant in it."""
        settings = self.data.crops if isinstance(self.data, CropDataSettings) else self.data.input
        return _picture(image, settings.windows_hu, (1.0, 1.0, 1.0), masks, subject)


class _TokenRendering(_Rendering):
    """Cached tokens have no pictures."""

    def picture(self, image: np.ndarray, masks: Mapping[str, np.ndarray], subject: str) -> Picture | None:  # noqa: ARG002
        return None


class _CxrRendering(_Rendering):
    """Radiographs with boxes."""

    title = "Whole radiograph"
    boxed = True

    def picture(self, image: np.ndarray, masks: Mapping[str, np.ndarray], subject: str) -> Picture | None:
        grey = image[0] * self.data.std + self.data.mean
        boxes = [Region(name, *_edges(inside)) for name, inside in masks.items() if inside.any()]
        return cxr_picture(grey, 1.0, boxes, longest_px=_PIXELS, subject=subject)


_RENDERINGS: Mapping[str, type[_Rendering]] = {
    "crops": _Rendering,
    "scans": _Rendering,
    "tokens": _TokenRendering,
    "cxr": _CxrRendering,
}
"""By the ``name`` of the data's settings."""


def _edges(inside: np.ndarray) -> tuple[int, int, int, int]:
    """First row, row after the last one, and the columns likewise."""
    rows, columns = np.nonzero(inside)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def _in_turn(samples: Sequence[Any]) -> list[Any]:
    """Those with a text first, one of each organ, then the next of each."""
    by_organ: dict[int, list[Any]] = {}
    for one in sorted(samples, key=lambda one: one.text_id < 0):
        by_organ.setdefault(one.organ_id, []).append(one)
    turns = max(len(several) for several in by_organ.values())
    return [several[turn] for turn in range(turns) for several in by_organ.values() if turn < len(several)]


def _crop(
    sample: Any, dataset: OrganDataset, parts: Assembly, config: PretrainConfig, bank: TextBank | None
) -> PairSample:
    caption, texts, instance = dataset.captions[sample.row], dataset.texts, dataset.instances[sample.row]
    organ = parts.dictionaries.organs[parts.release.organs[sample.organ_id]]
    text = _text(bank, sample.text_id)
    reported = {texts[number] for statement in caption.captions for number in statement.report}
    denied = [
        words
        for key, words in dataset.organ_texts.negatives.paraphrases.items()
        if key[0] == caption.organ and key[1] in caption.hard
    ]
    hard = {texts[number] for words in denied for number in (*words.dictionary, *words.reports)}
    false = [_text(bank, number) for number in sample.negative_ids[:_NEGATIVES] if number >= 0]
    x, y, z = voxel_mm(np.asarray(sample.size))
    return PairSample(
        study_id=instance.study_id,
        organ=organ.display,
        text=text or _SILENT,
        source=_source(text, reported, sample.parameters.mirrored),
        picture=_picture(
            np.asarray(sample.image), config.data.crops.windows_hu, (float(x), float(y), float(z)),
            {organ.display: np.asarray(sample.mask)[0] > 0.5},
            f"the crop of {organ.display} of study {instance.study_id}",
        ),
        negatives=tuple(NegativeText(one, one in hard) for one in false),
        facts=_facts(instance.row, sample.parameters),
    )  # fmt: skip


def _source(text: str, reported: Container[str], mirrored: bool) -> str:
    if not text:
        return ""
    wording = "report sentence" if text in reported else "dictionary wording"
    return f"{wording}, of a mirrored crop: sides are exchanged in picture, organ and text" if mirrored else wording


def _facts(row: OrganRow, change: AugmentationParameters) -> tuple[Fact, ...]:
    """The organ's volume, and what was changed of its crop at this step."""
    cut = (Fact("Cut off", "by the field of view"),) if row.touches_border else ()
    shift = ", ".join(map(str, change.shift_voxels))
    changed = Fact("Changed", f"{change.shift_hu:+.0f} HU, {shift} voxels, size × {change.zoom:.2f}")
    return (Fact("Volume", f"{row.volume_ml:.0f} ml"), *cut, changed)


def _scan(
    sample: Any,
    study_id: str,
    names: Sequence[str],
    rendering: _Rendering,
    bank: TextBank | None,
    organs: OrganDictionary,
) -> Iterator[PairSample]:
    """A whole scan or radiograph with its text, or with each of its organs."""
    image, title = np.asarray(sample.image), rendering.title
    subject = f"study {study_id}" if study_id else f"a {title.split()[-1]}"
    if len(sample.tags):
        yield _report(sample, title, rendering, bank)
    elif sample.report >= 0:
        picture = rendering.picture(image, {}, subject)
        yield PairSample(study_id, title, _text(bank, sample.report), "report", picture)
    elif bank is None:
        yield PairSample(study_id, title, "", "", rendering.picture(image, {}, subject))
    else:
        for number, organ_id in enumerate(sample.organ_id[:3]):
            organ = organs[names[int(organ_id)]]
            picture = rendering.picture(image, {organ.display: _found(sample, number, organ.name, organs)}, subject)
            false = [_text(bank, one) for one in sample.negative_ids[number][:_NEGATIVES] if one >= 0]
            negatives = tuple(NegativeText(one) for one in false)
            text = _text(bank, sample.text_id[number]) or _SILENT
            yield PairSample(study_id, organ.display, text, "", picture, negatives)


def _report(sample: Any, title: str, rendering: _Rendering, bank: TextBank | None) -> PairSample:
    """A whole scan or radiograph with both sections of its report."""
    sections = {name: _text(bank, getattr(sample, name)) for name in ("findings", "impression")}
    text = " ".join(f"{name.capitalize()}: {section or 'none.'}" for name, section in sections.items())
    facts = (
        Fact("Views", str(len(sample.images))),
        Fact("Regions", str(len(sample.organ_id)), f"{int((sample.text_id >= 0).sum())} with sentences"),
        Fact("Tags", str(int((sample.tags == 1).sum())), f"{int((sample.tags == 0).sum())} denied"),
    )
    image, with_text = np.asarray(sample.image), np.flatnonzero(sample.text_id >= 0)[:_REGIONS]
    boxes = {
        rendering.regions[int(sample.organ_id[n])].replace("_", " "): _inside(image, sample.boxes[0][n])
        for n in with_text
    }
    picture = rendering.picture(image, boxes if rendering.boxed else {}, f"study {sample.study_id}")
    return PairSample(sample.study_id, title, text, "report", picture, facts=facts)


def _found(sample: Any, number: int, organ: str, organs: OrganDictionary) -> np.ndarray:
    """Where an organ is, by its labels or its box."""
    image = np.asarray(sample.image)
    if image.ndim == 1:  # cached tokens
        return np.zeros(0, dtype=bool)
    if sample.labels is not None:
        return np.isin(np.asarray(sample.labels), list(organs.roi_labels(organ)))
    return _inside(image, sample.boxes[0][number])


def _inside(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """True within a box, on the image's grid."""
    ends = np.asarray(box).round().astype(int)
    inside = np.zeros(image.shape[1:], dtype=bool)
    inside[tuple(slice(low, high) for low, high in zip(ends[::2], ends[1::2], strict=True))] = True
    return inside


def _picture(
    image: np.ndarray,
    windows: Sequence[tuple[float, float]],
    spacing_mm: tuple[float, float, float],
    masks: Mapping[str, np.ndarray],
    subject: str,
) -> Picture | None:
    """An axial slice in the window that shows the organ best; None where no channel is a window."""
    if not windows:
        return None
    inside = next(iter(masks.values()), np.ones(image.shape[1:], dtype=bool))
    widths = [high - low for low, high in windows]
    channel = int(np.argmin(widths))
    widest = int(np.argmax(widths))
    if inside.any() and float(np.median(_hu(image, windows, widest)[inside])) < _DARK_HU:
        channel = widest
    labels = inside.astype(np.uint8) if masks else None
    outlined = {name: [1] for name in masks}
    index = best_slice(image.shape[1:], "axial", labels, outlined)
    return slice_picture(
        _hu(image, windows, channel), spacing_mm, "axial", index, labels, outlined,
        window_hu=windows[channel], longest_px=_PIXELS, subject=subject,
    )  # fmt: skip


def _hu(image: np.ndarray, windows: Sequence[tuple[float, float]], channel: int) -> np.ndarray:
    """HU of a rendered channel, as far as its window reaches."""
    low, high = windows[channel]
    return low + (image[channel].astype(np.float32) + 1) / 2 * (high - low)


def _text(bank: TextBank | None, number: Any) -> str:
    """A text by its number; nothing where there is none, or where the objective reads images alone."""
    return bank.texts(torch.tensor([int(number)]))[0] if bank is not None and int(number) >= 0 else ""
