"""Runs chunks on replicas that pull them: lazily read, computed in any order, bounded memory."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from shoal.core.chunk_queue import MAX_LOSSES, ChunkQueue, Ticket
from shoal.errors import RemoteProtocolError, WorkerLost
from shoal.router.graph_executor import Array, Batch, BatchId, BatchResult, GraphExecutor, Tensors

_MAX_WAIT_S = 1.0
"""How long to sleep at most before looking whether a silent replica has been silent for too long."""
ANSWER_TIMEOUT_S = 600.0
"""A replica that answers nothing for so long counts as lost. Generous: a chunk may be one very large item, and at the
end of a job idle replicas repeat the chunks of a silent one long before."""
_LOSSES = (WorkerLost, RemoteProtocolError)
"""A worker that answers nonsense is as lost as one that does not answer."""


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


def run_chunks(
    executors: Sequence[GraphExecutor], chunks: Iterable[Chunk], *, copy_last: bool = False
) -> Iterator[ChunkResult]:
    """Compute chunks on executors that nobody has used before or will use again. See ChunkRunner."""
    return ChunkRunner(executors).run(chunks, copy_last=copy_last)


class ChunkRunner:
    """Owns the use of some executors (not the executors: the caller closes them, the lost ones included)."""

    def __init__(self, executors: Sequence[GraphExecutor], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds, monotonic."""
        self._executors = executors
        self._clock = clock
        self._queue = ChunkQueue([executor.num_stages for executor in executors])
        self._chunks: dict[Ticket, Chunk] = {}
        self._is_lost = [False] * len(executors)
        self._last_sign_s = [0.0] * len(executors)
        self._last_loss = "the model has no worker"

    def run(self, chunks: Iterable[Chunk], *, copy_last: bool = False) -> Generator[ChunkResult]:
        """Yield one result per chunk, in the order in which they finish.

        A chunk is read only when a replica has room for it, so at most the sum of (num_stages + 1) over the replicas is
        held at any time. The chunks of a lost replica run again elsewhere. A run that is left before its end keeps its
        replicas busy until they have finished what they hold; then the next run may use them.

        Args:
            copy_last: when nothing is left to read, idle replicas repeat what others have not finished; the first
                result counts. For long jobs: it shortens their end and costs work that is thrown away.

        Raises:
            WorkerLost: no replica is left.
        """
        source = iter(chunks)
        self._queue.start_input()
        try:
            while self._queue.has_work:
                yield from self._hand_out(source, copy_last=copy_last)
                self._wait()
                yield from self._collect()
        finally:
            self._queue.abandon()
            self._chunks.clear()

    def _hand_out(self, source: Iterator[Chunk], *, copy_last: bool) -> Iterator[ChunkResult]:
        """Read what there is room for and send it."""
        self._check_living()
        while True:
            for assignment in self._queue.assign(copy_last=copy_last):
                yield from self._submit(assignment.replica, assignment.ticket)
            if not self._queue.wants_chunk:
                return
            if (chunk := next(source, None)) is None:
                self._queue.end_input()
            else:
                self._chunks[self._queue.add()] = chunk

    def _submit(self, replica: int, ticket: Ticket) -> Iterator[ChunkResult]:
        if self._queue.num_in_flight(replica) == 1:
            self._last_sign_s[replica] = self._clock()
        batch = Batch(batch_id=BatchId(ticket), inputs=self._chunks[ticket].inputs)
        try:
            self._executors[replica].submit(batch)
        except _LOSSES as error:
            yield from self._lose(replica, str(error))

    def _wait(self) -> None:
        """Sleep until a worker answers; not at all where `poll` is what computes."""
        poller = select.poll()
        timeout_s = _MAX_WAIT_S
        for replica in self._busy():
            filenos = self._executors[replica].filenos()
            if not filenos:
                timeout_s = 0.0
            for fd in filenos:
                poller.register(fd, select.POLLIN)
        if self._busy():
            poller.poll(timeout_s * 1e3)

    def _collect(self) -> Iterator[ChunkResult]:
        for replica in self._busy():
            try:
                results = self._executors[replica].poll()
            except _LOSSES as error:
                yield from self._lose(replica, str(error))
                continue
            now_s = self._clock()
            if results:
                self._last_sign_s[replica] = now_s
            elif now_s - self._last_sign_s[replica] > ANSWER_TIMEOUT_S:
                yield from self._lose(replica, f"no answer to a batch within {ANSWER_TIMEOUT_S:.0f} s")
            for result in results:
                yield from self._take(replica, result)

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

    def _lose(self, replica: int, reason: str) -> Iterator[ChunkResult]:
        """Take a replica out of service; a chunk that has seen too many of them die ends with an error."""
        self._is_lost[replica] = True
        self._last_loss = reason
        self._executors[replica].close()
        given_up = self._queue.lose(replica)
        self._check_living()
        for ticket in given_up:
            reason = f"given up after {MAX_LOSSES} replicas were lost while they had it, the last one because: {reason}"
            yield ChunkResult(index=self._chunks.pop(ticket).index, outputs={}, error=reason)

    def _check_living(self) -> None:
        if all(self._is_lost):
            raise WorkerLost(self._last_loss)

    def _busy(self) -> list[int]:
        return [
            replica for replica, lost in enumerate(self._is_lost) if not lost and self._queue.num_in_flight(replica)
        ]
