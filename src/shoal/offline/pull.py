"""Runs chunks on replicas that pull them: read lazily, computed in any order, in bounded memory, with recovery."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from shoal.core.batching.events import BatchLimits
from shoal.core.chunk_queue import ChunkQueue, Ticket
from shoal.core.plan.graph import BatchAxes
from shoal.core.recovery.config import MAX_LOSSES, RecoveryConfig
from shoal.core.recovery.events import RecoveryEffect, ReplicaJoined, ReplicaLost, ReplicaReady, WorkersProgressed
from shoal.core.recovery.recovery import Recovery, RecoveryStats
from shoal.core.speed.work_size import WorkSize
from shoal.errors import InvalidRequest, WorkerLost
from shoal.protocol.worker_messages import Generation
from shoal.router.graph_executor import Array, Batch, BatchId, BatchResult, GraphExecutor, GraphReplicaFactory, Tensors
from shoal.router.replica_owner import ReplicaOwner
from shoal.router.rows import count_rows, row_cost
from shoal.router.worker_set import Answered, WorkerSet

_MAX_WAIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows or one item of the input, for one run of the graph."""

    index: int
    """The caller's number of the chunk."""
    inputs: Tensors
    """All inputs of the graph, checked. They must not change until the chunk's result arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """The result of one chunk."""

    index: int
    outputs: dict[str, Array]
    """All outputs of the graph; empty with an `error`. Valid until: the next result is requested."""
    error: str | None = None
    """The error in one line; None: there is none."""


class ChunkRunner(ReplicaOwner[Batch, BatchResult, BatchLimits]):
    """Runs chunks on executors, which it owns, and restarts lost workers. It must be closed."""

    def __init__(
        self,
        executors: Sequence[GraphExecutor],
        *,
        factories: Sequence[GraphReplicaFactory] = (),
        recovery: RecoveryConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        batch: BatchAxes | None = None,
        row_s: Sequence[float] = (),
        sample: Tensors | None = None,
    ) -> None:
        """Take over the executors.

        Args:
            executors: one for each replica.
            factories: start workers again, one for each replica; empty: a lost replica stays lost.
            recovery: how lost workers are restarted; None: the defaults.
            clock: gives monotonic seconds.
            batch: the batch axes of the graph; None: every chunk counts as one row.
            row_s: seconds that the workers of each replica took for a row of the sample; empty: not known.
            sample: inputs of the graph with that row; None: its cost is not known.
        """
        self._axes = batch
        recovery = recovery or RecoveryConfig()
        if not factories:
            recovery = recovery.without_restart()
        super().__init__(WorkerSet(executors, factories, clock))
        self._queue = ChunkQueue([executor.num_stages for executor in executors])
        self._recovery = Recovery(recovery)
        self._sample_row_cost = 1 if sample is None else self._size(sample).row_cost
        for seconds in row_s or [0.0] * len(executors):
            self._recovery.add(seconds, row_cost=self._sample_row_cost)
        self._clock = clock
        self._chunks: dict[Ticket, Chunk] = {}
        self._left_s: float | None = None
        """When the latest run ended."""

    def __enter__(self) -> ChunkRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stats(self) -> RecoveryStats:
        """A snapshot of the replicas' recovery."""
        return self._recovery.stats()

    def run(self, chunks: Iterable[Chunk], *, copy_last: bool = False) -> Generator[ChunkResult]:
        """Yield one result per chunk, in the order in which they finish.

        A chunk is read only when a replica has room for it, so at most num_stages + 1 chunks per replica are held at
        any time. The chunks of a lost replica run again, on another one or when it has workers again. If a run is left
        before its end, replicas first finish what they have before the next run uses them.

        Args:
            chunks: the chunks, read lazily.
            copy_last: whether idle replicas repeat unfinished chunks of others at the end; the first result counts.
                For long jobs: it shortens the end at the cost of discarded work.

        Raises:
            WorkerLost: all replicas are given up.
        """
        source = iter(chunks)
        self._queue.start_input()
        if self._left_s is not None:
            self._recovery.note_pause(self._clock() - self._left_s)
        try:
            while True:
                yield from self._collect()
                yield from self._recover()
                self._call_watchers()
                self._hand_out(source, copy_last=copy_last)
                if not self._queue.has_work:
                    return
                self._wait()
        finally:
            self._queue.abandon()
            self._chunks.clear()
            self._left_s = self._clock()

    def _generation_of(self, index: int) -> Generation:
        return self._recovery.replicas[index].generation

    def _collect(self) -> Iterator[ChunkResult]:
        """Take in the workers' messages."""
        for event in self._workers.collect():
            match event:
                case Answered(replica=replica, result=result):
                    self._recovery.replicas[replica].note_answered(result.batch_id, result.compute_s, self._clock())
                    yield from self._take(replica, result)
                case ReplicaReady(replica=replica, limits=limits):
                    self._queue.withdraw(replica)
                    self._queue.restore(replica, limits.num_stages)
                    self._carry_out([self._recovery.become_ready(event, self._clock())])
                case WorkersProgressed():
                    self._recovery.note_progress(event, self._clock())
                case ReplicaLost():
                    yield from self._lose(event)
                case ReplicaJoined(limits=limits, row_s=row_s):
                    self._queue.join(limits.num_stages)
                    self._recovery.add(row_s, row_cost=self._sample_row_cost)

    def _take(self, replica: int, result: BatchResult) -> Iterator[ChunkResult]:
        """Pass on the first answer to a chunk, after releasing the chunk's inputs."""
        ticket = Ticket(result.batch_id)
        try:
            if self._queue.finish(replica, ticket):
                index, told_s = self._chunks.pop(ticket).index, self._clock()
                yield ChunkResult(index=index, outputs=result.outputs, error=result.error)
                self._recovery.note_pause(self._clock() - told_s)
        finally:
            if result.release is not None:
                result.release()

    def _lose(self, lost: ReplicaLost) -> Iterator[ChunkResult]:
        """Take a replica out of service; a chunk that is blamed for losses ends with an error."""
        if lost.is_crash and self._queue.num_in_flight(lost.replica):
            self._recovery.replicas[lost.replica].life.note_work()  # it worked until it was given these chunks
        self._carry_out(self._recovery.lose(lost, self._clock()))
        given_up = self._queue.lose(lost.replica, is_crash=lost.is_crash)
        self._check_living()
        for ticket in given_up:
            error = _error_for(lost.reason, is_crash=lost.is_crash)
            yield ChunkResult(index=self._chunks.pop(ticket).index, outputs={}, error=error)

    def _recover(self) -> Iterator[ChunkResult]:
        """Treat silent workers as lost, and restart workers that are due."""
        now_s = self._clock()
        for lost in self._recovery.find_silent(self._workers.heard_s):
            yield from self._lose(lost)
        self._carry_out(self._recovery.start_due(now_s))
        for event in self._workers.take_news():
            if isinstance(event, ReplicaLost):
                yield from self._lose(event)
            else:
                self._recovery.note_progress(event, now_s)

    def _hand_out(self, source: Iterator[Chunk], *, copy_last: bool) -> None:
        """Read and send as many chunks as there is room for."""
        while True:
            for assignment in self._queue.assign(copy_last=copy_last):
                self._submit(assignment.replica, assignment.ticket)
            if not self._queue.wants_chunk:
                return
            if (chunk := next(source, None)) is None:
                self._queue.end_input()
            else:
                self._chunks[self._queue.add()] = chunk

    def _submit(self, replica: int, ticket: Ticket) -> None:
        inputs, now_s = self._chunks[ticket].inputs, self._clock()
        size = self._size(inputs)
        watched = self._recovery.replicas[replica]
        limit_s = watched.patience.limit_s(size, now_s)
        watched.note_sent(ticket, size, now_s)
        self._workers.submit(replica, Batch(batch_id=BatchId(ticket), inputs=inputs, limit_s=limit_s))

    def _size(self, inputs: Tensors) -> WorkSize:
        """The size of a chunk; invalid inputs, which a worker will refuse, count as one row."""
        elements = max(1, sum(array.size for array in inputs.values()))
        if self._axes is None:
            return WorkSize(1, elements)
        try:
            return WorkSize(count_rows(inputs, self._axes), row_cost(inputs, self._axes))
        except InvalidRequest:
            return WorkSize(1, elements)

    def _wait(self) -> None:
        """Sleep until workers send messages or something is due."""
        self._workers.wait(_MAX_WAIT_S, self._recovery.wake_s())

    def _carry_out(self, effects: Iterable[RecoveryEffect]) -> None:
        for effect in effects:
            self._workers.carry_out(effect)

    def _check_living(self) -> None:
        if self._recovery.death is not None:
            raise WorkerLost(self._recovery.death)


def _error_for(reason: str, *, is_crash: bool) -> str:
    if is_crash:
        return f"given up: the workers did not survive it, and had nothing else: {reason}"
    return f"given up after {MAX_LOSSES} replicas were lost while they had it, the last one because: {reason}"
