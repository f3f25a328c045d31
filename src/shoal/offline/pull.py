"""Runs chunks on replicas that pull them: lazily read, computed in any order, bounded memory, lost workers replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from shoal.core.batching.events import LifeEffect
from shoal.core.batching.lives import ReplicaLives
from shoal.core.chunk_queue import MAX_LOSSES, ChunkQueue, Ticket
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.worker_life import WorkerLife
from shoal.errors import ShoalError, WorkerCrashed, WorkerLost
from shoal.router.executor_set import ExecutorSet
from shoal.router.graph_executor import Array, Batch, BatchId, BatchResult, GraphExecutor, GraphReplicaFactory, Tensors

_MAX_WAIT_S = 1.0
"""How long to sleep at most before looking whether a silent replica has been silent for too long."""
ANSWER_TIMEOUT_S = 600.0
"""A replica that answers nothing for so long counts as lost. Generous: a chunk may be one very large item, and at the
end of a job idle replicas repeat the chunks of a silent one long before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows or one item of the input: one run of the graph."""

    index: int
    """the caller's own number for it"""
    inputs: Tensors
    """every input of the graph, checked; must not change until its result has come"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What became of one chunk."""

    index: int
    outputs: dict[str, Array]
    """every output of the graph; empty where `error` says why there is none.
    Valid until: the next result is asked for"""
    error: str | None = None
    """one line"""


class ChunkRunner:
    """Owns some executors and starts those again whose workers are lost. Close it."""

    def __init__(
        self,
        executors: Sequence[GraphExecutor],
        *,
        factories: Sequence[GraphReplicaFactory] = (),
        recovery: RecoveryConfig | None = None,
        report: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over the executors.

        Args:
            executors: one a replica.
            factories: how workers are started again, one a replica; empty: a lost replica stays lost.
            recovery: how they are restarted; None: the defaults.
            report: told what a person who watches should know, a line each.
            clock: seconds, monotonic.
        """
        recovery = recovery or RecoveryConfig()
        if not factories:
            recovery = recovery.without_restart()
        self._executors = ExecutorSet(executors, factories, ANSWER_TIMEOUT_S, report)
        self._queue = ChunkQueue([executor.num_stages for executor in executors])
        self._workers = [WorkerLife(recovery) for _ in executors]
        self._lives = ReplicaLives(self._workers)
        self._clock = clock
        self._chunks: dict[Ticket, Chunk] = {}

    def __enter__(self) -> ChunkRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every worker. Idempotent."""
        self._executors.close()

    def run(self, chunks: Iterable[Chunk], *, copy_last: bool = False) -> Generator[ChunkResult]:
        """Yield one result per chunk, in the order in which they finish.

        A chunk is read only when a replica has room for it, so at most the sum of (num_stages + 1) over the replicas is
        held at any time. The chunks of a lost replica run again, elsewhere or when it has workers again. A run that is
        left before its end keeps its replicas busy until they have finished what they hold; then the next run may use
        them.

        Args:
            copy_last: when nothing is left to read, idle replicas repeat what others have not finished; the first
                result counts. For long jobs: it shortens their end and costs work that is thrown away.

        Raises:
            WorkerLost: no replica is left, and none can be started again.
        """
        source = iter(chunks)
        self._queue.start_input()
        try:
            while True:
                yield from self._collect()
                self._revive()
                self._hand_out(source, copy_last=copy_last)
                if not self._queue.has_work:
                    return
                self._wait()
        finally:
            self._queue.abandon()
            self._chunks.clear()

    def _collect(self) -> Iterator[ChunkResult]:
        """Take in what the workers have said."""
        self._executors.reap()
        for replica, workers in enumerate(self._workers):
            try:
                if self._executors.poll_loading(replica):
                    self._queue.restore(replica)
                    self._carry_out(self._lives.become_ready(replica, self._clock()))
                for result in self._executors.poll(replica, self._clock()):
                    workers.note_work()
                    yield from self._take(replica, result)
            except ShoalError as error:
                yield from self._lose(replica, error)

    def _take(self, replica: int, result: BatchResult) -> Iterator[ChunkResult]:
        """A first answer is passed on; the chunk's data is let go before the receiver sees it."""
        ticket = Ticket(result.batch_id)
        try:
            if self._queue.finish(replica, ticket):
                index = self._chunks.pop(ticket).index
                yield ChunkResult(index=index, outputs=result.outputs, error=result.error)
        finally:
            if result.release is not None:
                result.release()

    def _lose(self, replica: int, error: ShoalError) -> Iterator[ChunkResult]:
        """Take a replica out of service; a chunk that is taken to be what breaks them ends with an error."""
        reason, is_crash = str(error), isinstance(error, WorkerCrashed)
        if is_crash and self._queue.num_in_flight(replica):
            self._workers[replica].note_work()  # it was well until it was given these
        effects = self._lives.lose(replica, reason, self._executors.culprit(replica), self._clock())
        self._carry_out(effects)
        given_up = self._queue.lose(replica, is_crash=is_crash)
        self._check_living()
        for ticket in given_up:
            yield ChunkResult(
                index=self._chunks.pop(ticket).index, outputs={}, error=_verdict(reason, is_crash=is_crash)
            )

    def _revive(self) -> None:
        """Start workers whose time has come."""
        self._carry_out(self._lives.tick(self._clock()))
        self._check_living()

    def _hand_out(self, source: Iterator[Chunk], *, copy_last: bool) -> None:
        """Read what there is room for and send it."""
        while True:
            for assignment in self._queue.assign(copy_last=copy_last):
                batch = Batch(batch_id=BatchId(assignment.ticket), inputs=self._chunks[assignment.ticket].inputs)
                self._executors.submit(assignment.replica, batch, self._clock())
            if not self._queue.wants_chunk:
                return
            if (chunk := next(source, None)) is None:
                self._queue.end_input()
            else:
                self._chunks[self._queue.add()] = chunk

    def _wait(self) -> None:
        """Sleep until a worker says something or is to be started; not at all where `poll` is what computes."""
        now_s = self._clock()
        times = (now_s + _MAX_WAIT_S, self._lives.wake_s(), self._executors.wake_s(now_s))
        self._executors.wait(min(time_s for time_s in times if time_s is not None) - now_s)

    def _carry_out(self, effects: Sequence[LifeEffect]) -> None:
        for effect in effects:
            self._executors.carry_out(effect)

    def _check_living(self) -> None:
        if self._lives.death is not None:
            raise WorkerLost(self._lives.death)


def _verdict(reason: str, *, is_crash: bool) -> str:
    if is_crash:
        return f"given up: the workers did not survive it, and had nothing else: {reason}"
    return f"given up after {MAX_LOSSES} replicas were lost while they had it, the last one because: {reason}"
