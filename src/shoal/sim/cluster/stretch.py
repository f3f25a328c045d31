"""Stretches: decode steps of one replica up to the first end of a request, without decisions, taken as one event.

Everything in them is known when the first step is sent. If something else happens to the replica before the end, the
steps that are answered by then are taken, and the one in flight is awaited by itself.
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
"""The fewest steps that are worth a stretch."""


class Queue(Protocol):
    """The event queue of a simulation."""

    def put(self, at_s: float, happening: object) -> None:
        """Schedule the end of a stretch."""
        ...

    def put_answer(self, replica: int, result: StepResult, at_s: float) -> None:
        """Schedule an answer of a replica's present workers."""
        ...


@dataclass(slots=True, kw_only=True)
class Stretch:
    """Successive decode steps of a replica's workers. Mutable."""

    replica: int
    workers: PredictedWorkers
    first: StepWork
    """The step that was sent."""
    answers_s: Sequence[float]
    """The time of each step's answer, ascending."""
    seconds: Sequence[float]
    """Seconds of each step."""
    is_over: bool = False

    def take(self, replica: FleetReplica, now_s: float) -> tuple[StepId, float, float]:
        """Take the steps that are answered before now, except the very last one.

        Returns: the step that is in flight then, the time of its answer, and its seconds.
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
    """The current stretches of a simulation, at most one for each replica."""

    def __init__(self, replicas: Sequence[FleetReplica], queue: Queue) -> None:
        """`replicas`: the fleet's replicas. `queue`: the event queue of the simulation."""
        self._replicas, self._queue = replicas, queue
        self._under_way: dict[int, Stretch] = {}

    def begin(self, replica: int, workers: PredictedWorkers, work: StepWork, now_s: float) -> bool:
        """Begin a stretch with a step to be sent. Returns False, without sending it, if it is not worth it."""
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
        """End a stretch: take what is answered by now; the step in flight is awaited by itself. Idempotent."""
        if stretch.is_over:
            return
        del self._under_way[stretch.replica]
        step_id, at_s, seconds = stretch.take(self._replicas[stretch.replica], now_s)
        first = stretch.first
        result = stretch.workers.answer(step_id, first.shape.output_rows, first.step.generation, seconds)
        self._queue.put_answer(stretch.replica, result, at_s)

    def end_of(self, replica: int | None, now_s: float) -> None:
        """End the stretch of a replica to which something is about to happen."""
        if replica is not None and (stretch := self._under_way.get(replica)) is not None:
            self.end(stretch, now_s)

    def end_all(self, now_s: float) -> None:
        """End all stretches, because something is about to happen that may concern any replica."""
        for stretch in list(self._under_way.values()):
            self.end(stretch, now_s)
