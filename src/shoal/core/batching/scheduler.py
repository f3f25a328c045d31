"""The scheduler that forms batches from the requests of one model: events in, effects out. No I/O, no clock, no arrays.

A request's life: `InferenceAdded` -> it is refused, or its rows wait in the queue -> a `Tick` finds a replica with room
-> `SubmitBatch` with the oldest rows and others of the same signature -> `BatchCompleted` -> `InferenceCompleted` once
all its rows are computed. The rows of a lost replica go back to the queue, for other replicas or for its next workers.
Every request ends exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from shoal.core.batching.admission import reason_to_refuse, retry_after_s
from shoal.core.batching.blame import after_loss, failure, find_condemned
from shoal.core.batching.config import BatchingConfig
from shoal.core.batching.events import (
    BatchCompleted,
    BatchLimits,
    BatchRefused,
    Effect,
    Event,
    InferenceAdded,
    InferenceCancelled,
    InferenceCompleted,
    InferenceFailed,
    SubmitBatch,
)
from shoal.core.batching.open_requests import OpenRequests
from shoal.core.batching.queue import Line
from shoal.core.batching.replicas import ChosenReplica, Replica, choose_replica, share_rows
from shoal.core.plan.graph import BatchAxes
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.events import (
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    ReportSpeed,
    Tick,
    WorkersProgressed,
)
from shoal.core.recovery.recovery import Recovery, RecoveryStats
from shoal.core.speed.work_size import WorkSize
from shoal.errors import DeadlineExceeded, InvalidRequest, RequestAborted, ShoalError, WorkerLost
from shoal.protocol.worker_messages import Generation


class BatchScheduler:
    """Forms the batches of one model. All changes go through `handle`."""

    def __init__(
        self,
        config: BatchingConfig,
        axes: BatchAxes,
        limits: Sequence[BatchLimits],
        recovery: RecoveryConfig | None = None,
        row_s: Sequence[float] = (),
        *,
        sample_row_cost: int = 1,
    ) -> None:
        """Start with an empty queue; all replicas have workers.

        Args:
            config: the limits.
            axes: whether requests have rows and whether a run has a fixed number of them.
            limits: the limits of each replica.
            recovery: how lost workers are started again; None: the defaults.
            row_s: seconds that the workers of each replica took for a single row; empty: not known.
            sample_row_cost: the cost of that row, see `WorkSize`.
        """
        self.config = config
        self._recovery = Recovery(recovery)
        self._sample_row_cost = sample_row_cost
        self.replicas: list[Replica] = []
        """All replicas; read-only for callers."""
        for own, seconds in zip(limits, row_s or [0.0] * len(limits), strict=True):
            self._add_replica(own, seconds)
        self.max_rows = (axes.rows or config.max_batch) if axes.is_batched else 1
        """The most rows that one batch may have."""
        self._has_fixed_rows = not axes.is_batched or axes.rows is not None
        self._open = OpenRequests()
        self._next_batch_id = 0
        self._think_again_s: float | None = None

    @property
    def death(self) -> str | None:
        """Why no replica has workers or will get them; None if one has or will."""
        return self._recovery.death

    @property
    def num_requests(self) -> int:
        """Unfinished requests."""
        return len(self._open)

    @property
    def num_waiting_requests(self) -> int:
        """Unfinished requests with waiting rows."""
        return self._open.num_waiting

    @property
    def waiting_rows(self) -> int:
        """Rows that are in no batch yet."""
        return self._open.queue.num_rows

    @property
    def wake_s(self) -> float | None:
        """The next time at which a `Tick` may have effects even if nothing else happens; None: never."""
        times = (self._think_again_s, self._open.first_deadline_s(), self._recovery.wake_s())
        return min((time_s for time_s in times if time_s is not None), default=None)

    def generation_of(self, index: int) -> Generation:
        """The generation of the workers that a replica has, or will have next."""
        return self._recovery.replicas[index].generation

    def recovery_stats(self) -> RecoveryStats:
        """A snapshot of the replicas' recovery, for metrics."""
        return self._recovery.stats()

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take in an event. Only a `Tick` forms batches, so that requests that arrive together run together.

        Args:
            event: what happened; events come in order. An `InferenceFailed` in reply to `InferenceAdded` is a refusal.
            now_s: the monotonic time.

        Returns:
            Effects to carry out in order.
        """
        match event:
            case InferenceAdded():
                return self._add(event, now_s)
            case InferenceCancelled(request_id=request_id):
                return self._end(request_id, RequestAborted("the request was cancelled"))
            case BatchCompleted():
                return self._complete(event, now_s)
            case BatchRefused():
                return self._refuse(event, now_s)
            case WorkersProgressed():
                self._recovery.note_progress(event, now_s)
                return []
            case ReplicaReady():
                return self._make_ready(event, now_s)
            case ReplicaJoined(limits=limits, row_s=row_s):
                self._add_replica(limits, row_s)
                return []
            case ReplicaLost():
                return self._lose(event, now_s)
            case Tick(heard_s=heard_s):
                return self._tick(now_s if heard_s is None else heard_s, now_s)
            case _:
                assert_never(event)

    def _tick(self, heard_s: float, now_s: float) -> list[Effect]:
        effects = [effect for lost in self._recovery.find_silent(heard_s) for effect in self._lose(lost, now_s)]
        effects += self._recovery.start_due(now_s)
        if self.death is not None:
            return effects
        return effects + self._expire(now_s) + self._form_batches(now_s)

    def _add_replica(self, limits: BatchLimits, row_s: float) -> None:
        watched = self._recovery.add(row_s, row_cost=self._sample_row_cost)
        self.replicas.append(Replica(limits.num_stages, watched))

    def _add(self, event: InferenceAdded, now_s: float) -> list[Effect]:
        queue = self._open.queue
        error = reason_to_refuse(event, self.config, self.replicas, queue, max_rows=self.max_rows, now_s=now_s)
        if error is not None:
            return [InferenceFailed(request_id=event.request_id, error=error)]
        self._open.add(event, now_s)
        return []

    def _expire(self, now_s: float) -> list[Effect]:
        """End the requests whose rows still wait at their deadline; those wholly in flight may finish late."""
        effects: list[Effect] = []
        while (request_id := self._open.pop_expired(now_s)) is not None:
            retry_s = retry_after_s(self.replicas, self._open.queue, max_rows=self.max_rows, now_s=now_s)
            effects += self._end(request_id, DeadlineExceeded("the request's time was up while it waited", retry_s))
        return effects

    def _form_batches(self, now_s: float) -> list[Effect]:
        """Fill the replicas that have room, the oldest rows first."""
        effects: list[Effect] = []
        self._think_again_s = None
        while self._open.queue:
            line = self._open.queue.oldest_line()
            choice = self._choose(line, now_s)
            if choice.replica is None:
                self._think_again_s = choice.hold_until_s
                break
            effects.append(self._submit(choice.replica, line, now_s))
        return effects

    def _choose(self, line: Line, now_s: float) -> ChosenReplica:
        """Choose the replica for the next batch of a line, or hold the batch."""
        is_full = line.num_rows >= self.max_rows or line.parts[0].runs_alone
        rows = min(line.num_rows, self.max_rows)
        waiting_rows = self._open.queue.num_rows
        choice = choose_replica(
            self.replicas,
            rows=rows,
            waiting_rows=waiting_rows,
            is_full=is_full,
            is_suspect=line.parts[0].is_suspect,
            now_s=now_s,
        )
        if choice.replica is None or is_full or not choice.replica.in_flight:
            return choice
        due_s = self._open[line.parts[0].request_id].added_s + self.config.batch_delay_s
        return ChosenReplica(None, due_s) if now_s < due_s else choice

    def _submit(self, replica: Replica, line: Line, now_s: float) -> SubmitBatch:
        limit = self.max_rows
        if not self._has_fixed_rows:
            share = share_rows(self.replicas, replica, waiting_rows=self._open.queue.num_rows)
            limit = min(limit, share)
        min_cut_rows = min(self.config.min_cut_rows, self.max_rows)
        parts = self._open.take(line, limit=limit, max_rows=self.max_rows, min_cut_rows=min_cut_rows)
        num_rows = sum(part.num_rows for part in parts)
        row_cost = max(self._open[part.request_id].row_cost for part in parts)
        size = WorkSize(self.max_rows if self._has_fixed_rows else num_rows, row_cost)
        batch = SubmitBatch(
            replica=replica.index,
            batch_id=self._next_batch_id,
            parts=parts,
            num_rows=num_rows,
            limit_s=replica.limit_s(size, now_s),
        )
        self._next_batch_id += 1
        replica.submit(batch, size, now_s)
        return batch

    def _complete(self, completed: BatchCompleted, now_s: float) -> list[Effect]:
        replica = self.replicas[completed.replica]
        flight = replica.in_flight.get(completed.batch_id)
        if flight is None:
            return []
        changes = replica.complete(flight, completed.compute_s, now_s)
        effects: list[Effect] = [ReportSpeed(replica=replica.index, change=change) for change in changes]
        ended = [part.request_id for part in flight.batch.parts if self._open.complete(part)]
        return effects + [InferenceCompleted(request_id=request_id) for request_id in ended]

    def _refuse(self, refused: BatchRefused, now_s: float) -> list[Effect]:
        """Fail the request that is to blame. If the batch had several, run each alone to find out which one it is."""
        replica = self.replicas[refused.replica]
        flight = replica.in_flight.get(refused.batch_id)
        if flight is None:
            return []
        replica.drop(flight, now_s)
        parts = self._open.of(flight.batch.parts)
        if len({part.request_id for part in flight.batch.parts}) > 1:
            self._open.put_back([replace(part, runs_alone=True) for part in parts])
            return []
        return [effect for part in parts for effect in self._end(part.request_id, InvalidRequest(refused.reason))]

    def _make_ready(self, ready: ReplicaReady[BatchLimits], now_s: float) -> list[Effect]:
        """Queue again what the replaced workers had in flight, if any; no request is to blame for that."""
        replica = self.replicas[ready.replica]
        self._open.put_back(self._open.of(replica.withdraw()))
        replica.take_workers(ready.limits)
        return [self._recovery.become_ready(ready, now_s)]

    def _lose(self, lost: ReplicaLost, now_s: float) -> list[Effect]:
        """Queue the lost replica's rows again, ahead of later ones; if all replicas are given up, end every request."""
        replica = self.replicas[lost.replica]
        flying = replica.withdraw()
        if lost.is_crash and flying:
            replica.life.note_work()  # it worked until it was given these batches
        effects: list[Effect] = [*self._recovery.lose(lost, now_s)]
        if self.death is not None:
            return effects + self._die()
        parts = self._open.of(flying)
        condemned = find_condemned(parts, lost, was_alone=len({part.arrival for part in flying}) == 1)
        self._open.put_back([after_loss(part, lost) for part in parts if part.request_id not in condemned])
        error = failure(lost)
        return effects + [end for request_id in sorted(condemned) for end in self._end(request_id, error)]

    def _die(self) -> list[Effect]:
        error = WorkerLost(self.death or "")
        return [effect for request in self._open for effect in self._end(request.request_id, error)]

    def _end(self, request_id: str, error: ShoalError) -> list[Effect]:
        """End a request early; its rows in flight are ignored when they are answered. Unknown ids are ignored."""
        if not self._open.end(request_id):
            return []
        return [InferenceFailed(request_id=request_id, error=error)]
