"""Swings of speed: over a whole cycle nothing is gained or lost, and each piece takes its own factor."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.planner.speeds.unevenness import EVEN, TimedMoment, Unevenness, unevenness_of

_seconds = st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0.2, 5.0)), min_size=1, max_size=8)


def test_pieces_one_after_the_other() -> None:
    """A second at twice the speed of the next two: three quarters of the average step, then one and a half."""
    swings = Unevenness([1.0, 2.0], [1.0, 2.0])
    assert swings.stretch(0.0, 0.3) == pytest.approx(0.2)
    assert swings.stretch(1.0, 0.3) == pytest.approx(0.4)
    assert swings.stretch(0.9, 0.3) == pytest.approx(0.1 + (0.3 - 0.15) * 4 / 3)
    assert swings.stretch(3.0, 0.3) == pytest.approx(0.2), "from the beginning again"


def test_nobody_looked() -> None:
    assert EVEN.stretch(5.0, 0.25) == 0.25
    assert EVEN.factor_beyond(0.1) == 1.0


@given(_seconds, st.floats(0.0, 100.0))
def test_a_whole_cycle_is_the_average(pieces: list[tuple[float, float]], at_s: float) -> None:
    swings = Unevenness(*zip(*pieces, strict=True))
    whole_s = sum(lasts for lasts, _ in pieces)
    assert swings.stretch(at_s, 3 * whole_s) == pytest.approx(3 * whole_s)


@given(_seconds, st.floats(0.0, 50.0), st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20))
def test_steps_take_together_what_one_takes(pieces: list[tuple[float, float]], at_s: float, steps: list[float]) -> None:
    swings = Unevenness(*zip(*pieces, strict=True))
    *_, end_s = accumulate(steps, lambda now_s, seconds: now_s + swings.stretch(now_s, seconds), initial=at_s)
    assert end_s - at_s == pytest.approx(swings.stretch(at_s, sum(steps)), abs=1e-9)


def test_kinds_of_work_are_compared_with_their_own() -> None:
    """A slow moment is slow for both kinds; that one kind takes longer than the other is no swing."""
    moments = [TimedMoment(kind, 1.0, slow * own) for slow in (1.0, 3.0) for kind, own in (("one", 0.01), ("all", 0.5))]
    swings = unevenness_of(moments)
    took_s = [swings.stretch(at_s, 0.1) for at_s in (0.0, 1.0, 2.0, 3.0)]
    assert took_s[0] == pytest.approx(took_s[1])
    assert took_s[2] == pytest.approx(took_s[3]) == pytest.approx(3 * took_s[0])


def test_how_slow_for_how_long() -> None:
    swings = Unevenness([8.0, 1.0, 1.0], [1.0, 2.0, 4.0])
    average = 10.0 / (8.0 + 0.5 + 0.25)
    assert swings.factor_beyond(0.05) == pytest.approx(4.0 / average)
    assert swings.factor_beyond(0.15) == pytest.approx(2.0 / average)
    assert swings.factor_beyond(0.5) == pytest.approx(1.0 / average)
    assert all(one >= other for one, other in pairwise(swings.factor_beyond(part) for part in (0.0, 0.1, 0.2, 1.0)))
