"""A model's input drawn from whole numbers: the formula voxel by voxel, in any company, whole or cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ctglip.config import validate
from ctglip.data import rendering
from ctglip.data.augment import AugmentationParameters, augment_crop
from ctglip.data.caption_parts import CaptionRules, caption_part, join_captions
from ctglip.data.caption_tables import CaptionTable
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.organs import CropDataSettings, OrganTexts
from ctglip.data.rendering import CropStack, render
from ctglip.data.samples import NO_TEXT, OrganBatch
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

GRID = (9, 10, 11)
SETTINGS = CropSettings(
    grid=GRID, windows_hu=((-1000, 1000), (-160, 240)), relative_hu=True, details=("highest", "lowest")
)
CHANGES = (
    AugmentationParameters(),
    AugmentationParameters(shift_voxels=(1, 0, -1), shift_hu=4.5),
    AugmentationParameters(shift_voxels=(0, 1, 0), gain=0.02, shift_hu=-3.25),
    AugmentationParameters(zoom=0.9, shift_voxels=(-1, 0, 0)),
    AugmentationParameters(mirrored=True, shift_voxels=(0, 0, 1), noise_seed=3),
)


def crop(seed: int) -> OrganCrop:
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1100, 1200, GRID).astype(np.int16)
    detail = rng.integers(-127, 128, (2, *GRID)).astype(np.int8)
    mask = np.zeros(GRID, np.uint8)
    mask[2:7, 2:8, 2:9] = rng.integers(0, 256, (5, 6, 7))
    return OrganCrop("liver", hu, detail, mask, np.zeros(4, np.float32), float(np.median(hu)))


def changed() -> list[OrganCrop]:
    return [augment_crop(crop(seed), change, 5.0 * bool(change.noise_seed))[0] for seed, change in enumerate(CHANGES)]


def plain(one: OrganCrop, settings: CropSettings) -> np.ndarray:
    """The channels of one crop, from their definitions."""
    instances = np.ix_(*(np.clip(np.arange(n) + s, 0, n - 1) for n, s in zip(GRID, one.shift_voxels, strict=True)))
    hu = one.hu.astype(float)[instances] + one.shift_hu
    cover = one.mask.astype(float)[instances] / 255
    median = float(one.median_hu) + one.shift_hu
    channels = [np.clip(2 * (hu - low) / (high - low) - 1, -1, 1) for low, high in settings.windows_hu]
    channels.append(np.clip((hu - median) / 60, -2, 2) * np.clip(4 * cover - 3, 0, 1))
    channels += [np.clip(above[instances] / 60, -2, 2) * np.clip(2 * cover, 0, 1) for above in one.detail.astype(float)]
    return np.stack([*channels, cover] if settings.mask_channel else channels)


@pytest.mark.parametrize("mask_channel", [True, False])
def test_channels_are_the_formula_of_each_voxel(mask_channel: bool) -> None:
    settings = SETTINGS.model_copy(update={"mask_channel": mask_channel})
    crops = changed()
    assert {one.hu.dtype for one in crops} == {np.dtype(np.int16), np.dtype(np.float32)}
    drawn = CropStack.of(crops, settings).to("cpu")
    for one, image, mask in zip(crops, drawn.image, drawn.mask, strict=True):
        np.testing.assert_allclose(image.numpy(), plain(one, settings), atol=2e-5)
        assert np.array_equal(mask.numpy(), CropStack.of([one], settings).mask[0].numpy())


def test_a_crop_looks_the_same_alone_in_company_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = [*changed(), crop(7)]
    stack = CropStack.of(crops, SETTINGS)
    whole = stack.to("cpu")
    for number, one in enumerate(crops):
        assert torch.equal(whole.image[number], render([one], SETTINGS)[0])
    part = stack[1:4].to("cpu")
    assert torch.equal(part.image, whole[1:4].image)
    assert torch.equal(part.mask, whole[1:4].mask)
    monkeypatch.setattr(rendering, "_VOXELS_AT_ONCE", 2 * int(np.prod(GRID)))
    assert torch.equal(stack.to("cpu").image, whole.image), "drawn two at a time"
    assert torch.equal(stack.to("cpu").image, whole.image), "drawing leaves the numbers as they are"
    assert stack.image is stack.image, "drawn once, however often it is asked for"


def organ_batch(crops: list[Any]) -> OrganBatch:
    count = len(crops)
    number = torch.arange(count)
    return OrganBatch(
        text_id=number, text_key=number, negative_ids=torch.full((count, 2), NO_TEXT), pool_ids=number,
        pool=torch.randn(count, 4), crops=CropStack.of(crops, SETTINGS), size=torch.randn(count, 4), organ_id=number,
        study_index=number,
    )  # fmt: skip


def test_a_batch_is_drawn_where_it_is_wanted() -> None:
    crops = [crop(seed) for seed in range(6)]
    batch = organ_batch(crops)
    assert isinstance(batch.crops, CropStack), "travels as numbers"
    drawn = batch.to("cpu")
    assert torch.equal(drawn.image, render(crops, SETTINGS))
    assert drawn.mask.data_ptr() == drawn.image[:, -1:].data_ptr(), "the mask is there already"
    assert (len(batch), batch.image_count) == (len(drawn), drawn.image_count) == (6, 6)
    early, late = batch.piece(2, 5).to("cpu"), drawn.piece(2, 5)
    assert torch.equal(early.image, late.image)
    assert torch.equal(early.mask, late.mask)
    assert torch.equal(early.pool, late.pool)


def test_of_an_organ_that_nothing_is_said_of_nothing_is_false_either() -> None:
    dictionaries = (load_organs(), load_abnormalities())
    lesion = Finding(0, "findings", "A lesion of the liver.", "liver", "lesion", "affirmed")
    reports = [([], "liver"), ([lesion], "liver")]
    settings = validate(CropDataSettings, {"negatives": 3}, "test")
    rules = CaptionRules(*dictionaries)
    captions = CaptionTable(join_captions([caption_part(reports, rules)], rules), rules)
    texts, taken = OrganTexts(captions, settings, "same_organ", 0, "the test"), {}
    silent, rng = texts.captions[0], np.random.default_rng(0)
    assert silent.kind == "silent"
    assert (texts.negatives.draw(silent, 3, 0.5, rng) != NO_TEXT).all(), "though something could be"
    text, key, false = texts.draw(silent, rng, taken)
    assert (text, key, false.tolist(), taken) == (NO_TEXT, NO_TEXT, [NO_TEXT] * 3, {})
