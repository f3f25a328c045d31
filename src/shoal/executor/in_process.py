"""A replica of one worker in this process: `poll` computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


class InProcessExecutor(Generic[WorkT, ResultT]):
    """Computes work in this process. Implements `router.executor.Executor`."""

    num_stages = 1

    def __init__(self, compute: Callable[[WorkT], ResultT]) -> None:
        """`compute`: computes one piece of work."""
        self._compute = compute
        self._waiting: deque[WorkT] = deque()

    def submit(self, work: WorkT) -> None:
        """Queue a piece of work; it is computed by the next `poll`."""
        self._waiting.append(work)

    def poll(self) -> list[ResultT]:
        """Compute the oldest piece of work, if there is one."""
        return [self._compute(self._waiting.popleft())] if self._waiting else []

    def filenos(self) -> tuple[int, ...]:
        """Return no descriptors, since there are no processes to wait for."""
        return ()

    def worker_pids(self) -> tuple[int, ...]:
        """Return no process ids, since this process computes."""
        return ()

    def fence(self) -> None:
        """Drop the queued work."""
        self._waiting.clear()

    def kill(self) -> bool:
        """Return True, since there are no processes to end."""
        return True

    def close(self) -> None:
        """Drop the queued work."""
        self._waiting.clear()
