"""Speeds of now beside those of before: made-up workers whose ratios are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.planner.predict.work import step_work
from shoal.planner.speeds.drift import find_drift, with_drift
from shoal.planner.speeds.speeds import BlockSpeed, WorkerSpeed
from tests.planner.example_speeds import example_worker, line

BEFORE = example_worker()


def test_a_worker_that_is_as_fast_stays_as_it_is() -> None:
    drift = find_drift(BEFORE, example_worker(1.02))
    assert (drift.decode, drift.prefill) == pytest.approx((1.02, 1.02))
    assert drift.is_tolerated
    assert drift.error == pytest.approx(0.02)
    assert with_drift(BEFORE, drift) is BEFORE


@pytest.mark.parametrize("slowness", [0.6, 1.6])
def test_another_speed_is_made_good(slowness: float) -> None:
    now = example_worker(slowness)
    drift = find_drift(BEFORE, now)
    assert not drift.is_tolerated
    assert drift.error == pytest.approx(0.0, abs=1e-9)
    work = {"output_rows": 4, "output_context": 0.0, "prompt_rows": 64, "prompt_context": 0.0, "samples": 4}
    assert vars_of(step_work(with_drift(BEFORE, drift), **work)) == pytest.approx(vars_of(step_work(now, **work)))


def vars_of(work: object) -> list[float]:
    return [getattr(work, name) for name in sorted(work.__dataclass_fields__)]  # type: ignore[attr-defined]


def test_what_is_fixed_counts_with_the_layers_wherever_it_was_put() -> None:
    """A look at whole layers does not tell what their shards have in full."""
    divided = replace(BEFORE, attention=BlockSpeed(decode=line(0, 0.5), prefill=line(0, 0.1), fixed_row_s=0.5e-3))
    assert find_drift(divided, BEFORE).decode == pytest.approx(1.0)


def test_steps_that_disagree_make_an_error() -> None:
    """Output rows take 1.5 times as long at 1 row and 2.5 times at 1001."""
    now = replace(BEFORE, attention=bent(BEFORE), mlp=bent(BEFORE))
    drift = find_drift(BEFORE, now)
    assert drift.decode == pytest.approx(2.0)
    assert drift.error == drift.spread == pytest.approx(0.25)


def bent(speed: WorkerSpeed) -> BlockSpeed:
    one, many = speed.attention.decode.seconds
    return replace(speed.attention, decode=replace(speed.attention.decode, seconds=(1.5 * one, 2.5 * many)))
