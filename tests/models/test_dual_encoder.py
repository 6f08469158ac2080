from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ctglip.errors import ModelError
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.region_readers import Regions
from tests.models.building import dual_encoder

ENCODER = CNNSettings(widths=(8, 16), blocks=(0, 1))


def made(regions: dict[str, Any] | None = None, **inputs: Any) -> DualEncoder:
    shape = {"encoder": ENCODER, "in_channels": 2, "dim": 16, "embedding_dim": 8, "text_dim": 12}
    return dual_encoder(**shape, regions={"name": "crop", **(regions or {})}, **inputs)


def features(model: DualEncoder, image: Tensor, mask: Tensor, size: Tensor) -> Tensor:
    return model(image, Regions(mask=mask, size=size))


def inputs(count: int = 3):
    torch.manual_seed(0)
    mask = (torch.rand(count, 1, 16, 16, 16) > 0.5).float()
    return torch.randn(count, 2, 16, 16, 16), mask, torch.randn(count, 4)


def test_image_mask_and_size_all_reach_the_feature():
    model = made()
    image, mask, size = inputs()
    plain = features(model, image, mask, size)
    other_mask = mask.clone()
    other_mask[:, :, :8] = 0
    for changed in ((image + 1, mask, size), (image, other_mask, size), (image, mask, size + 1)):
        assert not torch.allclose(features(model, *changed), plain, atol=1e-4)


def test_size_is_left_out_where_the_settings_say_so():
    model = made(sizes=False)
    image, mask, size = inputs()
    torch.testing.assert_close(features(model, image, mask, size), features(model, image, mask, size * 5))


def test_heads_are_three_and_their_vectors_have_length_one():
    model = made()
    found = features(model, *inputs())
    anatomy, diagnosis, text = model.anatomy(found), model.diagnosis(found), model.text(torch.randn(5, 12))
    assert not torch.allclose(anatomy, diagnosis)
    for vectors in (anatomy, diagnosis, text):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_half_precision_crops_and_no_organs_are_welcome():
    model = made()
    image, mask, size = inputs()
    half = features(model, image.half(), mask.to(torch.uint8), size.half())
    torch.testing.assert_close(half, features(model, image, mask, size), atol=2e-2, rtol=0)
    assert model.diagnosis(features(model, image[:0], mask[:0], size[:0])).shape == (0, 8)


@pytest.mark.parametrize("pooling", ["mean", "mean_peak"])
def test_what_lies_around_an_organ_is_read_where_the_settings_say_so(pooling):
    """Far from the organ, beyond what a voxel of it sees, the image changes nothing or all."""
    image, _, size = inputs()
    mask = torch.zeros(3, 1, 16, 16, 16)
    mask[..., :3] = 1
    changed = image.clone()
    changed[..., 14:] += 5
    for context in (False, True):
        model = made({"pooling": pooling, "levels": (0,), "context": context})
        model.encoder.stem[1] = torch.nn.Identity()  # group normalisation sees the whole crop
        before, after = (features(model, which, mask, size) for which in (image, changed))
        assert torch.allclose(before, after, atol=1e-2) == (not context)


def test_images_of_more_channels_than_it_reads_are_named():
    with pytest.raises(ModelError, match="have 3 channels, the model reads 2"):
        made().encode_image(torch.zeros(1, 3, 16, 16, 16))
