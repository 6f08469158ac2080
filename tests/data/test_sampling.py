"""Batches: few organs, half of them abnormal, rare findings as often as common ones, the same for the same step."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np

from ctglip.data.captions import OrganCaptions
from ctglip.data.sampling import BalancedSampler, SamplingSettings, in_random_order, rows_of_rank
from tests.data.plain_captions import pools_of


def row(organ: str, *affirmed: str, silent: bool = False) -> OrganCaptions:
    kind = "abnormal" if affirmed else "silent" if silent else "normal"
    return OrganCaptions(organ, kind, affirmed, (), (), ())


ROWS = [
    *[row("liver", "cyst")] * 40,
    *[row("liver", "fat")] * 4,
    *[row("liver")] * 100,
    *[row("spleen")] * 60,
    *[row("spleen", silent=True)] * 60,
    *[row("heart", "large")] * 20,
    *[row("heart", silent=True)] * 20,
]


def sampler(**settings: object) -> BalancedSampler:
    return BalancedSampler(pools_of(ROWS), SamplingSettings.model_validate(settings), seed=7)


def test_half_of_an_organ_is_abnormal_and_rare_findings_come_as_often() -> None:
    draws = sampler(batch=24, organs=3)
    found: Counter[tuple[str, ...]] = Counter()
    for step in range(200):
        rows = draws.rows(draws.rng(step))
        assert len(rows) == len(set(rows)) == 24
        found.update((ROWS[r].organ, ROWS[r].kind, *ROWS[r].affirmed) for r in rows)
    cyst, fat, normal = (found["liver", *rest] for rest in (("abnormal", "cyst"), ("abnormal", "fat"), ("normal",)))
    assert cyst + fat == normal == 200 * 4
    assert 0.7 < fat / cyst < 1.1
    assert found["spleen", "normal"] == 200 * 8


def test_silent_organs_fill_up_only_where_nothing_else_is_left_or_where_asked() -> None:
    draws = sampler(batch=90, organs=3)
    rows = draws.rows(draws.rng(0))
    kinds = Counter((ROWS[r].organ, ROWS[r].kind) for r in rows)
    assert kinds["heart", "abnormal"] == 20
    assert kinds["heart", "silent"] == 10
    assert kinds["liver", "silent"] == 0
    asked = sampler(batch=24, organs=3, silent=0.25)
    kinds = Counter((ROWS[r].organ, ROWS[r].kind) for r in asked.rows(asked.rng(0)))
    assert kinds["spleen", "silent"] == 2


def test_a_step_is_a_function_of_seed_and_step() -> None:
    first, second = sampler(batch=12, organs=2), sampler(batch=12, organs=2)
    assert [first.rows(first.rng(s)) for s in (3, 1, 3)] == [second.rows(second.rng(s)) for s in (3, 1, 3)]
    assert first.rows(first.rng(1)) != first.rows(first.rng(2))
    other = BalancedSampler(pools_of(ROWS), SamplingSettings(batch=12, organs=2), seed=8)
    assert first.rows(first.rng(1)) != other.rows(other.rng(1))


def test_a_batch_larger_than_the_data_holds_everything_once() -> None:
    small = [row("liver", "cyst"), row("liver"), row("liver", silent=True)]
    draws = BalancedSampler(pools_of(small), SamplingSettings(batch=16, organs=4), seed=0)
    assert sorted(draws.rows(np.random.default_rng(0))) == [0, 1, 2]


def test_ranks_share_all_rows_and_every_organ() -> None:
    draws = sampler(batch=24, organs=3)
    rows = draws.rows(draws.rng(0))
    for world in (1, 2, 3, 5):
        shares = [rows_of_rank(rows, rank, world) for rank in range(world)]
        assert sorted(row for share in shares for row in share) == sorted(rows)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert all({ROWS[r].organ for r in share} == {"liver", "spleen", "heart"} for share in shares)


def test_a_random_order_holds_everything_once_and_favours_nothing() -> None:
    rng = np.random.default_rng(0)
    assert sorted(in_random_order("abcdef", rng)) == list("abcdef")
    assert list(in_random_order([], rng)) == []
    orders = Counter(tuple(in_random_order((0, 1, 2), rng)) for _ in range(6000))
    assert len(orders) == 6
    assert all(abs(times - 1000) < 150 for times in orders.values())  # five standard deviations


def test_a_few_of_very_many_are_drawn_without_looking_at_the_others() -> None:
    looked: list[int] = []

    class Rows(list[int]):
        def __getitem__(self, instance: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
            looked.append(instance)
            return instance

        def __len__(self) -> int:
            return 10**9

    assert len(set(islice(in_random_order(Rows(), np.random.default_rng(0)), 20))) == 20
    assert len(looked) == 20
