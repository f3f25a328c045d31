"""The deadlines of waiting requests, in a heap from which stale entries are removed now and then."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

Entry = tuple[float, int, str]
"""(deadline in seconds, arrival, request id)."""

_SLACK = 64
"""So many stale entries are not worth a sweep."""


class Deadlines:
    """The deadlines of waiting requests. `waits(arrival, request_id)` tells whether a request still waits."""

    def __init__(self, waits: Callable[[int, str], bool]) -> None:
        self._waits = waits
        self._heap: list[Entry] = []
        self._sweep_at = _SLACK

    @property
    def num_entries(self) -> int:
        """Entries in the heap, including stale ones."""
        return len(self._heap)

    def add(self, deadline_s: float, arrival: int, request_id: str) -> None:
        """Watch a request that begins to wait. Call it again when the request waits again after being in flight."""
        if len(self._heap) >= self._sweep_at:
            self._heap = list({entry for entry in self._heap if self._waits(entry[1], entry[2])})
            heapify(self._heap)
            self._sweep_at = _SLACK + 2 * len(self._heap)
        heappush(self._heap, (deadline_s, arrival, request_id))

    def first_s(self) -> float | None:
        """The earliest deadline of a request that still waits; None if no waiting request has a deadline."""
        heap = self._heap
        while heap:
            deadline_s, arrival, request_id = heap[0]
            if self._waits(arrival, request_id):
                return deadline_s
            heappop(heap)
        return None

    def pop_expired(self, now_s: float) -> str | None:
        """Remove and return the id of the waiting request that is overdue the longest; None if none is overdue."""
        first_s = self.first_s()
        return heappop(self._heap)[2] if first_s is not None and first_s <= now_s else None
