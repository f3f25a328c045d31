"""The executors of one model's replicas behind one descriptor: those that serve, are being started, or are to end."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

from shoal.core.batching.events import LifeEffect, ReportRecovery, StartWorkers, StopWorkers
from shoal.core.fleet.events import GiveUp
from shoal.errors import ShoalError, WorkerLost
from shoal.protocol.messages import Generation
from shoal.router.executor import StartingExecutor
from shoal.router.failed_start import counted_as_failed
from shoal.router.graph_executor import Batch, BatchResult, GraphExecutor, GraphReplicaFactory

_MAX_WAIT_S = 60.0
"""No wait is longer, so that a lost wake-up costs a minute and not for ever."""
_LIMIT_SHARE = 0.8
"""Of the time after which a silent replica counts as lost: its workers give a batch up before that, and live on."""
_REAP_S = 0.01
"""Between two looks at processes that were killed."""


class _Member:
    """A replica's executor and the batches that it owes."""

    def __init__(self, executor: GraphExecutor, factory: GraphReplicaFactory | None) -> None:
        self.factory = factory
        self.generation = 0
        """of the workers that were started last"""
        self.serving: GraphExecutor | None = executor
        self.loading: StartingExecutor[Batch, BatchResult] | None = None
        self.failure: ShoalError | None = None
        """of a submission or a start, for the next poll"""
        self.num_in_flight = 0
        self.last_sign_s = 0.0
        """when it last answered, or was given a batch while it had none"""

    @property
    def computes_here(self) -> bool:
        """Whether a poll would compute something."""
        return self.serving is not None and bool(self.num_in_flight) and not self.serving.filenos()


class ExecutorSet:
    """Owns the executors. Their descriptors are in one epoll set, whose own descriptor stays the same for life."""

    def __init__(
        self,
        executors: Sequence[GraphExecutor],
        factories: Sequence[GraphReplicaFactory],
        batch_timeout_s: float,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Take over the executors.

        Args:
            executors: with their workers, one a replica.
            factories: how workers are started again, one a replica; empty: nobody knows.
            batch_timeout_s: silence after which a replica that owes an answer counts as lost.
            report: told what a person who watches should know, a line each.
        """
        self._members = [
            _Member(executor, factory)
            for executor, factory in zip(executors, factories or [None] * len(executors), strict=True)
        ]
        self._batch_timeout_s = batch_timeout_s
        self._report = report or _say_nothing
        self._ending: list[GraphExecutor] = []
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        for executor in executors:
            self._watch(executor)

    def fileno(self) -> int:
        """Readable when an executor has something to say, or after `wake`."""
        return self._epoll.fileno()

    def has_news(self) -> bool:
        """Whether a poll has something to do that no descriptor tells of."""
        return any(member.failure is not None or member.computes_here for member in self._members)

    def wake_s(self, now_s: float) -> float | None:
        """When to poll at the latest, if no descriptor becomes readable; None: not before."""
        owing = [member.last_sign_s for member in self._members if member.num_in_flight]
        times = [last_sign_s + self._batch_timeout_s for last_sign_s in owing]
        times += [now_s] if self.has_news() else []
        times += [now_s + _REAP_S] if self._ending else []
        return min(times, default=None)

    def submit(self, index: int, batch: Batch, now_s: float) -> None:
        """Hand a batch to a replica; if it cannot be taken, the next poll says so."""
        member = self._members[index]
        assert member.serving is not None
        if not member.num_in_flight:
            member.last_sign_s = now_s
        member.num_in_flight += 1
        if member.failure is None:
            try:
                member.serving.submit(replace(batch, limit_s=_LIMIT_SHARE * self._batch_timeout_s))
            except ShoalError as error:
                member.failure = error

    def poll(self, index: int, now_s: float) -> list[BatchResult]:
        """What a replica has finished. Raises ShoalError: it is lost; it may have owed an answer for too long."""
        member = self._members[index]
        if member.failure is not None:
            raise member.failure
        if member.serving is None:
            return []
        results = member.serving.poll()
        if results:
            member.last_sign_s = now_s
            member.num_in_flight -= len(results)
        elif member.num_in_flight and now_s - member.last_sign_s >= self._batch_timeout_s:
            raise WorkerLost(f"no answer to a batch within {self._batch_timeout_s:g} s")
        return results

    def poll_loading(self, index: int) -> bool:
        """Whether workers that are being started are ready now, and serve. Raises ShoalError: they are lost."""
        member = self._members[index]
        with counted_as_failed():
            if member.loading is None or not member.loading.poll_loading():
                return False
        member.serving, member.loading = member.loading, None
        return True

    def culprit(self, index: int) -> int | None:
        """Which worker the latest failure to load was about; None: not known."""
        loading = self._members[index].loading
        return None if loading is None else loading.culprit

    def carry_out(self, effect: LifeEffect) -> None:
        """Stop or start workers; a start that fails is told by the next poll."""
        match effect:
            case StopWorkers(replica=index, reason=reason):
                self._stop(self._members[index])
                self._report(f"replica {index} is lost: {reason}")
            case StartWorkers(replica=index):
                self._start(self._members[index])
            case GiveUp(replica=index, reason=reason):
                self._report(f"replica {index} is given up: {reason}")
            case ReportRecovery(replica=index, pause_s=pause_s):
                self._report(f"replica {index} has its workers again after {pause_s:.1f} s")
            case _:
                assert_never(effect)

    def reap(self) -> None:
        """Forget stopped executors whose workers have ended meanwhile."""
        for executor in [executor for executor in self._ending if executor.kill()]:
            executor.close()
            self._ending.remove(executor)

    def wait(self, timeout_s: float) -> None:
        """Sleep until something is readable or `wake` was called, and forget that call; no sleep for 0 or less."""
        for fd, _ in self._epoll.poll(min(max(timeout_s, 0.0), _MAX_WAIT_S)):
            if fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)

    def wake(self) -> None:
        """Make a waiting or the next `wait` return. Thread-safe."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Stop every worker. Idempotent."""
        for executor in [*self._ending, *(one for member in self._members for one in (member.serving, member.loading))]:
            if executor is not None:
                executor.close()
        self._ending.clear()
        if self._wake_fd >= 0:
            self._epoll.close()
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _stop(self, member: _Member) -> None:
        executor = member.loading or member.serving
        member.serving = member.loading = member.failure = None
        member.num_in_flight = 0
        if executor is not None:
            for fd in executor.filenos():
                self._epoll.unregister(fd)
            executor.fence()
            self._ending.append(executor)
            self.reap()

    def _start(self, member: _Member) -> None:
        try:
            if member.factory is None:
                raise WorkerLost("nobody knows how its workers are started")
            with counted_as_failed():
                member.generation += 1
                _, member.loading = member.factory.start(Generation(member.generation), None, None)
        except ShoalError as error:
            member.failure = error
        else:
            self._watch(member.loading)

    def _watch(self, executor: GraphExecutor) -> None:
        for fd in executor.filenos():
            self._epoll.register(fd, select.EPOLLIN)


def _say_nothing(line: str) -> None:
    """Nobody watches."""
