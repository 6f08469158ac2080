"""Beside open_clip itself, where it is installed (extra ``[bench]``)."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ctglip.losses.contrastive import sigmoid_pairs, soft_contrastive

losses = pytest.importorskip("open_clip.loss", reason="open_clip_torch is not installed (pip install 'ctglip[bench]')")


@pytest.mark.parametrize("rows", [1, 7, 32])
@pytest.mark.parametrize("form", ["clip", "siglip"])
def test_value_and_gradient_agree(form, rows):
    torch.manual_seed(rows)
    query, key = (F.normalize(torch.randn(rows, 12, dtype=torch.float64), dim=1) for _ in range(2))
    scale, bias = torch.tensor(14.3, dtype=torch.float64), torch.tensor(-5.0, dtype=torch.float64)
    leaves = [[value.clone().requires_grad_() for value in (query, key, scale, bias)] for _ in range(2)]
    if form == "clip":
        mine, theirs = soft_contrastive(*leaves[0][:3], chunk=3), losses.ClipLoss()(*leaves[1][:3])
    else:
        mine, theirs = sigmoid_pairs(*leaves[0]), losses.SigLipLoss()(*leaves[1])
    torch.testing.assert_close(mine, theirs)
    mine.backward()
    theirs.backward()
    for ours, other in zip(*leaves, strict=True):
        if other.grad is not None:
            torch.testing.assert_close(ours.grad, other.grad)
