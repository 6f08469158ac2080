"""The gradient of every loss against finite differences, in float64."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.cases import CASES, data, weights


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name):
    rows, parameters = data(), weights()

    def loss(*values):
        return CASES[name](rows, dict(zip(parameters, values, strict=True)), False)

    used = torch.autograd.grad(loss(*parameters.values()), list(parameters.values()), allow_unused=True)
    assert any(gradient is not None for gradient in used)
    leaves = [v if g is not None else v.detach() for v, g in zip(parameters.values(), used, strict=True)]
    assert torch.autograd.gradcheck(loss, tuple(leaves))
