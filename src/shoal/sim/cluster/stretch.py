"""Stretches: steps of one replica up to the first end of a request, without decisions, taken as one event.

Everything in them is known when the first step is sent. If something else happens to the replica before the end, the
steps that are answered by then are taken, and the one in flight is awaited by itself. The first step may hold the last
rows of prompts. Once it is answered the replica has less to do, so it is taken before the next request is placed.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.core.fleet.fleet_replica import FleetReplica
from shoal.core.generation.steady_steps import advance, num_steady_steps
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.request import RequestId
from shoal.core.speed.step_times import StepShape
from shoal.core.speed.work_size import WorkSize
from shoal.protocol.language_messages import StepId, StepResult
from shoal.protocol.worker_messages import Generation
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

    def note_first_tokens(self, requests: Sequence[RequestId], at_s: float) -> None:
        """Note that clients of these requests had their first tokens."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Stretch:
    """Successive decode steps of a replica's workers. Mutable."""

    replica: int
    workers: PredictedWorkers
    generation: Generation
    step_id: StepId
    """The step in flight after the answers that have been taken."""
    holds_prompts: bool
    """Whether that step holds prompt rows."""
    new: Sequence[RequestId]
    """Requests whose first tokens the first step brings."""
    rows: int
    """Rows of each decode step."""
    context: int
    """Tokens of all sequences once the first step has run."""
    answers_s: Sequence[float]
    """The time of each step's answer, ascending."""
    seconds: Sequence[float]
    """Seconds of each step."""
    num_taken: int = 0
    """The number of answers that have been taken."""
    is_over: bool = False

    def take(self, replica: FleetReplica, queue: Queue, now_s: float) -> None:
        """Take the steps that are answered before now, except the very last one."""
        count = min(bisect_left(self.answers_s, now_s), len(self.answers_s) - 1)
        if count and self.holds_prompts:
            queue.note_first_tokens(self.new, self.answers_s[0])
            self._take(replica, 1, (self.seconds[0],))
            self.holds_prompts = False
        if count > self.num_taken:
            self._take(replica, count)

    def _take(self, replica: FleetReplica, num_taken: int, prompts_s: tuple[float, ...] = ()) -> None:
        """Take answers until there are `num_taken`. `prompts_s`: see `FleetReplica.note_steady`."""
        first, first_id = self.num_taken, self.step_id
        self.step_id = advance(replica.scheduler.state, num_taken - first, TOKEN_ID)
        self.num_taken = num_taken
        shape = StepShape(self.rows, self.context + num_taken * self.rows, 0, 0)
        at_s = self.answers_s[num_taken - 1]
        replica.note_steady(first_id, self.step_id, WorkSize.of_step(shape), at_s, prompts_s)
        self.workers.note_computed(self.seconds[first + 1 : num_taken + 1], self.answers_s[num_taken])


class Stretches:
    """The current stretches of a simulation, at most one for each replica."""

    def __init__(self, replicas: Sequence[FleetReplica], queue: Queue) -> None:
        """`replicas`: the fleet's replicas. `queue`: the event queue of the simulation."""
        self._replicas, self._queue = replicas, queue
        self._under_way: dict[int, Stretch] = {}
        self._prompts: list[tuple[float, int, Stretch]] = []
        """Stretches whose first step holds prompts, by the time of its answer and the order in which they began."""
        self._num_begun = 0

    def begin(self, replica: int, workers: PredictedWorkers, work: StepWork, now_s: float) -> bool:
        """Begin a stretch with a step to be sent. Returns False, without sending it, if it is not worth it."""
        state = self._replicas[replica].scheduler.state
        count = 0 if workers.is_silent else num_steady_steps(state)
        if count < _SHORTEST:
            return False
        (step,) = state.in_flight.values()
        context = sum([chunk.end for chunk in step.chunks])
        answers_s, seconds = workers.compute_steadily(work, step.num_prefill > 0, context, now_s, count)
        stretch = Stretch(
            replica=replica,
            workers=workers,
            generation=work.step.generation,
            step_id=work.step.step_id,
            holds_prompts=step.num_prefill > 0,
            new=[one.sequence.request.request_id for one in step.chunks if not one.sequence.num_outputs],
            rows=work.num_samples,
            context=context,
            answers_s=answers_s,
            seconds=seconds,
        )
        self._under_way[replica] = stretch
        self._queue.put(answers_s[-1], stretch)
        if stretch.holds_prompts:
            self._num_begun += 1
            heapq.heappush(self._prompts, (answers_s[0], self._num_begun, stretch))
        return True

    def take_prompts(self, now_s: float) -> None:
        """Take the steps with prompts that are answered before now, because a request is about to be placed."""
        while self._prompts and self._prompts[0][0] < now_s:
            _, _, stretch = heapq.heappop(self._prompts)
            if not stretch.is_over and stretch.holds_prompts:
                stretch.take(self._replicas[stretch.replica], self._queue, now_s)

    def end(self, stretch: Stretch, now_s: float) -> None:
        """End a stretch: take what is answered by now; the step in flight is awaited by itself. Idempotent."""
        if stretch.is_over:
            return
        stretch.is_over = True
        del self._under_way[stretch.replica]
        stretch.take(self._replicas[stretch.replica], self._queue, now_s)
        at_s, seconds = stretch.answers_s[stretch.num_taken], stretch.seconds[stretch.num_taken]
        num_samples = stretch.rows
        result = stretch.workers.answer(stretch.step_id, num_samples, stretch.generation, seconds)
        self._queue.put_answer(stretch.replica, result, at_s)

    def end_of(self, replica: int | None, now_s: float) -> None:
        """End the stretch of a replica to which something is about to happen."""
        if replica is not None and (stretch := self._under_way.get(replica)) is not None:
            self.end(stretch, now_s)

    def end_all(self, now_s: float) -> None:
        """End all stretches, because something is about to happen that may concern any replica."""
        for stretch in list(self._under_way.values()):
            self.end(stretch, now_s)
