"""Masked image modelling: the published loss, holes that follow from the step alone, and what is learned by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctglip.config import load_settings
from ctglip.data.samples import StudySample
from ctglip.data.views import random_part
from ctglip.errors import ConfigError
from ctglip.losses.masked import normalized_patches, patchify
from ctglip.models.encoders.vit import ViTSettings
from ctglip.objectives.base import StepContext, join, total
from ctglip.objectives.mim import Mim, MimSettings
from ctglip.training.gradcache import accumulated_backward
from ctglip.training.pretrain_config import PretrainConfig
from tests.models.building import dual_encoder
from tests.objectives.studies import image_samples
from tests.objectives.toys import mim


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_the_mean_over_hidden_pixels_of_the_squared_error(normalize):
    objective = mim(2, normalize=normalize)
    batch = objective.collate(image_samples(2, 3))
    features = objective.encode(batch)
    losses, _ = objective.compute(features)
    image, errors = batch.image.double().numpy(), []
    told = features["prediction"].detach().double().numpy()
    for row in range(3):
        for patch in set(range(16)) - set(batch.visible_patches[row].tolist()):
            i, j = divmod(patch, 4)
            pixels = image[row, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].transpose(1, 2, 0).reshape(-1)
            if normalize:
                pixels = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
            errors.append((told[row, patch] - pixels) ** 2)
    assert len(errors) == 3 * 12
    assert losses["image"].item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    objective = mim(2, depth=1).double()
    batch = objective.collate(image_samples(2, 2))
    batch = type(batch)(**{**vars(batch), "image": batch.image.double()})
    weight = objective.encoder.get_parameter("blocks.0.mlp.linear1.weight")
    objective(batch)[0]["image"].backward()
    assert weight.grad is not None
    for at in ((0, 0), (5, 3)):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[at] += step
                values.append(objective(batch)[0]["image"].item())
                weight[at] -= step
        assert weight.grad[at].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_hidden_reaches_the_target_alone(dims):
    objective = mim(dims)
    batch = objective.collate(image_samples(dims, 2))
    plain = objective.encode(batch)
    patches = patchify(batch.image, 4)
    hidden = plain["covered"][..., None].bool().expand_as(patches)
    order = patchify(torch.arange(batch.image[0].numel()).view(1, *batch.image[0].shape), 4)
    changed = batch.image.flatten(1).scatter(1, order.flatten(1).expand(2, -1), patches.where(~hidden, 9).flatten(1))
    other = objective.encode(type(batch)(**{**vars(batch), "image": changed.view_as(batch.image)}))
    assert torch.equal(plain["prediction"], other["prediction"])
    assert not torch.equal(plain["target"], other["target"])
    seen = ~plain["covered"].bool()
    assert torch.equal(plain["target"][seen], other["target"][seen])


@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_gets_a_gradient_and_only_the_image_encoder_is_the_models(dims):
    objective = mim(dims)
    total(objective(objective.collate(image_samples(dims, 4)))[0]).backward()
    assert not [name for name, p in objective.named_parameters() if p.grad is None]
    assert {name.partition(".")[0] for name, _ in objective.named_parameters()} == {"encoder", "decoder"}
    assert not objective.aligned
    assert not objective.batch_coupled


def test_holes_and_parts_are_a_function_of_seed_step_and_study_alone():
    objective, samples = mim(3, part=(12, 8, 16)), image_samples(3, 6)
    whole = objective.collate(samples, StepContext(3, 5))
    torch.rand(3)
    share = objective.collate(samples[4:], StepContext(3, 5))
    for name in ("visible_patches", "image"):
        assert torch.equal(getattr(whole, name)[4:], getattr(share, name))
    assert whole.image.shape[2:] == (12, 8, 16)
    assert whole.visible_patches.shape == (6, 6)
    for other in (objective.collate(samples, StepContext(3, 6)), objective.collate(samples, StepContext(4, 5))):
        assert not torch.equal(whole.visible_patches, other.visible_patches)
        assert not torch.equal(whole.image, other.image)


def test_micro_batches_joined_are_the_batch():
    objective, samples = mim(2), image_samples(2, 6)
    batch = objective.collate(samples)
    whole, _ = objective(batch)
    pieces = [batch.piece(0, 4), batch.piece(4, 6)]
    joined, _ = objective.compute(join([objective.encode(piece) for piece in pieces]))
    torch.testing.assert_close(joined["image"], whole["image"], atol=1e-5, rtol=1e-5)
    total(whole).backward()
    expected = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    accumulated_backward(objective, pieces)
    for name, p in objective.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_patches_may_have_an_edge_along_each_axis_and_channels_may_be_missing():
    encoder = ViTSettings(patch=(4, 8, 2), dim=24, depth=2, heads=2, positions="rope")
    objective = Mim(dual_encoder(encoder=encoder, in_channels=3), MimSettings.model_validate({"image": SMALL}))
    batch = objective.collate(image_samples(3, 2))
    features = objective.encode(batch)
    assert features["prediction"].shape == features["target"].shape == (2, 4 * 2 * 8, 4 * 8 * 2 * 2)
    assert torch.isfinite(objective(batch)[0]["image"])


SMALL = {"width": 24, "depth": 1, "heads": 2}


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_hidden_is_learned_from_what_is_seen(dims):
    """Images are one of four patterns each: 1 is the error of a guess at the mean of each patch."""
    objective = mim(dims)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for step in range(120):
        optimizer.zero_grad()
        total(objective(objective.collate(patterns(dims, step), StepContext(step=step)))[0]).backward()
        optimizer.step()
    with torch.no_grad():
        error = total(objective.eval()(objective.collate(patterns(dims, 10_000)))[0]).item()
    assert error < 0.3


def patterns(dims: int, seed: int) -> list[StudySample]:
    known = np.tile(np.random.default_rng(0).standard_normal((4, 2, *[4] * dims)), (1, 1, *[4] * dims))
    rng = np.random.default_rng(seed)
    noise = 0.1 * rng.standard_normal((8, *known.shape[1:]))
    return image_samples(dims, 8, list(known[rng.integers(0, 4, 8)] + noise))


# --- bad input


def refused(build: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        build()


def test_what_does_not_fit_ends_with_one_line():
    refused(lambda: mim(2, part=(8, 20)).collate(image_samples(2, 2)), r"objective.part is \(8, 20\), and images have")
    refused(lambda: mim(2, part=(8, 8, 8)).collate(image_samples(2, 2)), "objective.part")
    refused(lambda: mim(2, part=(8, 6)).collate(image_samples(2, 2)), "must be multiples")
    cnn = ["model.encoder={name: cnn}"]
    refused(lambda: load_settings(PretrainConfig, "small/mim_ct", cnn), "model.encoder is cnn")
    refused(lambda: load_settings(PretrainConfig, "small/mim_ct", ["data.organs=[liver]"]), "reads images alone")
    refused(lambda: load_settings(PretrainConfig, "small/cxr_mim", ["data.copies=2"]), "compares no views")


def test_a_part_reaches_every_edge():
    image = np.arange(12.0).reshape(1, 3, 4)
    found = {random_part(image, (2, 3), np.random.default_rng(seed))[0, 0, 0] for seed in range(40)}
    assert found == {0, 1, 4, 5}


def test_normalised_patches_have_mean_0_and_deviation_1():
    patches = torch.tensor([[[1.0, 2, 3, 6], [5, 5, 5, 5]]])
    found = normalized_patches(patches)
    assert found[0, 0].tolist() == pytest.approx([-0.92582, -0.46291, 0.0, 1.38873], abs=1e-4)
    assert found[0, 1].tolist() == [0, 0, 0, 0]
