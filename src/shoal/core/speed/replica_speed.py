"""The speed of a replica, and which of its workers have slowed down, learned from answered steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from shoal.core.speed.routing import ReplicaSpeed
from shoal.core.speed.slow_workers import (
    RECOVERED_FACTOR,
    SpeedEvent,
    StageWatch,
    WorkerSlowed,
    step_likeness,
    trimmed_ratio,
)
from shoal.core.speed.step_times import StageCost, StepShape, StepTimes
from shoal.protocol.language_messages import StepId, StepResult

_FRESH_S = 10.0
"""A slow replica that has been idle for so long is assumed to have recovered, so that it is tried again. The same time
as for batches of a graph (core/batching/replicas). A judgment."""
_RECENT_STEPS = 32
"""Steps against which the fit is corrected: a second of decoding."""
_RECENT_SHAPES = 8
"""The number of latest steps with prompt rows, and with output rows, at which the fit is evaluated."""
_RECENT_LONE_STEPS = 15
"""Steps that had the pipeline to themselves, whose median gives the time lost between the stages."""
_FEWEST_PROMPTS = 2
_FEWEST_OUTPUTS = 4
"""The fewest steps of each kind before the speed is used; the very first ones also touch cold memory."""
_TYPICAL_OUTPUTS = StepShape(output_rows=8, output_context=8 * 256, prompt_rows=0, prompt_context=0)
_TYPICAL_PROMPTS = StepShape(output_rows=0, output_context=0, prompt_rows=256, prompt_context=256 * 128)
"""Shapes at which a prediction is evaluated before the first step: eight chats. A judgment."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A step in flight."""

    shape: StepShape
    sent_s: float
    is_alone: bool
    """Whether nothing else was in flight."""


class _Stage:
    """The measured speed of one stage."""

    __slots__ = ("_first_shard", "_predicted", "_recent", "_times", "busy_s", "watch")

    def __init__(self, index: int, predicted: StageCost | None = None) -> None:
        self.watch = StageWatch(index)
        self._predicted = predicted
        self._first_shard = StageWatch(index)
        self._times = StepTimes(predicted)
        self._recent: deque[tuple[StepShape, float]] = deque(maxlen=_RECENT_STEPS)
        self.busy_s = 0.0
        """Seconds of all its steps."""

    @property
    def has_prompts(self) -> bool:
        return self._times.num_prompts >= _FEWEST_PROMPTS

    @property
    def has_outputs(self) -> bool:
        return self._times.num_outputs >= _FEWEST_OUTPUTS

    def observe(self, shape: StepShape, seconds: float, wait_s: float) -> SpeedEvent | None:
        """Note a step's time. `wait_s`: the part for which the stage's first shard waited for the others."""
        self._times.observe(shape, seconds)
        self._recent.append((shape, seconds))
        self.busy_s += seconds
        likeness = step_likeness(shape)
        self._first_shard.observe(likeness, seconds - wait_s)
        predicted_s = None if self._predicted is None else self._predicted.seconds(shape)
        event = self.watch.observe(likeness, seconds, predicted_s)
        if isinstance(event, WorkerSlowed):
            return replace(event, is_waiting=self._first_shard.factor() <= RECOVERED_FACTOR)
        return event

    def mean_s(self) -> float:
        """Mean seconds of the latest steps; 0 before the first."""
        return sum(seconds for _, seconds in self._recent) / max(1, len(self._recent))

    def prompt_token_s(self, shapes: Iterable[StepShape]) -> float:
        """Seconds per prompt token in steps of these shapes."""
        cost = self._times.cost()
        return sum(map(cost.prompt_seconds, shapes)) / sum(shape.prompt_rows for shape in shapes)

    def output_row_s(self, shapes: Iterable[StepShape]) -> float:
        """Seconds per output row with as much context as in these steps."""
        cost = self._times.cost()
        context = sum(shape.output_context for shape in shapes) / sum(shape.output_rows for shape in shapes)
        return cost.output_row_s + context * cost.output_context_s

    def step_s(self) -> float:
        return self._times.cost().step_s

    def correction(self, *, is_stale: bool) -> float:
        """Observed over fitted seconds of the latest steps: disturbances, and what the fit has not learned yet.

        With `is_stale`, a stage that had slowed down is expected to be as fast as before.
        """
        cost = self._times.cost()
        pairs = [(seconds, cost.seconds(shape)) for shape, seconds in self._recent]
        is_full = len(pairs) == _RECENT_STEPS and all(expected_s > 0.0 for _, expected_s in pairs)
        ratio = trimmed_ratio(pairs) if is_full else 1.0
        return ratio / self.watch.factor() if is_stale and self.watch.is_slow else ratio


class SpeedMeter:
    """Measures one replica's steps from sending to answer. New workers need a new meter."""

    def __init__(self, predicted: Sequence[StageCost] = ()) -> None:
        """`predicted`: the plan's prediction for each stage; empty: there is none."""
        self._is_predicted = bool(predicted)
        self._stages = [_Stage(index, cost) for index, cost in enumerate(predicted)]
        self._sent: dict[StepId, _Sent] = {}
        self._outputs: deque[StepShape] = deque(maxlen=_RECENT_SHAPES)
        self._prompts: deque[StepShape] = deque(maxlen=_RECENT_SHAPES)
        self._lone_s: deque[float] = deque(maxlen=_RECENT_LONE_STEPS)
        """Seconds between sending and answer without the stages' computing, for steps that were alone."""
        self._answered_s = 0.0
        self._known: dict[bool, ReplicaSpeed | None] = {}
        """The cached results of `speed`, by whether the latest answer is stale."""

    @property
    def is_slow(self) -> bool:
        """Whether any stage is slow."""
        return any(stage.watch.is_slow for stage in self._stages)

    def slowdowns(self) -> tuple[float, ...]:
        """Observed over expected seconds of each stage's latest steps; 1.0: as expected."""
        return tuple(stage.watch.factor() for stage in self._stages)

    def stage_s(self) -> tuple[float, ...]:
        """Mean seconds of each stage in the latest steps."""
        return tuple(stage.mean_s() for stage in self._stages)

    def busy_s(self) -> tuple[float, ...]:
        """Seconds of each stage, summed over all answered steps."""
        return tuple(stage.busy_s for stage in self._stages)

    def note_sent(self, step_id: StepId, shape: StepShape, now_s: float) -> None:
        """Note that a step was sent."""
        self._sent[step_id] = _Sent(shape, now_s, is_alone=not self._sent)

    def forget_sent(self) -> None:
        """Forget the steps in flight, which will never be answered."""
        self._sent.clear()

    def note_answered(self, result: StepResult, now_s: float) -> list[SpeedEvent]:
        """Note an answered step; ignored if it is not in flight. Returns events about the speed of the workers."""
        sent = self._sent.pop(result.step_id, None)
        if sent is None:
            return []
        self._answered_s = now_s
        self._known.clear()
        round_trip_s = now_s - sent.sent_s
        seconds = result.compute_s or ((round_trip_s,) if sent.is_alone else ())
        if not seconds:
            return []
        if len(seconds) != len(self._stages):
            self._stages = [_Stage(index) for index in range(len(seconds))]
        self._note_shape(sent.shape)
        if sent.is_alone:
            self._lone_s.append(max(0.0, round_trip_s - sum(seconds)))
        waits = result.wait_s or (0.0,) * len(seconds)
        events = [
            stage.observe(sent.shape, stage_s, wait_s)
            for stage, stage_s, wait_s in zip(self._stages, seconds, waits, strict=True)
        ]
        return [event for event in events if event is not None]

    def speed(self, now_s: float) -> ReplicaSpeed | None:
        """The present speed; None while too little is known.

        Steps of a pipeline overlap: prompts advance at the pace of its slowest stage, and a sequence gets a token each
        time that a step with its share of all rows has passed every stage.
        """
        is_stale = now_s - self._answered_s > _FRESH_S
        if is_stale not in self._known:
            self._known[is_stale] = self._find_speed(is_stale=is_stale)
        return self._known[is_stale]

    def _find_speed(self, *, is_stale: bool) -> ReplicaSpeed | None:
        if not self._stages or not (self._is_predicted or all(stage.has_prompts for stage in self._stages)):
            return None
        scales = [stage.correction(is_stale=is_stale) for stage in self._stages]
        pairs = list(zip(self._stages, scales, strict=True))
        prompts, outputs = self._prompts or (_TYPICAL_PROMPTS,), self._outputs or (_TYPICAL_OUTPUTS,)
        prompt_token_s = max(stage.prompt_token_s(prompts) * scale for stage, scale in pairs)
        if not (self._is_predicted or all(stage.has_outputs for stage in self._stages)):
            return ReplicaSpeed.from_prompts(prompt_token_s)
        row_s = sum(stage.output_row_s(outputs) * scale for stage, scale in pairs) / len(pairs)
        step_s = sum(stage.step_s() * scale for stage, scale in pairs)
        lost_s = median(self._lone_s) if self._lone_s else 0.0
        return ReplicaSpeed(prompt_token_s=prompt_token_s, output_step_s=step_s + lost_s, output_row_s=row_s)

    def _note_shape(self, shape: StepShape) -> None:
        if shape.output_rows:
            self._outputs.append(shape)
        if shape.prompt_rows:
            self._prompts.append(shape)
