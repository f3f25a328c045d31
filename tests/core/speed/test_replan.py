"""When moving layers pays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.speed.replan import LOOK_S, MAX_HORIZON_S, SAFETY, SMALLEST_GAIN, Move, ReplanWatch, weigh_move


def weigh(present_s: list[float], moved_s: list[float], **changes: Any) -> Move:
    fields = {"standstill_s": 3.0, "lasted_s": 60.0, "num_requests": 8.0, "mean_requests": 8.0, **changes}
    return weigh_move(present_s, moved_s, **fields)


def test_a_stage_at_half_speed_is_worth_a_move_once_it_has_lasted() -> None:
    move = weigh([0.02, 0.04], [0.026, 0.028])
    assert move.gain == pytest.approx(0.3)
    assert move.saved_s == pytest.approx(60 * 0.3 * 8)
    assert move.cost_s == pytest.approx(24)
    assert move.pays
    assert not weigh([0.02, 0.04], [0.026, 0.028], lasted_s=15.0).pays


def test_a_small_gain_never_pays() -> None:
    assert not weigh([0.04], [0.036], lasted_s=1e6, standstill_s=0.0).pays


def test_a_worse_plan_never_pays() -> None:
    move = weigh([0.02], [0.04], standstill_s=0.0)
    assert move.gain == pytest.approx(-1.0)
    assert not move.pays


def test_an_idle_replica_is_left_alone_and_a_crowded_one_waits_longer() -> None:
    halves = [0.04], [0.02]
    assert not weigh(*halves, mean_requests=0.0, num_requests=1.0).pays
    assert weigh(*halves, lasted_s=20.0).pays
    assert not weigh(*halves, lasted_s=20.0, num_requests=64.0).pays


def test_no_slowdown_is_expected_to_last_for_ever() -> None:
    assert weigh([0.04], [0.02], lasted_s=1e9).saved_s == pytest.approx(MAX_HORIZON_S * 0.5 * 8)


times = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=6)


@given(times, times, st.floats(0, 100), st.floats(0, 1e4), st.floats(0, 100), st.floats(0, 100))
def test_what_pays_saves_more_than_it_costs_and_goes_on_paying(
    present_s: list[float],
    moved_s: list[float],
    standstill_s: float,
    lasted_s: float,
    num_requests: float,
    mean_requests: float,
) -> None:
    facts = {"standstill_s": standstill_s, "num_requests": num_requests, "mean_requests": mean_requests}
    move = weigh_move(present_s, moved_s, lasted_s=lasted_s, **facts)
    if move.pays:
        assert move.gain >= SMALLEST_GAIN
        assert move.saved_s >= SAFETY * move.cost_s
        assert weigh_move(present_s, moved_s, lasted_s=2 * lasted_s, **facts).pays


def test_a_pipeline_that_stays_slow_is_worth_moving_after_a_while_and_then_watched_anew() -> None:
    watch, now_s = ReplanWatch(), 0.0
    for _ in range(20):
        assert not watch.look((1.0, 1.2), 8, now_s)
        now_s += LOOK_S
    paid_after_s, slow_since_s = 0.0, now_s
    while not paid_after_s:
        assert watch.look((1.0, 2.0), 8, now_s)
        if watch.weigh((0.02, 0.04), (0.026, 0.028), now_s).pays:
            paid_after_s = now_s - slow_since_s
        now_s += LOOK_S
    assert 10.0 < paid_after_s < 40.0
    watch.start_over()
    assert watch.look((1.0, 2.0), 8, now_s)
    assert not watch.weigh((0.02, 0.04), (0.026, 0.028), now_s).pays


def test_what_cannot_be_split_otherwise_is_not_watched() -> None:
    assert not ReplanWatch().look((), 8, 0.0)
