"""Ways to deal heads out: every one, once."""

from __future__ import annotations

from itertools import product

from shoal.planner.search.shares.head_deals import all_deals, are_few


def test_all_deals_are_all_ordered_sums() -> None:
    expected = [deal for deal in product(range(5), repeat=3) if sum(deal) == 4]
    assert sorted(map(tuple, all_deals(4, 3).tolist())) == expected
    assert all_deals(4, 1).tolist() == [[4]]
    assert all_deals(0, 2).tolist() == [[0, 0]]


def test_few_heads_to_few_members() -> None:
    assert are_few(8, 8)
    assert not are_few(32, 8)
