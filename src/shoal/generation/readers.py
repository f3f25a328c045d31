"""Threads in which long requests are read, so that the event loop has time for everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shoal.errors import QueueFull

T = TypeVar("T")

NUM_THREADS = 2
"""A long text and a chat template at the same time; more would take the cores that compute answers."""
MAX_WAITING = 256
"""Pieces of work that may wait for one of the threads, unless more requests may: one more is refused. The texts that
are kept for them are bounded by what bodies may take together."""
_RETRY_AFTER_S = 1.0


class Readers:
    """Runs functions of bounded length, none of which holds the interpreter for long at a time."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """`max_waiting`: pieces of work that may wait for one of the threads."""
        self._max_waiting = max_waiting
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="shoal-reader")
        self._num_waiting = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Its result. Raises what it raises, and QueueFull where too many wait already."""
        if self._num_waiting >= self._max_waiting:
            raise QueueFull("too many requests are waiting to be read; try again later", _RETRY_AFTER_S)
        self._num_waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._threads, function)
        work.add_done_callback(self._end)
        return await asyncio.shield(work)

    def close(self) -> None:
        """Begin nothing more. Does not wait for what is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def wait(self) -> None:
        """Until nothing is under way any more, after `close`."""
        self._threads.shutdown(wait=True)

    def _end(self, work: asyncio.Future[T]) -> None:
        self._num_waiting -= 1
        if not work.cancelled():
            work.exception()  # nobody else may ask, where the client is gone
