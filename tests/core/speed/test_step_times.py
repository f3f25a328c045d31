"""A stage's times for its steps: what is learned from them, and what a prediction adds."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.speed.step_times import StageCost, StepShape, StepTimes

TRUE = StageCost(
    step_s=0.011,
    output_row_s=0.002,
    output_context_s=4e-6,
    prompt_row_s=0.0019,
    prompt_context_s=1e-6,
)


def outputs(rows: int, context: int = 100) -> StepShape:
    return StepShape(output_rows=rows, output_context=rows * context, prompt_rows=0, prompt_context=0)


def prompts(rows: int, context: int = 100) -> StepShape:
    return StepShape(output_rows=0, output_context=0, prompt_rows=rows, prompt_context=rows * context)


def mixed(rng: Random) -> StepShape:
    rows, prompt_rows = rng.randint(0, 32), rng.choice((0, 0, 0, rng.randint(1, 512)))
    if not rows + prompt_rows:
        rows = 1
    contexts = rng.randint(10, 2000), rng.randint(1, 500)
    return StepShape(rows, rows * contexts[0], prompt_rows, prompt_rows * contexts[1])


def test_the_shape_of_a_step_counts_the_context_of_every_row() -> None:
    assert StepShape.of([(1, 10), (1, 5), (4, 4)]) == StepShape(
        output_rows=2, output_context=15, prompt_rows=4, prompt_context=1 + 2 + 3 + 4
    )


def test_rows_that_are_encoded_see_each_other() -> None:
    assert StepShape.of([(1, 10)], [3, 2]) == StepShape(
        output_rows=1, output_context=10, prompt_rows=5, prompt_context=3 * 3 + 2 * 2
    )


def test_every_part_is_found_from_varied_steps() -> None:
    rng, times = Random(1), StepTimes()
    for _ in range(400):
        shape = mixed(rng)
        times.observe(shape, TRUE.seconds(shape) * rng.uniform(0.97, 1.03))
    for _ in range(50):
        shape = mixed(rng)
        assert times.cost().seconds(shape) == pytest.approx(TRUE.seconds(shape), rel=0.05)
    assert times.cost().output_row_s == pytest.approx(TRUE.output_row_s, rel=0.1)
    assert times.cost().prompt_row_s == pytest.approx(TRUE.prompt_row_s, rel=0.1)


def test_what_alike_steps_cannot_tell_apart_is_shared_out() -> None:
    times = StepTimes()
    for _ in range(50):
        times.observe(outputs(16), 0.045)
    cost = times.cost()
    assert cost.seconds(outputs(16)) == pytest.approx(0.045, rel=0.01)
    assert 0.015 < cost.seconds(outputs(1)) < 0.045
    assert 0.045 < cost.seconds(outputs(32)) < 0.09


def test_a_step_that_was_held_up_says_little() -> None:
    times = StepTimes()
    for number in range(60):
        times.observe(outputs(8), 2.0 if number % 15 == 7 else 0.03)
    assert times.cost().seconds(outputs(8)) == pytest.approx(0.03, rel=0.05)


def test_a_stage_that_slows_down_is_learned_anew() -> None:
    rng, times = Random(2), StepTimes()
    for number in range(800):
        shape = mixed(rng)
        times.observe(shape, TRUE.seconds(shape) * (1 if number < 400 else 2))
    assert times.cost().seconds(outputs(8)) == pytest.approx(2 * TRUE.seconds(outputs(8)), rel=0.1)


def test_a_prediction_counts_until_it_is_outvoted_and_stays_for_what_was_not_seen() -> None:
    times = StepTimes(TRUE)
    assert times.cost() == TRUE
    for _ in range(200):
        times.observe(outputs(8), 2 * TRUE.seconds(outputs(8)))
    assert times.cost().seconds(outputs(8)) == pytest.approx(2 * TRUE.seconds(outputs(8)), rel=0.1)
    assert times.cost().prompt_row_s == TRUE.prompt_row_s
    assert times.cost().prompt_context_s == TRUE.prompt_context_s


def test_steps_that_took_no_time_say_nothing() -> None:
    times = StepTimes()
    times.observe(outputs(8), 0.0)
    times.observe(outputs(8), -1.0)
    assert times.num_outputs == 0
    assert times.cost().seconds(outputs(8)) == 0.0


def test_weights_stay_finite_over_a_long_life() -> None:
    times = StepTimes()
    for number in range(5000):
        times.observe(outputs(1 + number % 8), 0.01 + 0.002 * (number % 8))
    assert times.cost().seconds(outputs(4)) == pytest.approx(0.016, rel=0.02)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 64), st.integers(0, 4000), st.integers(0, 512), st.floats(1e-5, 100.0, allow_nan=False)
        ),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_is_observed_no_part_is_negative_and_more_rows_never_take_less(
    steps: list[tuple[int, int, int, float]],
) -> None:
    times = StepTimes()
    for rows, context, prompt_rows, seconds in steps:
        times.observe(StepShape(rows, rows * context, prompt_rows, prompt_rows * context), seconds)
    cost = times.cost()
    assert all(
        value >= 0.0
        for value in (
            cost.step_s,
            cost.output_row_s,
            cost.output_context_s,
            cost.prompt_row_s,
            cost.prompt_context_s,
        )
    )
    assert cost.seconds(outputs(9)) >= cost.seconds(outputs(8))
