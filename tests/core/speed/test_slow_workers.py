"""When a worker counts as slow, and when no more."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.speed.slow_workers import (
    RECOVERED_FACTOR,
    SLOWED_FACTOR,
    WINDOW_STEPS,
    SpeedEvent,
    StageWatch,
    WorkerRecovered,
    WorkerSlowed,
    describe,
    step_likeness,
)
from shoal.core.speed.step_times import StepShape
from tests.core.speed.test_step_times import TRUE, mixed, outputs


def watch_steps(
    watch: StageWatch, seconds: Iterable[float], shape: StepShape, predicted_s: float | None = None
) -> list[SpeedEvent]:
    events = [watch.observe(step_likeness(shape), one, predicted_s) for one in seconds]
    return [event for event in events if event is not None]


def test_half_speed_is_noticed_once_and_so_is_the_recovery() -> None:
    watch, shape = StageWatch(1), outputs(8)
    assert watch_steps(watch, [0.03] * 100, shape) == []
    assert watch.factor() == pytest.approx(1.0)
    (slowed,) = watch_steps(watch, [0.06] * 100, shape)
    assert slowed == WorkerSlowed(stage=1, factor=slowed.factor)
    assert slowed.factor >= SLOWED_FACTOR
    assert watch.factor() == pytest.approx(2.0)
    (recovered,) = watch_steps(watch, [0.03] * 100, shape)
    assert recovered == WorkerRecovered(stage=1, factor=recovered.factor)
    assert recovered.factor <= RECOVERED_FACTOR


def test_it_is_noticed_within_one_window() -> None:
    watch, shape = StageWatch(0), outputs(8)
    watch_steps(watch, [0.03] * 100, shape)
    assert len(watch_steps(watch, [0.06] * WINDOW_STEPS, shape)) == 1


def test_a_slow_worker_never_becomes_the_norm() -> None:
    watch, shape = StageWatch(0), outputs(8)
    watch_steps(watch, [0.03] * 50, shape)
    assert len(watch_steps(watch, [0.06] * 5000, shape)) == 1
    assert watch.is_slow
    assert watch.factor() == pytest.approx(2.0)


def test_what_drifts_slowly_does() -> None:
    watch, shape = StageWatch(0), outputs(8)
    assert watch_steps(watch, (0.03 * (1 + number / 4000) for number in range(4000)), shape) == []
    assert watch.factor() < 1.1


def test_a_worker_that_stands_still_for_a_part_of_every_period_is_slow_though_most_steps_are_quick() -> None:
    watch, shape = StageWatch(0), outputs(4)
    watch_steps(watch, [0.013] * 60, shape)
    bursts = cycle([0.013, 0.013, 0.013, 0.063])
    assert len(watch_steps(watch, (next(bursts) for _ in range(200)), shape)) == 1


def test_single_steps_that_are_held_up_are_no_slow_worker() -> None:
    watch, shape = StageWatch(0), outputs(8)
    held_up = (3.0 if number % 20 == 7 else 0.03 for number in range(400))
    assert watch_steps(watch, held_up, shape) == []


def test_a_new_load_is_no_slow_worker() -> None:
    """Steps of a kind that was never seen take whatever they take."""
    watch = StageWatch(0)
    watch_steps(watch, [0.01] * 100, outputs(1))
    assert watch_steps(watch, [0.2] * 100, outputs(32)) == []
    assert watch_steps(watch, [0.9] * 100, outputs(32, context=3000)) == []
    assert watch.factor() == pytest.approx(1.0)


def test_a_new_load_on_a_slow_worker_is_no_recovery_and_teaches_nothing() -> None:
    watch = StageWatch(0)
    watch_steps(watch, [0.01] * 100, outputs(1))
    assert len(watch_steps(watch, [0.02] * 100, outputs(1))) == 1
    assert watch_steps(watch, [0.4] * 500, outputs(32)) == []
    assert watch.is_slow
    (recovered,) = watch_steps(watch, [0.01] * 100, outputs(1))
    assert isinstance(recovered, WorkerRecovered)
    assert watch_steps(watch, [0.2] * 100, outputs(32)) == []


def test_a_larger_step_that_takes_no_longer_shows_a_recovery() -> None:
    watch = StageWatch(0)
    watch_steps(watch, [0.03] * 100, outputs(8))
    assert len(watch_steps(watch, [0.06] * 100, outputs(8))) == 1
    (recovered,) = watch_steps(watch, [0.034] * 100, outputs(12))
    assert isinstance(recovered, WorkerRecovered)


def test_a_slow_worker_whose_load_has_changed_for_good_starts_over() -> None:
    watch = StageWatch(0)
    watch_steps(watch, [0.01] * 100, outputs(1))
    assert len(watch_steps(watch, [0.02] * 100, outputs(1))) == 1
    assert watch_steps(watch, [0.2] * 1500, outputs(32)) == [WorkerRecovered(stage=0, factor=1.0)]
    assert len(watch_steps(watch, [0.4] * 100, outputs(32))) == 1


def test_a_smaller_step_cannot_take_longer_than_a_larger_one_did() -> None:
    """So a slow worker is found out though its load has shrunk to steps that were never seen."""
    watch = StageWatch(0)
    watch_steps(watch, [0.03] * 50, outputs(8))
    assert len(watch_steps(watch, [0.06] * 50, outputs(4))) == 1
    assert watch.factor() == pytest.approx(2.0, rel=0.05)


def test_what_the_plan_expects_counts_where_there_is_no_past() -> None:
    watch, shape = StageWatch(0), outputs(8)
    assert len(watch_steps(watch, [2 * TRUE.seconds(shape)] * 200, shape, TRUE.seconds(shape))) == 1
    assert watch.factor() == pytest.approx(2.0)


def test_a_plan_that_is_off_by_a_quarter_raises_no_alarm() -> None:
    watch, shape = StageWatch(0), outputs(8)
    assert watch_steps(watch, [1.25 * TRUE.seconds(shape)] * 200, shape, TRUE.seconds(shape)) == []
    assert watch.factor() == pytest.approx(1.0)


@given(st.integers(0, 2**32), st.floats(1e-4, 10.0))
def test_a_steady_worker_under_a_changing_load_is_never_slow(seed: int, scale: float) -> None:
    rng, watch = Random(seed), StageWatch(0)
    for _ in range(300):
        shape = mixed(rng)
        seconds = scale * TRUE.seconds(shape) * rng.uniform(0.9, 1.1)
        assert watch.observe(step_likeness(shape), seconds) is None
    assert 0.7 < watch.factor() < RECOVERED_FACTOR


@given(st.integers(0, 2**32), st.lists(st.floats(0.1, 8.0), min_size=1, max_size=6))
def test_slow_and_well_take_turns(seed: int, phases: list[float]) -> None:
    rng, watch = Random(seed), StageWatch(0)
    events: list[SpeedEvent] = []
    for factor in phases:
        events += watch_steps(watch, (factor * rng.uniform(0.01, 0.012) for _ in range(120)), outputs(4))
    assert [isinstance(event, WorkerSlowed) for event in events] == [number % 2 == 0 for number in range(len(events))]
    assert watch.is_slow == (len(events) % 2 == 1)


def test_words_for_who_watches() -> None:
    assert (
        describe(WorkerSlowed(stage=1, factor=2.04))
        == "stage 1 has slowed down and takes 2.0 times as long as expected"
    )
    assert describe(WorkerSlowed(stage=1, factor=2.0, is_waiting=True)).endswith("first shard waits for another")
    assert describe(WorkerRecovered(stage=0, factor=1.1)) == "stage 0 is as fast as expected again"
