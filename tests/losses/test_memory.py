"""The form in chunks is the plain form: value and gradient, even and uneven chunks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ctglip.losses.contrastive import soft_contrastive
from ctglip.losses.targets import clinical_prior, equal_key, hierarchy_aware, tag_overlap

ROWS = 11


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = {name: torch.randn(ROWS, 7, generator=generator, dtype=torch.float64) for name in ("query", "key")}
    leaves = {name: F.normalize(value, dim=1).requires_grad_() for name, value in normal.items()}
    leaves["extra"] = torch.randn(6, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    leaves["scale"] = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    return leaves


def contexts() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tags = torch.randint(0, 2, (ROWS, 5), generator=generator)
    keys = torch.randint(0, 4, (ROWS,), generator=generator)
    return {
        "keys": keys,
        "tags": tags.double(),
        "texts": torch.randn(ROWS, 9, generator=generator, dtype=torch.float64),
        "findings": torch.cat([keys[:, None], tags * (keys[:, None] > 0)], dim=1),
        "negatives": torch.randint(-1, 6, (ROWS, 3), generator=generator),
    }


def related() -> torch.Tensor:
    matrix = torch.eye(5, dtype=torch.bool)
    matrix[3, 1] = matrix[4, 1] = matrix[4, 3] = True
    return matrix


OPTIONS = {
    "identity": lambda c: {},
    "identity, jeffreys": lambda c: {"divergence": "jeffreys"},
    "equal key": lambda c: {"target": equal_key, "context": c["keys"]},
    "equal key, group": lambda c: {"target": equal_key, "context": c["keys"], "group": c["keys"] % 2},
    "valid": lambda c: {"valid": c["keys"] > 0},
    "prior": lambda c: {"target": clinical_prior(0.1), "context": c["texts"]},
    "tags, jeffreys": lambda c: {"target": tag_overlap(), "context": c["tags"], "divergence": "jeffreys"},
    "hierarchy": lambda c: {"target": hierarchy_aware(related()), "context": c["findings"]},
}


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("option", list(OPTIONS))
def test_chunks_change_neither_value_nor_gradient(option, extra):
    found = []
    for chunk in (None, 1, 4, 11, 64):
        leaves, values = inputs(), contexts()
        more = {"extra": leaves["extra"], "extra_index": values["negatives"]} if extra else {}
        options = OPTIONS[option](values)
        loss = soft_contrastive(leaves["query"], leaves["key"], leaves["scale"], chunk=chunk, **options, **more)
        (3 * loss).backward()
        used = [leaf.grad for name, leaf in leaves.items() if extra or name != "extra"]
        found.append((loss.detach(), *used))
    for other in found[1:]:
        for mine, plain in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, plain, atol=1e-10, rtol=0)
    assert found[0][0] > 0


def test_fixed_inputs_and_no_gradient_at_all_are_fine():
    leaves = inputs()
    with torch.no_grad():
        alone = soft_contrastive(leaves["query"], leaves["key"], 9.0, chunk=4)
    loss = soft_contrastive(leaves["query"], leaves["key"].detach(), 9.0, chunk=4)
    torch.testing.assert_close(loss, alone)
    loss.backward()
    plain = inputs()
    soft_contrastive(plain["query"], plain["key"].detach(), 9.0).backward()
    torch.testing.assert_close(leaves["query"].grad, plain["query"].grad, atol=1e-10, rtol=0)


def test_no_more_than_a_chunk_of_logits_is_ever_there():
    rows, largest = 64, []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            largest.append(
                max((t.numel() for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t)), default=0)
            )
            return out

    query, key = torch.randn(2, rows, 4, requires_grad=True).unbind()
    keys = torch.arange(rows) // 2
    with Watch():
        soft_contrastive(query, key, 2.0, target=equal_key, context=keys, chunk=8).backward()
    assert max(largest) == 8 * rows
