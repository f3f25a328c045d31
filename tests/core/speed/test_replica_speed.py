"""From steps sent and answered to the speed that routing compares."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shoal.core.speed.replica_speed import SpeedMeter
from shoal.core.speed.routing import ReplicaLoad
from shoal.core.speed.slow_workers import SpeedEvent, WorkerRecovered, WorkerSlowed
from shoal.core.speed.step_times import StageCost, StepShape
from shoal.protocol.language_messages import StepId, StepResult
from shoal.protocol.worker_messages import Generation
from tests.core.speed.plain_routing import choose_replica

COST = StageCost(
    step_s=0.01,
    output_row_s=0.002,
    output_context_s=0.0,
    prompt_row_s=0.002,
    prompt_context_s=0.0,
)
LEARNED_ROWS = (1, 4, 16, 8, 2) * 8
"""Output rows of the steps that are learned from; prompts have eight times as many."""
LEARNED_PROMPT_ROWS = 8 * sum(LEARNED_ROWS[-8:]) / 8
"""Mean of the latest eight steps with prompts, which stand for those to come."""


def make_shape(*, output_rows: int = 0, prompt_rows: int = 0) -> StepShape:
    """`output_rows` sequences of 100 tokens, and one prompt."""
    return StepShape.of([(1, 100)] * output_rows + [(prompt_rows, prompt_rows)] * (prompt_rows > 0))


class Pipeline:
    """Stages that take their time, one step after the other, on a clock of their own."""

    def __init__(self, meter: SpeedMeter, costs: Sequence[StageCost], *, tells: bool = True) -> None:
        self.meter = meter
        self.costs = costs
        self.factors = [1.0] * len(costs)
        self.wait_share = 0.0
        """of each stage's time, what its first shard waits for others"""
        self.handover_s = 0.0
        self.now_s = 0.0
        self._tells = tells
        self._num_steps = 0

    def run(self, count: int, *, output_rows: int = 0, prompt_rows: int = 0) -> list[SpeedEvent]:
        events: list[SpeedEvent] = []
        for _ in range(count):
            step_id = StepId(self._num_steps)
            self._num_steps += 1
            seconds = tuple(
                factor * (cost.step_s + cost.output_row_s * output_rows + cost.prompt_row_s * prompt_rows)
                for factor, cost in zip(self.factors, self.costs, strict=True)
            )
            shape = make_shape(output_rows=output_rows, prompt_rows=prompt_rows)
            self.meter.note_sent(step_id, shape, self.now_s)
            self.now_s += sum(seconds) + self.handover_s
            result = StepResult(
                step_id=step_id,
                generation=Generation(0),
                tokens=(),
                compute_s=seconds if self._tells else (),
                wait_s=tuple(self.wait_share * one for one in seconds) if self._tells else (),
            )
            events += self.meter.note_answered(result, self.now_s)
        return events

    def learn(self) -> None:
        """A day of all kinds of steps."""
        for rows in LEARNED_ROWS:
            self.run(4, output_rows=rows)
            self.run(1, prompt_rows=8 * rows)


def test_nothing_is_known_before_there_were_steps_of_both_kinds() -> None:
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST])
    assert meter.speed(0.0) is None
    pipeline.run(5, output_rows=4)
    assert meter.speed(pipeline.now_s) is None
    pipeline.run(5, prompt_rows=100)
    assert meter.speed(pipeline.now_s) is not None


def test_a_replica_that_only_computes_prompts_is_compared_by_those() -> None:
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST])
    pipeline.run(5, prompt_rows=100)
    speed = meter.speed(pipeline.now_s)
    assert speed is not None
    assert speed.prompt_token_s == pytest.approx(0.002 + 0.01 / 100, rel=0.02)
    assert speed.output_row_s > 0


def test_one_stage() -> None:
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST])
    pipeline.learn()
    speed = meter.speed(pipeline.now_s)
    assert speed is not None
    assert speed.prompt_token_s == pytest.approx(0.002 + 0.01 / LEARNED_PROMPT_ROWS, rel=0.02)
    assert speed.output_step_s == pytest.approx(0.01, rel=0.02)
    assert speed.output_row_s == pytest.approx(0.002, rel=0.02)


def test_prompts_go_at_the_pace_of_the_slowest_stage_and_outputs_pass_through_all() -> None:
    slow = StageCost(
        step_s=0.03,
        output_row_s=0.004,
        output_context_s=0.0,
        prompt_row_s=0.006,
        prompt_context_s=0.0,
    )
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST, slow])
    pipeline.learn()
    speed = meter.speed(pipeline.now_s)
    assert speed is not None
    assert speed.prompt_token_s == pytest.approx(0.006 + 0.03 / LEARNED_PROMPT_ROWS, rel=0.02)
    assert speed.output_step_s == pytest.approx(0.04, rel=0.02)
    assert speed.output_row_s == pytest.approx((0.002 + 0.004) / 2, rel=0.02)


def test_what_is_lost_between_the_stages_counts_for_every_token() -> None:
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST])
    pipeline.handover_s = 0.005
    pipeline.learn()
    speed = meter.speed(pipeline.now_s)
    assert speed is not None
    assert speed.output_step_s == pytest.approx(0.015, rel=0.02)


def test_workers_that_tell_no_times_are_measured_from_outside() -> None:
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST], tells=False)
    pipeline.learn()
    speed = meter.speed(pipeline.now_s)
    assert speed is not None
    assert speed.output_step_s == pytest.approx(0.01, rel=0.02)


def test_a_slowdown_shows_in_the_speed_within_a_window_though_the_fit_is_slow() -> None:
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST])
    pipeline.learn()
    before = meter.speed(pipeline.now_s)
    pipeline.factors = [2.0]
    events = pipeline.run(32, output_rows=8)
    after = meter.speed(pipeline.now_s)
    assert before is not None
    assert after is not None
    assert [type(event) for event in events] == [WorkerSlowed]
    assert meter.is_slow
    assert after.output_step_s + 8 * after.output_row_s == pytest.approx(2 * (0.01 + 8 * 0.002), rel=0.1)
    assert after.prompt_token_s > 1.2 * before.prompt_token_s


def test_the_stage_that_slowed_is_named() -> None:
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST] * 3)
    pipeline.run(50, output_rows=8)
    pipeline.factors = [1.0, 1.0, 2.5]
    (event,) = pipeline.run(50, output_rows=8)
    assert event.stage == 2
    assert meter.slowdowns() == pytest.approx((1.0, 1.0, 2.5))
    well_s, _, slow_s = meter.busy_s()
    assert slow_s == pytest.approx(well_s * (50 + 50 * 2.5) / 100)
    pipeline.factors = [1.0] * 3
    assert pipeline.run(50, output_rows=8) == [WorkerRecovered(stage=2, factor=pytest.approx(1.25, abs=0.06))]


@pytest.mark.parametrize("is_first_to_blame", [False, True])
def test_a_slow_shard_is_told_from_one_that_waits_for_it(is_first_to_blame: bool) -> None:
    pipeline = Pipeline(SpeedMeter(), [COST])
    pipeline.wait_share = 0.2
    pipeline.run(50, output_rows=8)
    pipeline.factors = [2.0]
    pipeline.wait_share = 0.1 if is_first_to_blame else 0.6
    (event,) = pipeline.run(50, output_rows=8)
    assert isinstance(event, WorkerSlowed)
    assert event.is_waiting is not is_first_to_blame


def test_a_slow_replica_that_had_nothing_to_do_for_long_is_tried_again() -> None:
    meter = SpeedMeter()
    pipeline = Pipeline(meter, [COST])
    pipeline.learn()
    pipeline.factors = [4.0]
    pipeline.run(100, output_rows=8)
    now, later = meter.speed(pipeline.now_s), meter.speed(pipeline.now_s + 60.0)
    assert now is not None
    assert later is not None
    assert later.output_row_s == pytest.approx(now.output_row_s / 4, rel=0.1)


def test_a_prediction_is_there_from_the_start() -> None:
    meter = SpeedMeter([COST, COST])
    speed = meter.speed(0.0)
    assert speed is not None
    assert speed.prompt_token_s == pytest.approx(0.002 + 0.01 / 256)
    assert speed.output_step_s == pytest.approx(0.02)


def test_late_and_repeated_answers_are_ignored() -> None:
    meter = SpeedMeter()
    result = StepResult(step_id=StepId(0), generation=Generation(0), tokens=(), compute_s=(0.1,))
    meter.note_sent(StepId(0), make_shape(prompt_rows=4), 0.0)
    meter.forget_sent()
    assert meter.note_answered(result, 1.0) == []
    assert meter.slowdowns() == ()


def test_measured_speeds_decide_where_a_request_goes() -> None:
    meters = [SpeedMeter(), SpeedMeter()]
    now_s = 0.0
    for meter, factor in zip(meters, (2.0, 1.0), strict=True):
        pipeline = Pipeline(meter, [COST])
        pipeline.factors = [factor]
        pipeline.learn()
        now_s = max(now_s, pipeline.now_s)

    def choose(*decoding: int) -> int:
        loads = [
            ReplicaLoad(prefill_tokens=0, num_decoding=count, speed=meter.speed(now_s))
            for count, meter in zip(decoding, meters, strict=True)
        ]
        return choose_replica(loads, prompt_tokens=100)

    assert choose(0, 0) == 1
    assert choose(0, 4) == 1
    assert choose(0, 12) == 0
