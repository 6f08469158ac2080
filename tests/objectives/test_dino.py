"""Self-distillation: the published loss, center and teacher, views that follow from the step, what is released."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from ctglip.data.views import ViewSettings, random_view
from ctglip.errors import ConfigError
from ctglip.losses.self_distillation import moved_center, self_distillation, teacher_answer
from ctglip.objectives.base import StepContext, join, total
from ctglip.objectives.mixture import Mixture
from ctglip.training.gradcache import cached_backward, micro_batches
from tests.objectives.studies import image_samples
from tests.objectives.toys import dino

# --- the published terms


def test_the_loss_is_the_cross_entropy_of_all_pairs_of_different_views():
    rng = np.random.default_rng(0)
    student, teacher, center = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 2, 5)), rng.standard_normal(5)
    terms = []
    for row in range(3):
        for shown in range(2):
            told = np.exp((teacher[row, shown] - center) / 0.04)
            told /= told.sum()
            for view in range(4):
                said = np.exp(student[row, view] / 0.1)
                if view != shown:
                    terms.append(-(told * np.log(said / said.sum())).sum())
    assert len(terms) == 3 * 2 * 3
    given = [torch.from_numpy(value) for value in (student, teacher, center)]
    found = self_distillation(given[0], teacher_answer(given[1], given[2], 0.04), 0.1)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-9)
    assert moved_center(given[2], given[1], 0.9).numpy() == pytest.approx(
        0.9 * center + 0.1 * teacher.reshape(-1, 5).mean(0)
    )
    assert torch.equal(moved_center(given[2], given[1][:0], 0.9), given[2])


def test_the_gradient_is_that_of_finite_differences_and_the_teacher_takes_none():
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    told = teacher_answer(teacher, torch.zeros(4), 0.5)
    assert not told.requires_grad
    assert torch.autograd.gradcheck(lambda value: self_distillation(value, told, 0.3), student)


def test_a_step_moves_teacher_and_center_by_their_momenta():
    objective = dino(2, momentum=0.9, center_momentum=0.6)
    with torch.no_grad():
        for part in (objective.encoder, objective.head):
            for value in part.parameters():
                value.add_(0.5)
    before = copy.deepcopy(objective)
    batch = objective.collate(image_samples(2, 4))
    features = objective.encode(batch)
    objective.compute(features, StepContext(progress=0.25))
    momentum = 1 - 0.1 * (1 + math.cos(math.pi / 4)) / 2
    for own, theirs, old in zip(
        objective.encoder.parameters(), objective.teacher[0].parameters(), before.teacher[0].parameters(), strict=True
    ):
        torch.testing.assert_close(theirs, momentum * old + (1 - momentum) * own)
    rows = before.teacher[1].similarities(features["teacher"]).flatten(0, 1)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(objective.center, 0.4 * rows.mean(0))
    objective.eval()
    state = copy.deepcopy(objective.state_dict())
    objective(batch, StepContext(progress=0.5))
    for name, value in objective.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} moved in evaluation"


def test_the_teacher_sharpens_over_the_run_as_its_points_say():
    objective = dino(2, teacher_temperature=[[0.0, 0.02], [0.5, 1.0]]).eval()
    features = objective.encode(objective.collate(image_samples(2, 4)))
    entropies = [
        objective.compute(features, StepContext(progress=progress))[1]["teacher_entropy"] for progress in (0.0, 0.5)
    ]
    assert entropies[0] < 0.9 * entropies[1] < math.log(12)


def test_prototypes_stay_for_the_first_share_of_a_run():
    objective = dino(2, frozen_prototypes=0.5)
    batch = objective.collate(image_samples(2, 4))
    for progress, learned in ((0.4, False), (0.5, True)):
        objective.zero_grad(set_to_none=True)
        total(objective(batch, StepContext(progress=progress))[0]).backward()
        assert (objective.head.prototypes.grad is not None) == learned


# --- what holds for every objective


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["vit", "cnn"])
def test_every_parameter_of_the_student_gets_a_gradient_and_none_of_the_teacher(dims, encoder):
    objective = dino(dims, encoder, views={"local_size": 8})
    losses, report = objective(objective.collate(image_samples(dims, 4)))
    total(losses).backward()
    assert not [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not [name for name, p in objective.teacher.named_parameters() if p.requires_grad or p.grad is not None]
    assert all(math.isfinite(value) for value in report.values())
    assert not objective.aligned


def test_views_are_a_function_of_seed_step_and_study_alone():
    objective, samples = dino(3), image_samples(3, 5)
    whole = objective.collate(samples, StepContext(3, 5))
    torch.rand(3)
    share = objective.collate(samples[3:], StepContext(3, 5))
    for name in ("global_views", "local_views"):
        assert torch.equal(getattr(whole, name)[3:], getattr(share, name))
        assert not torch.equal(getattr(whole, name)[:, 0], getattr(whole, name)[:, 1])
    other = objective.collate(samples, StepContext(3, 6))
    assert not torch.equal(whole.global_views, other.global_views)
    assert whole.global_views.shape == (5, 2, 2, 8, 8, 8)
    assert whole.local_views.shape == (5, 3, 2, 4, 4, 4)


@pytest.mark.parametrize("local_views", [0, 3])
def test_micro_batches_joined_are_the_batch(local_views):
    objective = dino(2, views={"local_views": local_views})
    other = copy.deepcopy(objective)
    batch = objective.collate(image_samples(2, 6))
    pieces = micro_batches(batch, 4)
    joined, _ = objective.eval().compute(join([objective.encode(piece) for piece in pieces]))
    whole, _ = objective(batch)
    torch.testing.assert_close(joined["distillation"], whole["distillation"], atol=1e-6, rtol=1e-6)
    objective.train()
    total(objective(batch)[0]).backward()
    cached_backward(other, pieces)
    for (name, own), theirs in zip(objective.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, msg=name)
        if own.requires_grad:
            torch.testing.assert_close(own.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)
    torch.testing.assert_close(objective.center, other.center)


def test_bfloat16_autocast_stays_near():
    objective = dino(2).eval()
    batch = objective.collate(image_samples(2, 4))
    plain = total(objective(batch)[0])
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = objective(batch)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert total(losses).item() == pytest.approx(plain.item(), rel=0.05)


def test_the_encoder_of_the_teacher_is_released_or_that_of_the_student():
    for release in ("teacher", "student"):
        objective = dino(2, release=release)
        with torch.no_grad():
            for value in objective.encoder.parameters():
                value.add_(1.0)
        own, teacher = (copy.deepcopy(part.state_dict()) for part in (objective.encoder, objective.teacher[0]))
        Mixture({"part": objective}, {"part": 1.0}).finish()
        expected = teacher if release == "teacher" else own
        assert all(torch.equal(value, expected[name]) for name, value in objective.encoder.state_dict().items())


def test_stripes_are_learned_without_a_collapse():
    objective = dino(2, views={"global_share": [0.4, 1.0], "local_share": [0.2, 0.4], "contrast": 0.1})
    objective.settings = objective.settings.model_copy(update={"momentum": 0.95})
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        losses.append(total(objective(objective.collate(stripes(step), StepContext(step=step, progress=step / 60)))[0]))
        losses[-1].backward()
        optimizer.step()
    report = objective.eval()(objective.collate(stripes(999), StepContext(step=999, progress=1.0)))[1]
    assert report["image_rank"] > 1.5, "not collapsed"
    assert losses[-1].item() < losses[0].item() < 1.5 * math.log(12)


def stripes(seed: int) -> list:
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(16.0), np.arange(16.0), indexing="ij"), axis=-1)
    waves = np.array([[1.2, 0], [0, 1.2], [0.6, 0.6], [0, 0]])
    angles = [places @ waves[rng.integers(4)] + rng.uniform(0, 6) for _ in range(16)]
    return image_samples(2, 16, [np.stack([np.sin(a), np.cos(a)]) for a in angles])


# --- views


@pytest.mark.parametrize("dims", [2, 3])
def test_a_view_of_all_of_an_image_is_that_image_on_another_grid(dims):
    image = np.random.default_rng(0).standard_normal((2, *[8] * dims)).astype(np.float32)
    still = ViewSettings(contrast=0.0)
    found = random_view(image, (8,) * dims, (1.0, 1.0), still, SameShape(0))
    torch.testing.assert_close(found, torch.from_numpy(image), atol=1e-6, rtol=0)
    small = random_view(image, (4,) * dims, (1.0, 1.0), still, SameShape(0))
    pool = nn.functional.avg_pool2d if dims == 2 else nn.functional.avg_pool3d
    means = pool(torch.from_numpy(image), 2)
    if dims == 3:
        torch.testing.assert_close(small, means)
    else:  # smoothed over twice as much
        assert 0 < (small - means).abs().mean() < means.abs().mean()


class SameShape(np.random.Generator):
    """Draws no change of shape."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))

    def uniform(self, low=0.0, high=1.0, size=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        return high if size is None else np.zeros(size)


def test_views_change_values_and_sides_as_far_as_the_settings_say():
    image = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    rngs = [np.random.default_rng(seed) for seed in range(40)]
    plain = [random_view(image, (4, 4), (0.3, 0.6), ViewSettings(contrast=0.0), rng) for rng in rngs]
    assert all(view[0, 0, 0] < view[0, -1, -1] for view in plain)
    assert len({float(view.mean()) for view in plain}) > 20
    mirrored = [random_view(image, (4, 4), (0.3, 0.6), ViewSettings(contrast=0.0, flip=0.5), rng) for rng in rngs]
    share = np.mean([float(view[0, 0, 0]) > float(view[0, 0, -1]) for view in mirrored])
    assert 0.2 < share < 0.8
    changed = [random_view(0 * image + 1, (4, 4), (0.3, 0.6), ViewSettings(contrast=0.2), rng) for rng in rngs]
    assert 0.1 < np.std([float(view.mean()) for view in changed]) < 0.5


# --- bad input


def test_views_that_the_encoder_cannot_see_end_with_one_line():
    for views, match in (
        ({"global_size": 10}, r"\(10, 10\) must be multiples of \(4, 4\)"),
        ({"local_size": [8, 6]}, r"\(8, 6\) must be multiples"),
        ({"global_size": [8, 8, 8]}, "images have 2 axes"),
    ):
        with pytest.raises(ConfigError, match=match):
            dino(2, views=views)
