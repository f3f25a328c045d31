"""The shell around batching: it owns one model's executors and requests' arrays, and moves events in and effects out.

Single-threaded: one thread or event loop calls `add`, `cancel` and `turn`; only `wake` may be called from another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import assert_never

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
from shoal.core.batching.scheduler import BatchScheduler
from shoal.core.plan.graph import BatchAxes
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.events import (
    GiveUp,
    ReplicaReady,
    ReportRecovery,
    ReportSpeed,
    StartWorkers,
    StopWorkers,
    Tick,
)
from shoal.errors import InvalidRequest, ShoalError, WorkerLost
from shoal.protocol.worker_messages import Generation
from shoal.router.batch_stats import BatchCounts, BatchStats
from shoal.router.graph_executor import Batch, BatchResult, GraphExecutor, GraphReplicaFactory, Tensors
from shoal.router.inference import Inference, InferenceRequest, InferenceResult
from shoal.router.replica_owner import ReplicaOwner
from shoal.router.rows import count_rows, row_cost, signature
from shoal.router.story.batch_story import BatchStory
from shoal.router.story.replica_log import ReplicaLog
from shoal.router.submitted_batches import SubmittedBatches
from shoal.router.worker_set import Answered, WorkerSet

__all__ = ["BatchEngine", "BatchStats", "InferenceRequest", "InferenceResult"]


class BatchEngine(ReplicaOwner[Batch, BatchResult, BatchLimits]):
    """Runs requests in batches on the replicas of one graph. Owns the executors."""

    def __init__(
        self,
        executors: Sequence[GraphExecutor],
        batch: BatchAxes,
        config: BatchingConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        factories: Sequence[GraphReplicaFactory] = (),
        recovery: RecoveryConfig | None = None,
        model: str = "",
        row_s: Sequence[float] = (),
        sample: Tensors | None = None,
    ) -> None:
        """Take over the executors.

        Args:
            executors: one for each replica, at least one.
            batch: the batch axes of the graph.
            config: the limits; None: the defaults.
            clock: gives monotonic seconds; for an event loop its own `time`.
            factories: start workers again, one for each replica; empty: a lost replica stays lost.
            recovery: when workers count as lost and how they are restarted; None: the defaults.
            model: the model's name in the log, if there are several; empty: none.
            row_s: seconds that the workers of each replica took for a row of the sample; empty: not known.
            sample: inputs of the graph with that row; None: its cost is not known.
        """
        recovery = recovery or RecoveryConfig()
        self._config = config or BatchingConfig()
        self._axes = batch
        self._clock = clock
        log = ReplicaLog(model)
        super().__init__(WorkerSet(executors, factories, clock, log))
        self._story = BatchStory(log.story, len(executors))
        self._scheduler = BatchScheduler(
            self._config,
            batch,
            [BatchLimits(num_stages=executor.num_stages) for executor in executors],
            recovery if factories else recovery.without_restart(),
            row_s,
            sample_row_cost=1 if sample is None else row_cost(sample, batch),
        )
        self._requests: dict[str, Inference] = {}
        self._submitted = SubmittedBatches(batch)
        self._counts = BatchCounts()
        self._ended: list[InferenceResult] = []
        """Results for the next turn to return."""
        self._needs_tick = False

    @property
    def has_work(self) -> bool:
        """Whether a request is unfinished or a result was not returned yet."""
        return bool(self._requests or self._ended)

    def add(self, request: InferenceRequest) -> None:
        """Queue a request. Nothing is sent before the next `turn`, so that requests added together run together.

        Raises:
            InvalidRequest: the inputs have no rows or different numbers of rows, or the id is in use.
            QueueFull: too many rows wait already.
            DeadlineExceeded: the request cannot be finished before its deadline.
            WorkerLost: all replicas are given up.
        """
        num_rows = count_rows(request.inputs, self._axes)
        now_s = self._clock()
        if request.request_id in self._requests:
            raise InvalidRequest(f"request id {request.request_id!r} is in use by an unfinished request", param="id")
        event = InferenceAdded(
            request_id=request.request_id,
            num_rows=num_rows,
            signature=signature(request.inputs, self._axes),
            deadline_s=None if request.timeout_s is None else now_s + request.timeout_s,
            row_cost=row_cost(request.inputs, self._axes),
        )
        effects = self._scheduler.handle(event, now_s)
        self._story.note(event, effects, now_s)
        for effect in effects:
            if isinstance(effect, InferenceFailed):
                self._counts.num_failed += 1
                raise effect.error
        self._requests[request.request_id] = Inference(request, num_rows, now_s)
        self._needs_tick = True

    def cancel(self, request_id: str) -> None:
        """Stop a request; its result, with RequestAborted, follows. Unknown and finished ids are ignored."""
        self._tell(InferenceCancelled(request_id=request_id), self._clock())
        self._needs_tick = True

    def turn(self, timeout_s: float) -> list[InferenceResult]:
        """Do one turn: send what can be sent, wait at most timeout_s for answers, and take them in.

        With timeout_s of 0 it does not block, except that executors of this process compute in it.

        Returns:
            Results of the requests that have ended, each exactly once.

        Raises:
            WorkerLost: all replicas are given up, and earlier turns have returned the errors of all requests.
        """
        death = self._scheduler.death
        if death is not None and not self._ended:
            raise WorkerLost(death)
        self._tick(self._clock())
        self._workers.wait(timeout_s, self.next_wake_s())
        self._collect()
        self._tick(self._clock())
        self._call_watchers()
        ended, self._ended = self._ended, []
        return ended

    def filenos(self) -> tuple[int, ...]:
        """One descriptor, the same for the engine's whole life; it is readable when `turn` has something to do."""
        return (self._workers.fileno(),)

    def next_wake_s(self) -> float | None:
        """The time at which `turn` must be called at the latest; None: not before the descriptor is readable."""
        now_s = self._clock()
        if self._needs_tick or self._ended or self._scheduler.death is not None:
            return now_s
        times = (self._scheduler.wake_s, self._workers.wake_s())
        return min((time_s for time_s in times if time_s is not None), default=None)

    def stats(self) -> BatchStats:
        """A snapshot for metrics."""
        return self._counts.snapshot(self._scheduler, self._workers.pids)

    def _generation_of(self, index: int) -> Generation:
        return self._scheduler.generation_of(index)

    def _collect(self) -> None:
        """Take in the workers' messages."""
        for event in self._workers.collect():
            if isinstance(event, Answered):
                self._digest(event.replica, event.result, self._clock())
                continue
            if isinstance(event, ReplicaReady):
                self._submitted.forget(event.replica)
            self._needs_tick = True
            self._tell(event, self._clock())

    def _digest(self, index: int, result: BatchResult, now_s: float) -> None:
        outputs = result.take()
        submitted = self._submitted.pop(result.batch_id)
        if submitted is None:
            return
        batch = submitted.batch
        reason = result.error or self._submitted.store(submitted, outputs, sum(result.compute_s))
        self._needs_tick = True
        if reason is None:
            self._counts.note_batch(batch.num_rows)
            completed = BatchCompleted(replica=index, batch_id=batch.batch_id, compute_s=result.compute_s)
            self._tell(completed, now_s)
        else:
            self._tell(BatchRefused(replica=index, batch_id=batch.batch_id, reason=reason), now_s)

    def _tick(self, now_s: float) -> None:
        """Let requests expire and batches form, if anything has changed."""
        wake_s = self._scheduler.wake_s
        while self._needs_tick or (wake_s is not None and wake_s <= now_s):
            self._needs_tick, wake_s = False, None
            self._tell(Tick(heard_s=self._workers.heard_s), now_s)
            for event in self._workers.take_news():
                self._needs_tick = True
                self._tell(event, now_s)

    def _tell(self, event: Event, now_s: float) -> None:
        effects = self._scheduler.handle(event, now_s)
        self._story.note(event, effects, now_s)
        for effect in effects:
            self._carry_out(effect, now_s)

    def _carry_out(self, effect: Effect, now_s: float) -> None:
        match effect:
            case SubmitBatch():
                self._submit(effect, now_s)
            case InferenceCompleted(request_id=request_id):
                self._end(request_id, None, now_s)
            case InferenceFailed(request_id=request_id, error=error):
                self._end(request_id, error, now_s)
            case StopWorkers(replica=index):
                self._submitted.forget(index)
                self._workers.carry_out(effect)
            case StartWorkers() | GiveUp() | ReportRecovery() | ReportSpeed():
                self._workers.carry_out(effect)
            case _:
                assert_never(effect)

    def _submit(self, batch: SubmitBatch, now_s: float) -> None:
        owners = [self._requests[part.request_id] for part in batch.parts]
        self._workers.submit(batch.replica, self._submitted.begin(batch, owners, now_s))

    def _end(self, request_id: str, error: ShoalError | None, now_s: float) -> None:
        result = self._requests.pop(request_id).end(error, self._axes, now_s)
        self._counts.note_end(succeeded=error is None, queue_s=result.queue_s, compute_s=result.compute_s)
        self._ended.append(result)
