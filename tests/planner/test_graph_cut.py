"""Cutting graphs: against brute force, and the cases one would ask about."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.planner.graph_cut import SLACK, CutOption, choose_boundaries

FAST = {"bytes_per_s": 1e12, "latency_s": 0.0}


def options(*cuts: tuple[int, int]) -> list[CutOption]:
    return [CutOption(node=node, num_bytes=num_bytes) for node, num_bytes in cuts]


def slowest(
    node_s: list[float],
    cuts: dict[int, int],
    boundaries: tuple[int, ...],
    shares: list[float],
    *,
    bytes_per_s: float,
    latency_s: float,
) -> float:
    mean = sum(shares) / len(shares)
    edges = [0, *boundaries, len(node_s)]
    times = []
    for (first, last), share in zip(pairwise(edges), shares, strict=True):
        hand_over = sum(latency_s + cuts[node] / bytes_per_s for node in (first, last) if node in cuts)
        times.append((sum(node_s[first:last]) + hand_over) / (share / mean))
    return max(times)


@given(st.data())
def test_no_other_cut_is_better(data: st.DataObject) -> None:
    node_s = data.draw(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=9))
    nodes = data.draw(st.lists(st.integers(1, len(node_s) - 1), min_size=1, unique=True).map(sorted))
    cuts = {node: data.draw(st.integers(0, 100)) for node in nodes}
    num_stages = data.draw(st.integers(1, min(4, len(cuts) + 1)))
    shares = data.draw(st.lists(st.integers(1, 4).map(float), min_size=num_stages, max_size=num_stages))
    links = {"bytes_per_s": 200.0, "latency_s": 0.05}
    chosen = choose_boundaries(node_s, options(*cuts.items()), num_stages, shares=shares, **links)
    ways = list(combinations(nodes, num_stages - 1))
    assert chosen in ways
    best = min(slowest(node_s, cuts, way, shares, **links) for way in ways)
    assert slowest(node_s, cuts, chosen, shares, **links) <= best * (1 + SLACK) + 1e-9
    good = [way for way in ways if slowest(node_s, cuts, way, shares, **links) <= best]
    assert sum(cuts[node] for node in chosen) <= min(sum(cuts[node] for node in way) for way in good)


def test_equal_nodes_make_equal_stages() -> None:
    assert choose_boundaries([1.0] * 8, options(*((node, 4) for node in range(1, 8))), 4, **FAST) == (2, 4, 6)


def test_shares_are_shares_of_the_time() -> None:
    assert choose_boundaries([1.0] * 8, options(*((node, 4) for node in range(1, 8))), 2, shares=[3, 1], **FAST) == (6,)


def test_of_equally_good_cuts_the_narrow_one_is_taken() -> None:
    assert choose_boundaries([1.0, 0.0, 0.0, 1.0], options((1, 900), (2, 5), (3, 800)), 2, **FAST) == (2,)


def test_a_wide_cut_is_avoided_where_the_link_is_slow() -> None:
    cuts = options((1, 1), (2, 1000))
    assert choose_boundaries([1.0, 1.0, 2.0], cuts, 2, bytes_per_s=1e12, latency_s=0.0) == (2,)
    assert choose_boundaries([1.0, 1.0, 2.0], cuts, 2, bytes_per_s=100.0, latency_s=0.0) == (1,)


def test_too_many_stages_are_refused_with_what_is_possible() -> None:
    with pytest.raises(ConfigError, match="pp=3"):
        choose_boundaries([1.0] * 4, options((1, 4), (2, 4)), 4, **FAST)
    with pytest.raises(ConfigError, match="cannot be cut"):
        choose_boundaries([1.0], [], 2, **FAST)


def test_one_stage_needs_no_cut() -> None:
    assert choose_boundaries([1.0, 2.0], [], 1, **FAST) == ()


def test_a_thousand_cuts_are_not_too_many() -> None:
    boundaries = choose_boundaries([1.0] * 1001, options(*((node, 4) for node in range(1, 1001))), 7, **FAST)
    assert boundaries == (143, 286, 429, 572, 715, 858)


def test_a_cut_that_breaks_a_fusion_is_taken_only_where_it_gains_more() -> None:
    def cuts(penalty_s: float) -> list[CutOption]:
        return [CutOption(node=1, num_bytes=1), CutOption(node=2, num_bytes=1, penalty_s=penalty_s)]

    assert choose_boundaries([1.0, 1.0, 2.0], cuts(0.9), 2, **FAST) == (2,)
    assert choose_boundaries([1.0, 1.0, 2.0], cuts(1.1), 2, **FAST) == (1,)
