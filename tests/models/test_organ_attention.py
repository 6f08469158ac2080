"""fVLM's organ attention: against a loop over organs, against its weights, and in a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctglip.errors import ModelError
from ctglip.models.organ_attention import RELEASED_ORGANS, OrganAttention, load_organ_attention
from ctglip.models.region_readers import Regions
from tests.models.building import dual_encoder
from tests.models.released import SIZES

WIDTH, ORGANS, SHARED = 24, 5, 8
NAMES = ("liver", "lungs", "aorta", "heart", "esophagus")


def attention(seed: int = 0) -> OrganAttention:
    torch.manual_seed(seed)
    found = OrganAttention(WIDTH, ORGANS, SHARED).eval()
    nn.init.normal_(found.query_tokens)
    return found


def released(scale: float = 1.0, width: int = WIDTH, shared: int = SHARED) -> dict[str, torch.Tensor]:
    """The file's weights, apart from encoders, by their names."""
    torch.manual_seed(3)
    own = nn.MultiheadAttention(width, 4, batch_first=True).state_dict()
    state = {f"attention.{name}": scale * torch.randn_like(value) for name, value in own.items()}
    for row in range(4):
        state[f"vision_projs.{row}.weight"] = torch.randn(shared, width)
        state[f"vision_projs.{row}.bias"] = torch.randn(shared)
    return {**state, "query_tokens": torch.randn(4, width), "visual_encoder.norm.weight": torch.zeros(2)}


def one_by_one(
    shared: nn.MultiheadAttention, query: torch.Tensor, layer: Any, levels: Any, study: int, inside: torch.Tensor
) -> torch.Tensor:
    """One organ of one study as published: its tokens of all levels are keys and values of its query."""
    tokens = torch.cat([level[study].flatten(1).T[inside] for level in levels])[None]
    found, _ = shared(query[None, None], tokens, tokens)
    return F.normalize(F.linear(found[0, 0], *layer), dim=-1)


def test_all_organs_at_once_equal_a_loop_in_value_and_gradient() -> None:
    pool = attention()
    levels = [torch.randn(3, WIDTH, 2, 3, 2, requires_grad=True) for _ in range(4)]
    organ, study = torch.tensor([0, 1, 2, 4, 0, 2]), torch.tensor([0, 0, 0, 2, 2, 1])
    inside = torch.rand(6, 12) > 0.6
    inside[4] = False
    found = pool(levels, inside, organ, study)
    rows = []
    for m in range(6):
        here = inside[m] if inside[m].any() else torch.ones(12, dtype=torch.bool)
        layer = (pool.weight[organ[m]], pool.bias[organ[m]])
        rows.append(one_by_one(pool.attention, pool.query_tokens[organ[m]], layer, levels, int(study[m]), here))
    torch.testing.assert_close(found, torch.stack(rows), atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(found)
    inputs = (*levels, pool.query_tokens, pool.weight, pool.attention.in_proj_weight)
    mine, theirs = (torch.autograd.grad((v * weight).sum(), inputs) for v in (found, torch.stack(rows)))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert pool(levels, inside[:0], organ[:0], study[:0]).shape == (0, SHARED)


def test_released_queries_and_projections_go_to_the_organs_of_their_names(tmp_path: Path) -> None:
    state, pool = released(), attention()
    kept = pool.weight[0].clone()
    torch.save({"model": state, "optimizer": {}}, tmp_path / "model.pth")
    for source in (tmp_path, tmp_path / "model.pth"):
        assert load_organ_attention(pool, str(source), NAMES) == RELEASED_ORGANS
    shared = nn.MultiheadAttention(WIDTH, 4, batch_first=True).eval()
    shared.load_state_dict({n.removeprefix("attention."): v for n, v in state.items() if n.startswith("attention.")})
    levels = [torch.randn(1, WIDTH, 2, 2, 3) for _ in range(4)]
    inside = torch.rand(4, 12) > 0.5
    inside[:, 0] = True
    ids = torch.tensor([NAMES.index(name) for name in RELEASED_ORGANS])
    found = pool(levels, inside, ids, torch.zeros(4, dtype=torch.long))
    for row in range(4):
        layer = (state[f"vision_projs.{row}.weight"], state[f"vision_projs.{row}.bias"])
        expected = one_by_one(shared, state["query_tokens"][row], layer, levels, 0, inside[row])
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(pool.weight[0], kept)


def test_files_without_it_and_other_sizes_are_named(tmp_path: Path) -> None:
    torch.save({"model": {"visual_encoder.norm.weight": torch.zeros(2)}}, tmp_path / "encoder.pth")
    with pytest.raises(ModelError, match=r"holds no organ attention of this size; .*attention\.in_proj_weight"):
        load_organ_attention(attention(), str(tmp_path / "encoder.pth"), NAMES)
    torch.save(released(shared=6), tmp_path / "narrow.pth")
    with pytest.raises(ModelError, match=r"vision_projs\.0\.weight.*embedding_dim"):
        load_organ_attention(attention(), str(tmp_path / "narrow.pth"), NAMES)
    torch.save(released(), tmp_path / "model.pth")
    with pytest.raises(ModelError, match="lungs, heart, esophagus, aorta, none of which the model reads"):
        load_organ_attention(attention(), str(tmp_path / "model.pth"), ("a", "b", "c", "d", "e"))


def model(reader: str, weights: str | None = None, **encoder: Any) -> Any:
    sizes = {"name": "fvlm", **SIZES["fvlm"], "depth": 4, "read": (0, 1, 2), **encoder}
    regions = {"name": reader, "pooling": "organ_attention", "levels": [0, 1, 2, 3], "weights": weights}
    return dual_encoder(encoder=sizes, regions=regions, in_channels=1, text_dim=4, embedding_dim=SHARED, organs=ORGANS,
                        organ_labels=tuple((number + 1,) for number in range(ORGANS)), sizes=False)  # fmt: skip


@pytest.mark.parametrize("reader", ["mask", "box"])
def test_a_model_reads_organs_with_it(tmp_path: Path, reader: str) -> None:
    torch.save(released(width=16), tmp_path / "model.pth")
    net = model(reader, str(tmp_path / "model.pth")).eval()
    net.region_reader.load_pretrained(NAMES)
    images = torch.rand(2, 1, 64, 32, 32)
    labels = torch.zeros(2, 64, 32, 32, dtype=torch.long)
    labels[:, :32, :16] = 1 + NAMES.index("lungs")
    organ, study = torch.tensor([1, 1, 3]), torch.tensor([0, 1, 1])
    boxes = torch.tensor([[0.0, 32, 0, 16, 0, 32]]).expand(3, -1)
    regions = Regions(organ_id=organ, study_index=study, labels=labels, boxes=boxes)
    found = net(images, regions)
    assert found.shape == (3, SHARED)
    torch.testing.assert_close(net.diagnosis(found), found)
    changed = images.clone()
    changed[1, :, 32:, 16:, 16:] = 0.5
    moved = (net(changed, regions) - found).abs().amax(1)
    assert moved[0] == 0 < moved[1]
    assert set(net.region_inputs) >= {"organ_id", "study_index"}


def test_levels_of_several_grids_are_refused() -> None:
    with pytest.raises(ModelError, match="one width and stride"):
        dual_encoder(encoder={"name": "cnn", "widths": (8, 16), "blocks": (1, 1)}, in_channels=1, organs=2,
                     organ_labels=((1,), (2,)),
                     regions={"name": "mask", "pooling": "organ_attention"})  # fmt: skip
