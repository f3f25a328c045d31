"""Swings of speed: over a whole cycle nothing is gained or lost, and each piece takes its own factor."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.planner.speeds.unevenness import EVEN, TimedMoment, Unevenness, factor_beyond, unevenness_of

_pieces = st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0.2, 5.0)), min_size=1, max_size=8)


def seen(*replicas: list[tuple[float, float]]) -> tuple[Unevenness, ...]:
    """What is found where a run of one kind took these seconds in pieces that lasted so long."""
    return unevenness_of([[TimedMoment("run", *piece) for piece in pieces] for pieces in replicas])


def test_pieces_one_after_the_other() -> None:
    """A second at twice the speed of the next two: two thirds of the average step, then four thirds."""
    (swings,) = seen([(1.0, 1.0), (2.0, 2.0)])
    assert swings.stretch(0.0, 0.3) == pytest.approx(0.2)
    assert swings.stretch(1.0, 0.3) == pytest.approx(0.4)
    assert swings.stretch(0.9, 0.3) == pytest.approx(0.1 + (0.3 - 0.15) * 4 / 3)
    assert swings.stretch(3.0, 0.3) == pytest.approx(0.2), "from the beginning again"


def test_nobody_looked() -> None:
    assert EVEN.stretch(5.0, 0.25) == 0.25
    assert EVEN.is_even
    assert factor_beyond([EVEN, EVEN], 0.1) == factor_beyond([], 0.1) == 1.0


@given(_pieces, st.floats(0.0, 100.0))
def test_a_whole_cycle_is_the_average(pieces: list[tuple[float, float]], at_s: float) -> None:
    (swings,) = seen(pieces)
    whole_s = sum(lasts for lasts, _ in pieces)
    assert swings.stretch(at_s, 3 * whole_s) == pytest.approx(3 * whole_s)


@given(_pieces, st.floats(0.0, 50.0), st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20))
def test_steps_take_together_what_one_takes(pieces: list[tuple[float, float]], at_s: float, steps: list[float]) -> None:
    (swings,) = seen(pieces)
    *_, end_s = accumulate(steps, lambda now_s, seconds: now_s + swings.stretch(now_s, seconds), initial=at_s)
    assert end_s - at_s == pytest.approx(swings.stretch(at_s, sum(steps)), abs=1e-9)


def test_kinds_of_work_are_compared_with_their_own() -> None:
    """A slow moment is slow for both kinds; that one kind takes longer than the other is no swing."""
    moments = [TimedMoment(kind, 1.0, slow * own) for slow in (1.0, 3.0) for kind, own in (("one", 0.01), ("all", 0.5))]
    (swings,) = unevenness_of([moments])
    took_s = [swings.stretch(at_s, 0.1) for at_s in (0.0, 1.0, 2.0, 3.0)]
    assert took_s[0] == pytest.approx(took_s[1])
    assert took_s[2] == pytest.approx(took_s[3]) == pytest.approx(3 * took_s[0])


def test_each_replica_has_its_own() -> None:
    """One is twice as fast as the other throughout: together they do as much as two that are equally fast."""
    fast, slow = seen([(1.0, 0.1)] * 4, [(2.0, 0.2)] * 2)
    assert fast.stretch(0.5, 0.3) == pytest.approx(0.3 * 3 / 4)
    assert slow.stretch(0.5, 0.3) == pytest.approx(0.3 * 3 / 2)
    assert pytest.approx(3.0 + 3.0) == 3.0 / 0.75 + 3.0 / 1.5


def test_a_replica_without_moments_is_even() -> None:
    swings = seen([(1.0, 0.1), (1.0, 0.3)], [])
    assert [one.is_even for one in swings] == [False, True]


def test_how_slow_for_how_long() -> None:
    """Of all replicas together: 4 for a twentieth of the time, 2 for another, 1 for the rest."""
    swings = [Unevenness([8.0, 1.0], [1.0, 2.0]), Unevenness([10.0, 1.0], [1.0, 4.0])]
    assert factor_beyond(swings, 0.04) == pytest.approx(4.0)
    assert factor_beyond(swings, 0.07) == pytest.approx(2.0)
    assert factor_beyond(swings, 0.5) == pytest.approx(1.0)
    assert all(one >= other for one, other in pairwise(factor_beyond(swings, part) for part in (0.0, 0.1, 0.2, 1.0)))
