"""A replica of one worker in this very process: `poll` computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


class InProcessExecutor(Generic[WorkT, ResultT]):
    """Computes the whole of each piece of work inline. Implements `router.executor.Executor`."""

    num_stages = 1

    def __init__(self, compute: Callable[[WorkT], ResultT]) -> None:
        """`compute`: one piece of work."""
        self._compute = compute
        self._waiting: deque[WorkT] = deque()

    def submit(self, work: WorkT) -> None:
        """Queue a piece of work; it is computed by the next `poll`."""
        self._waiting.append(work)

    def poll(self) -> list[ResultT]:
        """Compute the oldest piece of work, if there is one."""
        return [self._compute(self._waiting.popleft())] if self._waiting else []

    def filenos(self) -> tuple[int, ...]:
        """None: there is nobody to wait for."""
        return ()

    def worker_pids(self) -> tuple[int, ...]:
        """None: this process computes."""
        return ()

    def fence(self) -> None:
        """Nobody is cut off from anybody."""
        self._waiting.clear()

    def kill(self) -> bool:
        """There is nobody to end."""
        return True

    def close(self) -> None:
        """Nothing outlives the process's own memory."""
        self._waiting.clear()
