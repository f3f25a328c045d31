"""Shares of a tensor group: as good as every way to deal the pieces out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.core.plan.share_rounding import round_shares
from shoal.planner.search.shares.best import Member, best_group_shares
from tests.planner.search.brute_force import best_shares

SECONDS = st.sampled_from([0.0, 0.25, 1.0, 1.5, 3.7])
EACH = st.sampled_from([0.25, 1.0, 1.1, 2.0, 3.7])
COSTS = st.tuples(EACH, SECONDS, EACH, SECONDS, EACH, SECONDS)
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(2, 50))


def member(costs: tuple[float, ...], sizes: tuple[int, ...]) -> Member:
    return Member(
        head_s=costs[0],
        head_fixed_s=costs[1],
        column_s=costs[2],
        column_fixed_s=costs[3],
        vocabulary_s=costs[4],
        vocabulary_fixed_s=costs[5],
        head_bytes=sizes[0],
        column_bytes=sizes[1],
        vocabulary_bytes=sizes[2],
        memory_bytes=sizes[3],
    )


@settings(max_examples=150, deadline=None)
@given(
    members=st.lists(st.tuples(COSTS, SIZES), min_size=1, max_size=3),
    totals=st.tuples(st.integers(0, 5), st.integers(1, 7), st.sampled_from([0, 0, 3, 4])),
)
def test_shares_are_those_of_brute_force(
    members: list[tuple[tuple[float, ...], tuple[int, ...]]], totals: tuple[int, int, int]
) -> None:
    num_heads, num_columns, num_vocabulary = totals
    found = best_group_shares(
        [member(*one) for one in members],
        num_heads=num_heads,
        num_columns=num_columns,
        num_vocabulary=num_vocabulary,
    )
    expected = best_shares([costs for costs, _ in members], [sizes for _, sizes in members], totals)
    if found is None:
        assert expected == float("inf")
        return
    assert found.seconds == pytest.approx(expected, rel=1e-9)
    assert (sum(found.heads), sum(found.columns), sum(found.vocabulary)) == totals
    assert min(found.columns) >= 1
    for one, heads, columns, rows in zip(members, found.heads, found.columns, found.vocabulary, strict=True):
        sizes = one[1]
        assert heads * sizes[0] + columns * sizes[1] + rows * sizes[2] <= sizes[3]


@given(
    speeds=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    num_columns=st.integers(6, 300),
    num_heads=st.integers(0, 32),
)
def test_without_memory_limits_the_slowest_is_that_of_dhondt(
    speeds: list[int], num_columns: int, num_heads: int
) -> None:
    members = [member((1 / speed, 0.0, 1 / speed, 0.0, 0.0, 0.0), (0, 0, 0, 1)) for speed in speeds]
    found = best_group_shares(members, num_heads=num_heads, num_columns=num_columns)
    assert found is not None
    heads = round_shares(num_heads, speeds)
    columns = round_shares(num_columns, speeds, at_least=1)
    slowest = [max(count / speed for count, speed in zip(counts, speeds, strict=True)) for counts in (heads, columns)]
    assert found.seconds == pytest.approx(sum(slowest))


def test_memory_moves_a_head_where_that_costs_less_than_moving_columns() -> None:
    fast = member((1.0, 0.0, 1.0, 0.0, 0.0, 0.0), (10, 1, 0, 44))
    slow = member((2.0, 0.0, 2.0, 0.0, 0.0, 0.0), (10, 1, 0, 1000))
    found = best_group_shares([fast, slow], num_heads=6, num_columns=12)
    assert found is not None
    assert found.heads == (3, 3)  # attention 6, MLP 8; with 4 heads there is memory for 4 columns only: 4 and 16
    assert found.columns == (8, 4)


def test_many_heads_and_members_are_left_to_the_integer_programme() -> None:
    members = [member((1.0, 0.0, 1.0, 0.0, 0.0, 0.0), (4, 1, 0, 25 if index else 100)) for index in range(6)]
    found = best_group_shares(members, num_heads=24, num_columns=48)
    assert found is not None
    assert found.seconds == pytest.approx(12.0)  # 4 heads and 8 columns everywhere would take 24 bytes: it fits
    tight = [member((1.0, 0.0, 1.0, 0.0, 0.0, 0.0), (4, 1, 0, 23 if index else 100)) for index in range(6)]
    moved = best_group_shares(tight, num_heads=24, num_columns=48)
    assert moved is not None
    assert moved.seconds == pytest.approx(15.0)  # one head moves to the first: two members have room for 10 columns


@pytest.mark.parametrize(("num_heads", "num_columns"), [(4, 1), (4, 40)])
def test_too_few_columns_or_too_little_memory_is_none(num_heads: int, num_columns: int) -> None:
    members = [member((1.0, 0.0, 1.0, 0.0, 0.0, 0.0), (1, 1, 0, 10))] * 2
    assert best_group_shares(members, num_heads=num_heads, num_columns=num_columns) is None
