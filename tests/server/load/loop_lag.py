"""How long a server's event loop is kept from its next turn, in processor time.

The loop is asked to tick every two milliseconds. What counts of the time between two ticks is the smaller one of

* the time by the clock, less the time in which the loop's thread wanted a processor and had none (the kernel says so
  in `schedstat`), and
* the processor time of the whole process: Python's lock is held by one thread at a time, so a library that keeps it
  while it works in another thread counts as what it is for the loop.

Neither grows because other programs keep the machine busy. Both do while a hypervisor runs another machine in the place
of this one, which is told to nobody here: what is asserted is the least lag of a few attempts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

MAX_LAG_S = 0.05
_NUM_ATTEMPTS = 5
_TICK_S = 0.002
_NS = 1e9
T = TypeVar("T")


@dataclass
class Lag:
    worst_s: float = 0.0


@dataclass(frozen=True)
class _Reading:
    clock_s: float
    starved_s: float
    process_s: float

    def until(self, later: _Reading) -> float:
        waited_s = later.clock_s - self.clock_s - (later.starved_s - self.starved_s)
        return min(waited_s, later.process_s - self.process_s)


@contextmanager
def frozen_heap() -> Generator[None, None, None]:
    """Python's collector leaves alone what the tests have loaded: a collection over that says nothing about the server,
    and takes half a second of processor time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class LagWatch:
    """Watches one loop from another thread, inside `frozen_heap`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @contextmanager
    def measure(self) -> Generator[Lag, None, None]:
        """The worst lag inside the block, known at its end."""
        watch = _Watch(self._loop)
        gc.collect()  # so that none comes soon
        self._loop.call_soon_threadsafe(watch.begin)
        assert watch.begun.wait(60), "the event loop stands still"
        yield watch.lag
        self._loop.call_soon_threadsafe(watch.end)
        assert watch.ended.wait(60), "the event loop stands still"

    def least_s(self, act: Callable[[], T]) -> tuple[float, T]:
        """The worst lag while `act` runs, and what it returned. One that is too long is measured again, a few times."""
        for _ in range(_NUM_ATTEMPTS):
            with self.measure() as lag:
                result = act()
            if lag.worst_s < MAX_LAG_S:
                break
        return lag.worst_s, result


class _Watch:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lag = Lag()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self._loop = loop

    def begin(self) -> None:
        self._schedstat = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        self._last = self._read()
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        self.begun.set()

    def end(self) -> None:
        self._timer.cancel()
        self._note()
        os.close(self._schedstat)
        self.ended.set()

    def _tick(self) -> None:
        self._note()
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _note(self) -> None:
        now = self._read()
        self.lag.worst_s = max(self.lag.worst_s, self._last.until(now))
        self._last = now

    def _read(self) -> _Reading:
        starved_ns = int(os.pread(self._schedstat, 100, 0).split()[1])
        return _Reading(time.monotonic(), starved_ns / _NS, time.process_time())
