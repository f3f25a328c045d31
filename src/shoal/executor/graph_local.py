"""A replica of an ONNX graph as child processes on this machine: messages over sockets, tensors in shared memory."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from shoal.comm.groups.shm_group import create_group_memory
from shoal.comm.links.arena import create_arena_memory
from shoal.comm.links.tensor_link import Received
from shoal.core.plan.graph import HEAD
from shoal.errors import ShoalError, WorkerLost
from shoal.executor.process.child_process import close_all, first_cause, kill_all
from shoal.executor.process.graph_worker_process import GraphWorkerProcess, LinkFds, WorkerLinks
from shoal.protocol.graph_messages import BatchDone, LoadGraph, RunBatch
from shoal.protocol.messages import StageLoaded
from shoal.protocol.tensor_codec import Array
from shoal.router.graph_executor import Batch, BatchId, BatchResult

_LOAD_TIMEOUT_S = 600.0


@dataclass(slots=True, kw_only=True)
class _InFlight:
    """A batch of which not every worker has reported yet. Mutable."""

    outputs: dict[str, Array] = field(default_factory=dict[str, Array])
    received: list[tuple[GraphWorkerProcess, Received]] = field(default_factory=list)
    """what to release when the outputs have been read"""
    compute_s: list[float]
    """of each stage: its slowest shard's"""
    error: str | None = None
    num_reports_missing: int


class LocalGraphExecutor:
    """A pipeline of child processes, with one or several shards in a stage.

    Implements `router.executor.StartingExecutor`.
    """

    def __init__(self, name: str, stages: Sequence[Sequence[LoadGraph]]) -> None:
        """Starts one process a shard and tells each what to load; no batch before `poll_loading` says so.

        Args:
            name: of the replica, for messages.
            stages: for each stage what its shards load, in the order of their ranks.
        """
        self._num_stages = len(stages)
        self._loads = [load for loads in stages for load in loads]
        self._workers: list[GraphWorkerProcess] = []
        self._in_flight: dict[BatchId, _InFlight] = {}
        self._loading: set[int] = set()
        """places of workers that are not ready"""
        self._culprit: int | None = None
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._start(name, stages)
            on_failure.pop_all()
        self._loading = set(range(len(self._workers)))

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline."""
        return self._num_stages

    @property
    def culprit(self) -> int | None:
        """The worker that the latest error was about; None: there was none."""
        return self._culprit

    @property
    def row_s(self) -> float:
        """See `StartingExecutor.row_s`. Not known."""
        return 0.0

    @property
    def silent(self) -> int | None:
        """See `StartingExecutor.silent`."""
        return next(iter(self._loading)) if len(self._loading) == 1 else None

    @property
    def waiting_for(self) -> str:
        """See `StartingExecutor.waiting_for`."""
        return ", ".join(self._workers[index].name for index in sorted(self._loading))

    def poll_loading(self) -> bool:
        """See `StartingExecutor.poll_loading`."""
        for index in sorted(self._loading):
            received = self._receive(index)
            if received is None:
                continue
            if not isinstance(received.message, StageLoaded):
                raise WorkerLost(
                    f"{self._workers[index].name} answered LoadGraph with {type(received.message).__name__}"
                )
            self._loading.remove(index)
        return not self._loading

    def wait_until_loaded(self, on_loaded: Callable[[], None]) -> None:
        """Block until every worker is ready; `on_loaded` is called for each.

        Raises:
            ModelLoadError, ConfigError, CapacityError: what a worker failed with.
            WorkerLost: a worker died, or gave no sign of life for ten minutes.
        """
        deadline_s = time.monotonic() + _LOAD_TIMEOUT_S
        num_loading = len(self._loading)
        while num_loading:
            poll = select.poll()
            for index in self._loading:
                poll.register(self._workers[index].fileno(), select.POLLIN)
            if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1e3):
                silent = self._workers[min(self._loading)].name
                raise WorkerLost(f"{silent} was not loaded within {_LOAD_TIMEOUT_S:.0f} s")
            self.poll_loading()
            for _ in range(num_loading - len(self._loading)):
                on_loaded()
            num_loading = len(self._loading)

    def submit(self, work: Batch) -> None:
        """Send a batch to every worker at once, with the graph inputs that it takes."""
        self._in_flight[work.batch_id] = _InFlight(
            compute_s=[0.0] * self._num_stages, num_reports_missing=len(self._workers)
        )
        for worker, load in zip(self._workers, self._loads, strict=True):
            own = {one.type.name: work.inputs[one.type.name] for one in load.inputs if one.peers == (HEAD,)}
            worker.send(RunBatch(batch_id=work.batch_id, generation=load.generation, limit_s=work.limit_s), own)

    def poll(self) -> list[BatchResult]:
        """Results that have come; also notices a worker that is gone."""
        results: list[BatchResult] = []
        for index, (worker, load) in enumerate(zip(self._workers, self._loads, strict=True)):
            while (received := self._receive(index)) is not None:
                if not isinstance(received.message, BatchDone):
                    raise WorkerLost(f"{worker.name} sent {type(received.message).__name__} while running")
                results += self._take(load.stage_index, worker, received.message, received)
        return results

    def filenos(self) -> tuple[int, ...]:
        """One descriptor a worker."""
        return tuple(worker.fileno() for worker in self._workers)

    def worker_pids(self) -> tuple[int, ...]:
        """Process ids, stage by stage, rank by rank."""
        return tuple(worker.pid for worker in self._workers)

    def fence(self) -> None:
        """See `Executor.fence`. None of the workers will be used again."""

    def kill(self) -> bool:
        """End every worker without waiting for it; whether all have ended."""
        return kill_all(self._workers)

    def close(self) -> None:
        """End every worker."""
        close_all(self._workers)

    def _receive(self, index: int) -> Received | None:
        """What a worker says next, without waiting. Raises the first cause of what it cannot go on for."""
        try:
            return self._workers[index].receive(0.0)
        except ShoalError as error:
            self._culprit, cause = first_cause(dict(enumerate(self._workers)), index, error)
            raise cause from error

    def _take(self, stage: int, worker: GraphWorkerProcess, done: BatchDone, received: Received) -> list[BatchResult]:
        """Note one worker's report; the result when it was the last."""
        batch_id = BatchId(done.batch_id)
        entry = self._in_flight.get(batch_id)
        if entry is None:
            raise WorkerLost(f"{worker.name} reports on batch {batch_id}, which it was not given")
        entry.outputs |= received.tensors
        entry.received.append((worker, received))
        entry.compute_s[stage] = max(entry.compute_s[stage], done.compute_s)
        entry.error = entry.error or done.error
        entry.num_reports_missing -= 1
        if entry.num_reports_missing:
            return []
        del self._in_flight[batch_id]

        def release() -> None:
            for owner, part in entry.received:
                owner.release(part)

        return [
            BatchResult(
                batch_id=batch_id,
                outputs={} if entry.error else entry.outputs,
                compute_s=tuple(entry.compute_s),
                error=entry.error,
                release=release,
            )
        ]

    def _start(self, name: str, stages: Sequence[Sequence[LoadGraph]]) -> None:
        with ExitStack() as fds:
            links = _lay_links(stages, fds)
            for stage, loads in enumerate(stages):
                for rank, load in enumerate(loads):
                    label = f"{name} stage {stage}" + (f" shard {rank}" if len(loads) > 1 else "")
                    worker = GraphWorkerProcess(label, links[stage][rank])
                    self._workers.append(worker)
                    worker.send(load)


def _lay_links(stages: Sequence[Sequence[LoadGraph]], fds: ExitStack) -> list[list[WorkerLinks]]:
    """Every worker's links, by stage and rank. A shard takes from the shard of its own rank, counted round."""
    links = [[WorkerLinks() for _ in loads] for loads in stages]
    for stage, loads in enumerate(stages):
        for source in sorted({one.peers[0] for one in loads[0].inputs} - {HEAD}):
            for rank, taker in enumerate(links[stage]):
                giver = links[source][rank % len(links[source])]
                giver_end, taker.sources[source] = _connect(fds)
                giver.consumers.append((stage, giver_end))
        if len(loads) > 1:
            group = create_group_memory(len(loads))
            fds.callback(os.close, group)
            for member in links[stage]:
                member.group = group
    return links


def _connect(fds: ExitStack) -> tuple[LinkFds, LinkFds]:
    """The two ends of a link that carries tensors one way: the sender's and the receiver's."""
    sender, receiver = socket.socketpair()
    memory = create_arena_memory()
    fds.callback(sender.close)
    fds.callback(receiver.close)
    fds.callback(os.close, memory)
    return (sender.fileno(), memory, -1), (receiver.fileno(), -1, memory)
