"""Threads in which long requests are read, so that the event loop stays responsive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shoal.errors import QueueFull

T = TypeVar("T")

NUM_THREADS = 2
"""Enough for a long text and a chat template at the same time; more would take cores from computing answers."""
MAX_WAITING = 256
"""The most pieces of work that may wait for a thread, unless more requests may wait; further ones are refused. The
memory of their texts is limited by the bound on all bodies together."""
_RETRY_AFTER_S = 1.0


class Readers:
    """Runs functions of bounded length, none of which holds the interpreter for long at a time."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """`max_waiting`: the most pieces of work that may wait for a thread."""
        self._max_waiting = max_waiting
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="shoal-reader")
        self._num_waiting = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in a thread and return its result. Raises its errors, and QueueFull if too many wait."""
        if self._num_waiting >= self._max_waiting:
            raise QueueFull("too many requests are waiting to be read; try again later", _RETRY_AFTER_S)
        self._num_waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._threads, function)
        work.add_done_callback(self._end)
        return await asyncio.shield(work)

    def close(self) -> None:
        """Start no further work, without waiting for work in progress."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def wait(self) -> None:
        """Wait, after `close`, until no work is in progress."""
        self._threads.shutdown(wait=True)

    def _end(self, work: asyncio.Future[T]) -> None:
        self._num_waiting -= 1
        if not work.cancelled():
            work.exception()  # nobody else retrieves it if the client is gone
