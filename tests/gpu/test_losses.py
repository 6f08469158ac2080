"""Losses on the GPU: values and gradients of the CPU, chunks, bfloat16 inputs, and gathering through NCCL.

This folder needs torch, einops, transformers, timm and pytest alone, and is skipped where there is no GPU:
``python -m pytest tests/gpu`` in the checkout, without installing anything else.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tests.gpu.bare  # noqa: F401  (before the losses)
from ctglip.losses.contrastive import alignment, class_prompts, sigmoid_pairs, soft_contrastive
from ctglip.losses.gather import gather_rows, ranked_mean, row_counts
from ctglip.losses.masked import masked_pixel, weighted_mlm
from ctglip.losses.targets import equal_key

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
ROWS, DIM = 33, 64
Data = dict[str, Tensor]


def data(device: str, dtype: torch.dtype = torch.float32) -> Data:
    generator = torch.Generator().manual_seed(0)
    found = {name: F.normalize(torch.randn(ROWS, DIM, generator=generator), dim=1).to(dtype) for name in "xy"}
    found["extra"] = F.normalize(torch.randn(17, DIM, generator=generator), dim=1).to(dtype)
    found["scale"] = torch.tensor(14.0)
    found["key"] = torch.randint(0, 12, (ROWS,), generator=generator)
    found["index"] = torch.randint(-1, 17, (ROWS, 5), generator=generator)
    found["valid"] = torch.rand(ROWS, generator=generator) > 0.2
    return {
        name: value.to(device).requires_grad_() if value.is_floating_point() else value.to(device)
        for name, value in found.items()
    }


def contrast(d: Data, **options) -> Tensor:
    more = {"extra": d["extra"], "extra_index": d["index"], "valid": d["valid"]}
    return soft_contrastive(d["x"], d["y"], d["scale"], target=equal_key, context=d["key"], **more, **options)


LOSSES = {
    "contrast": contrast,
    "contrast in chunks": lambda d: contrast(d, chunk=7),
    "sigmoid": lambda d: sigmoid_pairs(d["x"], d["y"], d["scale"], -10.0, match=d["key"], valid=d["valid"]),
    "prompts": lambda d: class_prompts(d["x"], d["extra"], d["key"], d["scale"], d["valid"]),
    "alignment": lambda d: alignment(d["x"], d["y"], d["valid"]),
    "pixels": lambda d: masked_pixel(d["x"][:, None], d["y"][:, None], d["valid"][:, None]),
    "words": lambda d: weighted_mlm(
        d["x"][:, None], d["key"][:, None], d["scale"].detach().expand(ROWS, 1), d["valid"][:, None], "weights"
    ),
}


def judged(name: str, device: str, dtype: torch.dtype = torch.float32, autocast: bool = False) -> tuple[Tensor, Data]:
    rows = data(device, dtype)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        loss = LOSSES[name](rows)
    loss.backward()
    return loss.detach().cpu(), {n: v.grad.float().cpu() for n, v in rows.items() if v.grad is not None}


@pytest.mark.parametrize("name", list(LOSSES))
def test_value_and_gradient_are_those_of_the_cpu(name):
    value, gradients = judged(name, "cpu")
    theirs, their_gradients = judged(name, "cuda")
    torch.testing.assert_close(theirs, value, atol=1e-4, rtol=1e-4)
    assert their_gradients.keys() == gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(their_gradients[key], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", list(LOSSES))
def test_autocast_does_not_touch_a_loss(name):
    value, gradients = judged(name, "cuda")
    theirs, their_gradients = judged(name, "cuda", autocast=True)
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(theirs, value, atol=1e-5, rtol=1e-5)
    for key, gradient in gradients.items():
        torch.testing.assert_close(their_gradients[key], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["contrast", "contrast in chunks", "sigmoid", "prompts"])
def test_bfloat16_embeddings_are_compared_in_float32(name):
    value, _ = judged(name, "cuda")
    theirs, gradients = judged(name, "cuda", torch.bfloat16, autocast=True)
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(theirs, value, atol=0.02, rtol=0.02)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_a_large_contrast_in_chunks_keeps_little_memory():
    torch.manual_seed(0)
    rows = 16384
    query, key = (F.normalize(torch.randn(rows, DIM, device="cuda"), dim=1).requires_grad_() for _ in range(2))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    soft_contrastive(query, key, torch.tensor(14.0, device="cuda"), chunk=512).backward()
    assert torch.cuda.max_memory_allocated() - before < rows * rows * 4 / 4  # a quarter of one matrix of logits


@pytest.fixture
def group(tmp_path):
    torch.cuda.set_device(0)
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_gathering_through_nccl_changes_nothing_on_one_rank(group):
    rows = data("cuda")
    assert row_counts(rows["x"]) == [ROWS]
    assert torch.equal(gather_rows(rows["x"]), rows["x"])
    assert float(ranked_mean(rows["x"].sum(), ROWS, gather=True)) == pytest.approx(float(rows["x"].sum() / ROWS))
    torch.testing.assert_close(contrast(rows, gather=True), contrast(rows))
