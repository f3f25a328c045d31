"""The shared-memory ring without a compiler: the same memory layout, polled with growing sleeps instead of a futex.

Relies on stores becoming visible in program order, as on x86-64 (Intel SDM volume 3, section 9.2.2).
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable

from typing_extensions import Buffer

HEADER_BYTES = 4096
_COUNTER_BYTES = 8
_WRITTEN, _READ, _CLOSED = 0, 64, 256
"""Offsets within the header page, the same as in the native ring."""
_SHORTEST_SLEEP_S = 20e-6
_LONGEST_SLEEP_S = 1e-3


class PythonRing:
    """A ring of bytes with one writer and one reader."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        if size <= HEADER_BYTES:
            raise ValueError("not a ring: too small")
        self._memory = mmap.mmap(fd, size)
        self._capacity = size - HEADER_BYTES
        self._counters = memoryview(self._memory)[:HEADER_BYTES].cast("Q")
        """Aligned and in native order, so that each counter is read and written in one piece. With "<Q" `struct` writes
        byte by byte, and the other process saw half of a carry."""

    @property
    def closed(self) -> bool:
        """Whether either end has closed."""
        return self._memory[_CLOSED] != 0

    def close(self) -> None:
        """Close the ring for both ends. What was written can still be read."""
        self._memory[_CLOSED] = 1

    def write(self, source: Buffer, timeout_s: float) -> int:
        """Write within timeout_s. Returns the number of bytes written; fewer than all after a time-out or on a closed
        ring."""
        view, done, deadline_s = memoryview(source).cast("B"), 0, time.monotonic() + timeout_s
        while done < len(view) and _wait(lambda: self._space() > 0 or self.closed, deadline_s) and not self.closed:
            written = self._counter(_WRITTEN)
            at = written % self._capacity
            count = min(self._space(), len(view) - done, self._capacity - at)
            self._memory[HEADER_BYTES + at : HEADER_BYTES + at + count] = view[done : done + count]
            self._counters[_WRITTEN // _COUNTER_BYTES] = written + count
            done += count
        return done

    def read_into(self, target: Buffer, timeout_s: float) -> int:
        """Read within timeout_s. Returns the number of bytes read; fewer than all after a time-out or on a closed,
        empty ring."""
        view, done, deadline_s = memoryview(target).cast("B"), 0, time.monotonic() + timeout_s
        while done < len(view) and _wait(lambda: self._available() > 0 or self.closed, deadline_s):
            read = self._counter(_READ)
            at = read % self._capacity
            count = min(self._available(), len(view) - done, self._capacity - at)
            if count == 0:
                break
            view[done : done + count] = self._memory[HEADER_BYTES + at : HEADER_BYTES + at + count]
            self._counters[_READ // _COUNTER_BYTES] = read + count
            done += count
        return done

    def _counter(self, offset: int) -> int:
        return self._counters[offset // _COUNTER_BYTES]

    def _available(self) -> int:
        """Number of bytes to read. The other process writes one of the counters, so impossible values are refused."""
        read = self._counter(_READ)
        filled = self._counter(_WRITTEN) - read
        if not 0 <= filled <= self._capacity:
            raise RuntimeError("the counters of a ring are broken")
        return filled

    def _space(self) -> int:
        return self._capacity - self._available()


def _wait(ready: Callable[[], bool], deadline_s: float) -> bool:
    """Poll with growing sleeps. Returns False if the deadline passed first."""
    sleep_s = _SHORTEST_SLEEP_S
    while not ready():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(sleep_s)
        sleep_s = min(2 * sleep_s, _LONGEST_SLEEP_S)
    return True
