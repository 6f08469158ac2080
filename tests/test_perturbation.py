"""The options that run the tests as another machine: what they change, and that it is the same each time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.perturbation import perturb


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as found:
        yield found


def weights() -> torch.Tensor:
    layer = torch.nn.Linear(40, 30)
    torch.nn.init.ones_(layer.weight)
    torch.optim.AdamW(layer.parameters())
    return layer.weight.detach()


def drawn() -> tuple[float, float, float]:
    torch.manual_seed(3)
    return np.random.default_rng(3).random(), np.random.default_rng([3, 1]).random(), torch.rand(()).item()


def test_zeros_change_nothing(patch: pytest.MonkeyPatch) -> None:
    before = (np.random.default_rng, torch.manual_seed, torch.optim.Optimizer.add_param_group, torch.set_num_threads)
    perturb(patch, 0, 0.0, 0)
    assert before == (
        np.random.default_rng, torch.manual_seed, torch.optim.Optimizer.add_param_group, torch.set_num_threads
    )  # fmt: skip


def test_shifted_seeds_draw_other_numbers_each_time_the_same(patch: pytest.MonkeyPatch) -> None:
    plain = drawn()
    perturb(patch, 5, 0.0, 0)
    assert drawn() == drawn()
    assert all(one != other for one, other in zip(drawn(), plain, strict=True))
    generator = np.random.default_rng(0)
    assert np.random.default_rng(generator) is generator


def test_initial_weights_are_a_hair_off(patch: pytest.MonkeyPatch) -> None:
    plain = weights()
    perturb(patch, 0, 1e-6, 0)
    first = weights()
    assert torch.equal(first, weights())
    off = (first / plain - 1).abs()
    assert off.min() > 0.9e-6
    assert off.max() < 1.1e-6


def test_threads_are_held(patch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        perturb(patch, 0, 0.0, 2)
        torch.set_num_threads(1)
        assert torch.get_num_threads() == 2
    finally:
        patch.undo()
        torch.set_num_threads(before)
