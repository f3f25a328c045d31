"""What the replicas without a model have in common: when they answer, and how they are lost."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, TypeVar

from shoal.errors import WorkerLost

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


class FakeReplica(ABC, Generic[WorkT, ResultT]):
    """Answers at the next `poll`, or, with `answers_by_hand`, when `answer` is called, as a worker would."""

    def __init__(self, *, answers_by_hand: bool = False, num_stages: int = 1, is_loading: bool = False) -> None:
        self.num_stages = num_stages
        self.waiting: deque[WorkT] = deque()
        """submitted and not answered, oldest first"""
        self.num_closed = 0
        self.num_fenced = 0
        self.is_loading = is_loading
        self.row_s = 0.0
        self.failed_worker: int | None = None
        self.silent: int | None = None
        self.waiting_for = ""
        self.loses_at_poll = False
        self.loses_at_submit = False
        self._ready: deque[ResultT] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if answers_by_hand else -1

    @abstractmethod
    def compute(self, work: WorkT) -> ResultT:
        """The answer."""

    def submit(self, work: WorkT) -> None:
        if self.loses_at_submit:
            raise WorkerLost("the fake worker is gone")
        self.waiting.append(work)

    def answer(self) -> None:
        """The oldest piece of work is done. Thread-safe."""
        self._ready.append(self.compute(self.waiting.popleft()))
        os.eventfd_write(self._fd, 1)

    def poll(self) -> list[ResultT]:
        if self.loses_at_poll:
            raise WorkerLost("the fake worker is gone")
        if self._fd < 0:
            return [self.compute(self.waiting.popleft())] if self.waiting else []
        results = list(self._ready)
        self._ready.clear()
        if results:
            os.eventfd_read(self._fd)
        return results

    def finish_loading(self) -> None:
        """The workers are ready."""
        self.is_loading = False
        os.eventfd_write(self._fd, 1)

    def poll_loading(self) -> bool:
        if self.loses_at_poll:
            raise WorkerLost("the fake worker is gone")
        if not self.is_loading:
            os.eventfd_read(self._fd)
        return not self.is_loading

    def lose(self) -> None:
        """The link breaks: the descriptor becomes readable and `poll` raises."""
        self.loses_at_poll = True
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def filenos(self) -> tuple[int, ...]:
        return (self._fd,) if self._fd >= 0 else ()

    def worker_pids(self) -> tuple[int, ...]:
        return ()

    def fence(self) -> None:
        self.num_fenced += 1

    def kill(self) -> bool:
        return True

    def close(self) -> None:
        self.num_closed += 1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
