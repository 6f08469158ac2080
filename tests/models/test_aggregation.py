"""Channels as tokens: what is drawn, what is read, in 2D and 3D."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctglip.models.aggregation import AggregationSettings, MultiLevelAggregator

RESNET50 = (256, 512, 1024, 2048)


def small(dims: int = 2, **changes: object) -> MultiLevelAggregator:
    torch.manual_seed(0)
    settings = AggregationSettings(**{"keep": (0.5, 0.25), "grid": (4,) * dims, "heads": 2, "tokens": 12, **changes})  # pyright: ignore
    made = MultiLevelAggregator(settings, (8, 16))
    torch.nn.init.normal_(made.positions, std=0.5)
    return made


def levels(dims: int, batch: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, 8, *[8] * dims), torch.randn(batch, 16, *[2] * dims)]


def test_as_many_channels_as_published_are_drawn() -> None:
    made = MultiLevelAggregator(AggregationSettings(), RESNET50)
    chosen = made.draw(np.random.default_rng(0))
    assert chosen.shape == (512,)
    starts = np.cumsum([0, *RESNET50])
    counts = [int(((chosen >= a) & (chosen < b)).sum()) for a, b in pairwise(starts)]
    assert counts == [64, 76, 102, 204]
    assert (chosen[446:] == -1).all()
    assert len(chosen[:446].unique()) < 446, "with replacement"
    assert made.dim == 256
    assert made.positions.shape == (1, 513, 256)


def test_a_mask_draws_no_channel_twice() -> None:
    made = small(draw="without")
    for seed in range(5):
        chosen = made.draw(np.random.default_rng(seed))
        kept = chosen[chosen >= 0]
        assert len(kept.unique()) == len(kept) == 8
    assert torch.equal(made.draw(np.random.default_rng(3)), made.draw(np.random.default_rng(3)))


def test_the_mode_scale_reads_one_level_and_crops_it() -> None:
    made = small(mode="scale")
    seen = {tuple(made.draw(np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert seen == {(*range(8), -1, -1, -1, -1), tuple(range(8, 20))}


@pytest.mark.parametrize("padding", ["attended", "hidden"])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_last_token_of_full_self_attention_is_read(dims: int, padding: str) -> None:
    made, maps = small(dims, padding=padding), levels(dims)
    chosen = made.draw(np.random.default_rng(0))
    pool = F.adaptive_avg_pool2d if dims == 2 else F.adaptive_avg_pool3d
    every = torch.cat([pool(level, (4,) * dims).flatten(2) for level in maps], dim=1)  # pyright: ignore
    tokens = torch.stack([every[:, int(i)] if i >= 0 else torch.zeros(3, 4**dims) for i in chosen], dim=1)
    tokens = torch.cat([tokens + made.positions[:, 1:], (made.cls + made.positions[:, :1]).expand(3, -1, -1)], dim=1)
    mask = F.pad(chosen < 0, (0, 1)).expand(3, -1) if padding == "hidden" else None
    read, _ = made.attention(tokens, tokens, tokens, key_padding_mask=mask)
    torch.testing.assert_close(made(maps, chosen), (tokens + read)[:, -1])


def test_every_image_is_read_alone_and_all_learn() -> None:
    made, maps = small(), levels(2)
    for level in maps:
        level.requires_grad_()
    chosen = made.draw(np.random.default_rng(0))
    found = made(maps, chosen)
    torch.testing.assert_close(found[1:2], made([level[1:2] for level in maps], chosen))
    found[0].sum().backward()
    for start, level in zip((0, 8), maps, strict=True):
        assert level.grad is not None
        used = level.grad.abs().flatten(2).sum(2)
        assert not used[1:].any()
        read = chosen[(chosen >= start) & (chosen < start + level.shape[1])] - start
        assert set(used[0].nonzero().flatten().tolist()) == set(read.tolist())
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in made.parameters())


def test_a_share_is_wanted_for_each_level() -> None:
    with pytest.raises(ValueError, match="each of 3 levels"):
        MultiLevelAggregator(AggregationSettings(keep=(0.5, 0.5)), (8, 8, 8))
