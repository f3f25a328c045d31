"""The executors of one model's replicas behind one descriptor, and what is known of their being alive."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

from shoal.errors import WorkerLost
from shoal.router.graph_executor import Batch, BatchResult, GraphExecutor

_MAX_WAIT_S = 60.0
"""No wait is longer, so that a lost wake-up costs a minute and not for ever."""


class _Member:
    """An executor and the batches that it owes."""

    def __init__(self, executor: GraphExecutor) -> None:
        self.executor = executor
        self.filenos = executor.filenos()
        self.num_in_flight = 0
        self.last_sign_s = 0.0
        """when it last answered, or was given a batch while it had none"""
        self.is_lost = False


class ExecutorSet:
    """Owns the executors. Their descriptors are in one epoll set, whose own descriptor stays the same for life."""

    def __init__(self, executors: Sequence[GraphExecutor], batch_timeout_s: float) -> None:
        self._members = [_Member(executor) for executor in executors]
        self._batch_timeout_s = batch_timeout_s
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        for member in self._members:
            for fd in member.filenos:
                self._epoll.register(fd, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when an executor has something to say, or after `wake`."""
        return self._epoll.fileno()

    def living(self) -> list[int]:
        """Indices of the replicas that are not lost."""
        return [index for index, member in enumerate(self._members) if not member.is_lost]

    def computes_here(self) -> bool:
        """Whether a poll would compute something, so that nobody else will announce its result."""
        return any(member.num_in_flight and not member.filenos and not member.is_lost for member in self._members)

    def overdue_s(self) -> float | None:
        """When the first replica will have been silent for too long, if it stays so; None: nothing is owed."""
        owing = [member.last_sign_s for member in self._members if member.num_in_flight and not member.is_lost]
        return min(owing) + self._batch_timeout_s if owing else None

    def submit(self, index: int, batch: Batch, now_s: float) -> None:
        """Hand a batch to a replica. Raises WorkerLost."""
        member = self._members[index]
        if not member.num_in_flight:
            member.last_sign_s = now_s
        member.executor.submit(batch)
        member.num_in_flight += 1

    def poll(self, index: int, now_s: float) -> list[BatchResult]:
        """What a replica has finished. Raises WorkerLost, also when it has owed an answer for too long."""
        member = self._members[index]
        results = member.executor.poll()
        if results:
            member.last_sign_s = now_s
            member.num_in_flight -= len(results)
        elif member.num_in_flight and now_s - member.last_sign_s >= self._batch_timeout_s:
            raise WorkerLost(f"no answer to a batch within {self._batch_timeout_s:g} s")
        return results

    def wait(self, timeout_s: float) -> None:
        """Sleep until something is readable or `wake` was called, and forget that call; no sleep for 0 or less."""
        for fd, _ in self._epoll.poll(min(max(timeout_s, 0.0), _MAX_WAIT_S)):
            if fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)

    def wake(self) -> None:
        """Make a waiting or the next `wait` return. Thread-safe."""
        os.eventfd_write(self._wake_fd, 1)

    def drop(self, index: int) -> None:
        """Stop a replica that is lost now."""
        member = self._members[index]
        member.is_lost = True
        for fd in member.filenos:
            self._epoll.unregister(fd)
        member.executor.close()

    def close(self) -> None:
        """Stop every worker. Idempotent."""
        for member in self._members:
            member.executor.close()
        if self._wake_fd >= 0:
            self._epoll.close()
            os.close(self._wake_fd)
            self._wake_fd = -1
