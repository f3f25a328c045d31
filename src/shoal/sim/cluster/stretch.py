"""Decode steps of one replica that are one event: those up to the first end of a request, in which nothing is decided.

What happens in them is known when the first is sent. Where something else happens to the replica before they are over,
those that are answered by then are taken, and the one that is in flight is awaited by itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.core.fleet.fleet_replica import FleetReplica
from shoal.core.generation.steady_steps import advance, num_steady_steps
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.speed.step_times import StepShape
from shoal.core.speed.work_size import WorkSize
from shoal.protocol.language_messages import StepId, StepResult
from shoal.sim.cluster.predicted_workers import TOKEN_ID, PredictedWorkers

_SHORTEST = 3
"""Steps that are worth being taken at once."""


class Queue(Protocol):
    """Where a simulation keeps what is to happen."""

    def put(self, at_s: float, happening: object) -> None:
        """Let a stretch end."""
        ...

    def put_answer(self, replica: int, result: StepResult, at_s: float) -> None:
        """Let the present workers of a replica answer."""
        ...


@dataclass(slots=True, kw_only=True)
class Stretch:
    """Steps that workers compute one after the other. Mutable."""

    replica: int
    workers: PredictedWorkers
    first: StepWork
    """the one that was sent"""
    answers_s: Sequence[float]
    """when each step is answered, ascending"""
    seconds: Sequence[float]
    """that each step takes"""
    is_over: bool = False

    def take(self, replica: FleetReplica, now_s: float) -> tuple[StepId, float, float]:
        """Take the steps that are answered before now, but not the last of all.

        Returns: the step that is in flight then, when it is answered, and its seconds.
        """
        self.is_over = True
        first_id, shape = self.first.step.step_id, self.first.shape
        count = min(bisect_left(self.answers_s, now_s), len(self.answers_s) - 1)
        if not count:
            return first_id, self.answers_s[0], self.seconds[0]
        step_id = advance(replica.scheduler.state, count, TOKEN_ID)
        rows = shape.output_rows
        latest = StepShape(rows, shape.output_context + count * rows, 0, 0)
        replica.note_steady(first_id, step_id, WorkSize.of_step(latest), self.answers_s[count - 1])
        self.workers.note_computed(self.seconds[1 : count + 1], self.answers_s[count])
        return step_id, self.answers_s[count], self.seconds[count]


class Stretches:
    """Those that are under way in a simulation. Changes by its methods only."""

    def __init__(self, replicas: Sequence[FleetReplica], queue: Queue) -> None:
        """`replicas`: of the fleet, of which each may have one."""
        self._replicas, self._queue = replicas, queue
        self._under_way: dict[int, Stretch] = {}

    def begin(self, replica: int, workers: PredictedWorkers, work: StepWork, now_s: float) -> bool:
        """Begin one with a step that is to be sent. Returns whether it is worth it; where not, the step is not sent."""
        state = self._replicas[replica].scheduler.state
        count = 0 if workers.is_silent else num_steady_steps(state)
        if count < _SHORTEST:
            return False
        answers_s, seconds = workers.compute_steadily(work.shape, now_s, count)
        stretch = Stretch(replica=replica, workers=workers, first=work, answers_s=answers_s, seconds=seconds)
        self._under_way[replica] = stretch
        self._queue.put(answers_s[-1], stretch)
        return True

    def end(self, stretch: Stretch, now_s: float) -> None:
        """Take what is answered by now; the step that is in flight is answered by itself. Idempotent."""
        if stretch.is_over:
            return
        del self._under_way[stretch.replica]
        step_id, at_s, seconds = stretch.take(self._replicas[stretch.replica], now_s)
        first = stretch.first
        result = stretch.workers.answer(step_id, first.shape.output_rows, first.step.generation, seconds)
        self._queue.put_answer(stretch.replica, result, at_s)

    def end_of(self, replica: int | None, now_s: float) -> None:
        """Something is about to happen to a replica."""
        if replica is not None and (stretch := self._under_way.get(replica)) is not None:
            self.end(stretch, now_s)

    def end_all(self, now_s: float) -> None:
        """Something is about to happen that may concern any replica."""
        for stretch in list(self._under_way.values()):
            self.end(stretch, now_s)
