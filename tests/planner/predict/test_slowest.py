"""Whole experts: how long the slowest shard takes, against counts of rows that draw their experts."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from shoal.planner.predict.slowest import expected_slowest
from shoal.planner.predict.work import decode_work, group_seconds
from shoal.planner.speeds.speeds import ExpertRouting, Fleet
from tests.planner.example_speeds import example_worker


def drawn_slowest_s(routing: ExpertRouting, rows: int, counts: list[int], expert_s: list[float]) -> float:
    """The mean over 4000 steps of the slowest shard, when a shard takes so long for each expert that a step needs."""
    rng = np.random.default_rng(1)
    slowest: list[float] = []
    for _ in range(4000):
        needed = {int(e) for _ in range(rows) for e in rng.permutation(routing.num_experts)[: routing.num_chosen]}
        bounds = np.cumsum([0, *counts])
        own = [sum(first <= e < last for e in needed) for first, last in pairwise(bounds)]
        slowest.append(max(n * s for n, s in zip(own, expert_s, strict=True)))
    return float(np.mean(slowest))


@pytest.mark.parametrize(
    ("rows", "counts", "expert_s"),
    [(1, [32, 32], [1.0, 1.0]), (1, [48, 16], [1.0, 2.0]), (4, [48, 16], [1.0, 2.0]), (2, [32, 16, 16], [1.0] * 3)],
)
def test_the_expected_slowest_is_near_that_of_drawn_experts(
    rows: int, counts: list[int], expert_s: list[float]
) -> None:
    routing = ExpertRouting(num_experts=64, num_chosen=8)
    needed = 64 * (1 - (1 - 8 / 64) ** rows)
    shares = [count / 64 for count in counts]
    shards = [
        (needed * f * s, needed * s * routing.deviation(rows) * (f * (1 - f)) ** 0.5)
        for f, s in zip(shares, expert_s, strict=True)
    ]
    assert expected_slowest(shards) == pytest.approx(drawn_slowest_s(routing, rows, counts, expert_s), rel=0.04)
    assert expected_slowest(shards) > max(mean for mean, _ in shards)


def test_certain_times_are_compared_as_they_are() -> None:
    assert expected_slowest([(3.0, 0.0), (5.0, 0.0), (4.0, 0.0)]) == 5.0


def test_whole_experts_take_longer_than_columns_of_them_where_rows_are_few() -> None:
    fleet = Fleet(classes=(), links=(), sums=())
    assert fleet.routed(ExpertRouting(num_experts=8, num_chosen=2)) == fleet
    routed = replace(example_worker(), experts=ExpertRouting(num_experts=8, num_chosen=2))

    def seconds(rows: int, *, deals_experts: bool) -> float:
        works = [decode_work(routed, rows=rows, context=0)] * 2
        shares = [(0.5, 0.5, 0.5)] * 2
        return group_seconds(works, shares, num_layers=1, has_head=False, sum_s=0.0, deals_experts=deals_experts)

    assert seconds(1, deals_experts=True) > 1.1 * seconds(1, deals_experts=False)
    assert seconds(64, deals_experts=True) == pytest.approx(seconds(64, deals_experts=False), rel=1e-3)
