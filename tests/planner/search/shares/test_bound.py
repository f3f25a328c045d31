"""Bounds on shares: below the best shares that fit, and near them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.planner.search.shares.best import GroupShares, Member, best_group_shares
from shoal.planner.search.shares.bound import MemberCosts, Pieces, least_seconds

SECONDS = st.sampled_from([0.0, 0.25, 1.0, 1.5, 3.7])
EACH = st.sampled_from([0.25, 1.0, 1.1, 2.0, 3.7])
MEMBERS = st.lists(st.tuples(EACH, SECONDS, EACH, SECONDS, EACH, SECONDS, st.integers(2, 60)), min_size=1, max_size=3)
ENDLESS = 1 << 40


def costs_of(members: list[tuple[float, ...]]) -> MemberCosts:
    table = np.array(members)
    return MemberCosts(
        head_s=table[:, 0],
        head_fixed_s=table[:, 1],
        column_s=table[:, 2],
        column_fixed_s=table[:, 3],
        vocabulary_s=table[:, 4],
        vocabulary_fixed_s=table[:, 5],
        memory_bytes=table[:, 6].astype(np.int64),
    )


def best_shares(
    members: list[tuple[float, ...]], num_layers: int, pieces: tuple[int, int, int], sizes: tuple[int, int, int]
) -> GroupShares | None:
    """Of a stage of so many layers, by the search for the best shares."""
    return best_group_shares(
        [
            Member(
                head_s=num_layers * one[0],
                head_fixed_s=num_layers * one[1],
                column_s=num_layers * one[2],
                column_fixed_s=num_layers * one[3],
                vocabulary_s=one[4],
                vocabulary_fixed_s=one[5],
                head_bytes=num_layers * sizes[0],
                column_bytes=num_layers * sizes[1],
                vocabulary_bytes=sizes[2],
                memory_bytes=int(one[6]),
            )
            for one in members
        ],
        num_heads=pieces[0],
        num_columns=pieces[1],
        num_vocabulary=pieces[2],
    )


def bounds_of(
    members: list[tuple[float, ...]], most_layers: int, pieces: tuple[int, int, int], sizes: tuple[int, int, int]
) -> list[float]:
    """For 1, 2, ... layers."""
    num_layers: np.ndarray = np.arange(1, most_layers + 1)
    alone = best_shares([(*one[:6], ENDLESS) for one in members], 1, pieces, sizes)
    assert alone is not None
    shares = zip(members, alone.vocabulary, strict=True)
    vocabulary_s = max(one[5] + one[4] * count if count else 0.0 for one, count in shares)
    given_pieces = Pieces(
        num_heads=pieces[0],
        num_columns=pieces[1],
        num_vocabulary=pieces[2],
        head_bytes=num_layers * sizes[0],
        column_bytes=num_layers * sizes[1],
        vocabulary_bytes=np.full(most_layers, sizes[2] if pieces[2] else 0),
    )
    return least_seconds(costs_of(members), given_pieces, num_layers, np.full(most_layers, vocabulary_s)).tolist()


@settings(max_examples=200, deadline=None)
@given(
    members=MEMBERS,
    pieces=st.tuples(st.integers(0, 5), st.integers(3, 9), st.sampled_from([0, 0, 3, 6])),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
)
def test_no_shares_are_quicker(
    members: list[tuple[float, ...]], pieces: tuple[int, int, int], sizes: tuple[int, int, int]
) -> None:
    for num_layers, bound_s in enumerate(bounds_of(members, 3, pieces, sizes), start=1):
        best = best_shares(members, num_layers, pieces, sizes)
        assert best is None or bound_s <= best.seconds * (1 + 1e-9)


@pytest.mark.parametrize("num_vocabulary", [0, 60])
@pytest.mark.parametrize("memory_bytes", [(90, 60, 50), (40, 80, 80), (300, 300, 300)])
def test_where_pieces_are_small_the_bound_is_near(num_vocabulary: int, memory_bytes: tuple[int, int, int]) -> None:
    speeds = (1.0, 2.0, 4.0)
    members = [
        (0.8 / speed, 0.05, 0.1 / speed, 0.02, 0.08 / speed, 0.01, 10 * own_bytes)
        for speed, own_bytes in zip(speeds, memory_bytes, strict=True)
    ]
    pieces, sizes = (8, 100, num_vocabulary), (40, 12, 5)
    best = best_shares(members, 1, pieces, sizes)
    assert best is not None
    (bound_s,) = bounds_of(members, 1, pieces, sizes)
    assert best.seconds * 0.98 <= bound_s <= best.seconds * (1 + 1e-9)


def test_what_fits_in_no_way_is_infinite() -> None:
    members = [(1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 20)] * 2
    pieces, sizes = (2, 4, 2), (1, 2, 3)  # of n layers each member holds n + 4 n + 3 bytes
    assert np.isfinite(bounds_of(members, 4, pieces, sizes)).tolist() == [True, True, True, False]
    assert best_shares(members, 3, pieces, sizes) is not None
    assert best_shares(members, 4, pieces, sizes) is None
