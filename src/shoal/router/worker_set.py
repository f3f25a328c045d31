"""The workers of all replicas of a model behind one descriptor: the shell around recovery, for all kinds of work.

It returns the workers' messages as events (`collect`) and carries out effects of recovery (`carry_out`).
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import inf
from typing import Generic, assert_never

from shoal.core.recovery.events import (
    GiveUp,
    RecoveryEffect,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    ReportRecovery,
    ReportSpeed,
    StartWorkers,
    StopWorkers,
    WorkersProgressed,
)
from shoal.errors import MachineGone, ModelChanged, ShoalError, WorkerCrashed
from shoal.protocol.worker_messages import Generation
from shoal.router.executor import Executor, ReplicaFactory, ResultT, WorkT
from shoal.router.replica_workers import LimitsT, Ready, Replaced, ReplicaWorkers
from shoal.router.story.replica_log import ReplicaLog

_MAX_WAIT_S = 60.0
"""The longest wait, so that a lost wake-up costs at most a minute."""
_REAP_S = 0.01
"""Seconds between two looks at processes that were killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Generic[ResultT]):
    """A replica's workers have answered a piece of work."""

    replica: int
    result: ResultT


class WorkerSet(Generic[WorkT, ResultT, LimitsT]):
    """Owns the executors. One thread calls all methods; only `wake` may be called from another."""

    def __init__(
        self,
        executors: Sequence[Executor[WorkT, ResultT]],
        factories: Sequence[ReplicaFactory[WorkT, ResultT, LimitsT]],
        clock: Callable[[], float],
        log: ReplicaLog | None = None,
    ) -> None:
        """Take over the executors.

        Args:
            executors: one for each replica, with their workers.
            factories: start workers again, one for each replica; empty: they cannot be started again.
            clock: gives monotonic seconds.
            log: the log for operators; None: one without a model's name.
        """
        self._clock = clock
        self.log = log or ReplicaLog()
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._replicas = [
            ReplicaWorkers(executor, factory, self._epoll)
            for executor, factory in zip(executors, factories or [None] * len(executors), strict=True)
        ]
        self._joining: list[ReplicaWorkers[WorkT, ResultT, LimitsT]] = []
        """Workers of replicas that will join."""
        self._news: dict[int, ReplicaLost | WorkersProgressed] = {}
        """Events that result from carrying out effects, by replica; returned by `take_news`."""
        self._readable: AbstractSet[int] = frozenset()
        self.heard_s = -inf
        """All messages of workers up to this time have been returned by `collect`, or will be."""

    @property
    def serving(self) -> list[Executor[WorkT, ResultT]]:
        """Executors of the replicas that have their workers; read-only for callers."""
        return [workers.serving for workers in self._replicas if workers.serving is not None]

    @property
    def pids(self) -> list[tuple[int, ...]]:
        """Process ids of each replica's workers, see `Executor.worker_pids`; empty while none serve."""
        of_replicas = (workers.serving for workers in self._replicas)
        return [() if executor is None else executor.worker_pids() for executor in of_replicas]

    def fileno(self) -> int:
        """A descriptor that never changes; it is readable when workers have sent messages, or after `wake`."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """Make the current or the next `wait` return. Thread-safe."""
        os.eventfd_write(self._wake_fd, 1)

    def wake_s(self) -> float | None:
        """The time at which `collect` must be called at the latest; None: not before the descriptor is readable."""
        if self._news or any(workers.computes_here for workers in self._replicas):
            return self._clock()
        if any(workers.is_ending for workers in (*self._replicas, *self._joining)):
            return self._clock() + _REAP_S
        return None

    def wait(self, timeout_s: float, until_s: float | None = None) -> None:
        """Sleep until workers send messages, `wake` is called, something is due, or it is `until_s`.

        It does not sleep if the timeout is 0 or if `collect` itself computes.
        """
        times = [time_s - self._clock() for time_s in (until_s, self.wake_s()) if time_s is not None]
        sleep_s = min(timeout_s, _MAX_WAIT_S, *times) if times else min(timeout_s, _MAX_WAIT_S)
        self._readable = {fd for fd, _ in self._epoll.poll(max(0.0, sleep_s))}
        self.heard_s = self._clock()
        if self._wake_fd in self._readable:
            os.eventfd_read(self._wake_fd)

    def collect(
        self,
    ) -> Iterator[Answered[ResultT] | WorkersProgressed | ReplicaReady[LimitsT] | ReplicaJoined[LimitsT] | ReplicaLost]:
        """Yield the workers' messages up to the latest `wait` as events, to be passed on one by one."""
        readable, self._readable = self._readable, frozenset()
        for index, workers in enumerate(self._replicas):
            workers.reap()
            ready = None
            try:
                for result in workers.poll():
                    yield Answered(replica=index, result=result)
                if workers.is_loading_at(readable) and (ready := workers.poll_loading()) is None:
                    yield self._progress(index)
            except ShoalError as error:
                yield _loss(index, error, workers.failed_worker)
            other = workers.poll_replacement(readable, self._clock())
            ready = other or ready
            if ready is not None:
                self._news.pop(index, None)
                yield ReplicaReady(
                    replica=index, limits=ready.limits, row_s=ready.row_s, is_replacement=other is not None
                )
        for ready in self._collect_joining(readable):
            yield ReplicaJoined(limits=ready.limits, row_s=ready.row_s)

    def take_news(self) -> list[ReplicaLost | WorkersProgressed]:
        """Return the events that result from `submit` and `carry_out`, to be passed on after all effects."""
        news = [*self._news.values()]
        self._news.clear()
        return news

    def submit(self, replica: int, work: WorkT) -> None:
        """Send work to a replica. If its workers are lost, `take_news` returns the loss."""
        if isinstance(self._news.get(replica), ReplicaLost):
            return
        try:
            self._replicas[replica].submit(work)
        except ShoalError as error:
            self._news[replica] = _loss(replica, error, None)

    def carry_out(self, effect: RecoveryEffect) -> None:
        """Carry out an effect: stop or start workers, and log it."""
        self.log.note(effect)
        match effect:
            case StopWorkers(replica=index, keep=keep):
                self._news.pop(index, None)
                self._replicas[index].stop(keep=keep)
            case StartWorkers():
                self._start(effect)
            case GiveUp(replica=index):
                self._replicas[index].end_fenced()
            case ReportRecovery() | ReportSpeed():
                pass
            case _:
                assert_never(effect)

    def replace(
        self,
        index: int,
        factory: ReplicaFactory[WorkT, ResultT, LimitsT],
        generation: Generation,
        done: Replaced | None,
    ) -> None:
        """Start new workers for a replica, which replace the present ones when they are ready.

        Args:
            index: the index of the replica.
            factory: starts these workers and all that follow them.
            generation: the generation of these workers.
            done: called with None when they serve, or with the error if they never will.

        Raises:
            ShoalError: the workers could not be started.
        """
        self._replicas[index].begin_replacement(factory, generation, done or _ignore, self._clock())

    def add(self, factory: ReplicaFactory[WorkT, ResultT, LimitsT], done: Replaced | None) -> None:
        """Start another replica, which joins once its workers are ready. Arguments and errors as in `replace`."""
        workers = ReplicaWorkers[WorkT, ResultT, LimitsT](None, factory, self._epoll)
        workers.begin_replacement(factory, Generation(0), done or _ignore, self._clock())
        self._joining.append(workers)

    def close(self) -> None:
        """Stop every worker. Idempotent."""
        for workers in (*self._replicas, *self._joining):
            workers.close()
        if self._wake_fd >= 0:
            self._epoll.close()
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _collect_joining(self, readable: AbstractSet[int]) -> Iterator[Ready[LimitsT]]:
        """Turn ready workers into replicas, and forget failed ones once their processes have ended."""
        for workers in tuple(self._joining):
            workers.reap()
            ready = workers.poll_replacement(readable, self._clock())
            if ready is not None or not (workers.has_replacement or workers.is_ending):
                self._joining.remove(workers)
            if ready is not None:
                self._replicas.append(workers)
                self.log.note_joined(len(self._replicas) - 1)
                yield ready

    def _start(self, effect: StartWorkers) -> None:
        index = effect.replica
        try:
            self._replicas[index].start(effect.generation, effect.without)
        except ShoalError as error:
            self._news[index] = _loss(index, error, None)
        else:
            self._news[index] = self._progress(index)

    def _progress(self, index: int) -> WorkersProgressed:
        workers = self._replicas[index]
        return WorkersProgressed(replica=index, silent=workers.silent, waiting_for=workers.waiting_for)


def _loss(index: int, error: ShoalError, failed_worker: int | None) -> ReplicaLost:
    return ReplicaLost(
        replica=index,
        reason=str(error),
        worker=failed_worker,
        is_final=isinstance(error, ModelChanged),
        is_crash=isinstance(error, WorkerCrashed),
        is_unreachable=isinstance(error, MachineGone),
    )


def _ignore(error: ShoalError | None) -> None:
    """Ignore the outcome of a replacement."""
