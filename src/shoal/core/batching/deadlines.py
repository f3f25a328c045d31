"""When waiting requests run out of time: a heap that forgets those which no longer wait."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

Entry = tuple[float, int, str]
"""deadline in seconds, arrival, request id"""

_SLACK = 64
"""Stale entries that are not worth a sweep."""


class Deadlines:
    """The deadlines of waiting requests. `waits` tells whether a request of this arrival and id still does."""

    def __init__(self, waits: Callable[[int, str], bool]) -> None:
        self._waits = waits
        self._heap: list[Entry] = []
        self._sweep_at = _SLACK

    @property
    def num_entries(self) -> int:
        """Watched requests, those included that no longer wait and are not yet forgotten."""
        return len(self._heap)

    def add(self, deadline_s: float, arrival: int, request_id: str) -> None:
        """Watch a request. Again after it was in flight: it is watched only while it waits."""
        if len(self._heap) >= self._sweep_at:
            self._heap = list({entry for entry in self._heap if self._waits(entry[1], entry[2])})
            heapify(self._heap)
            self._sweep_at = _SLACK + 2 * len(self._heap)
        heappush(self._heap, (deadline_s, arrival, request_id))

    def first_s(self) -> float | None:
        """The earliest deadline of a request that still waits; None: nothing with a deadline waits."""
        heap = self._heap
        while heap:
            deadline_s, arrival, request_id = heap[0]
            if self._waits(arrival, request_id):
                return deadline_s
            heappop(heap)
        return None

    def pop_expired(self, now_s: float) -> str | None:
        """The id of a waiting request whose time is up, the longest overdue first; None: there is none."""
        first_s = self.first_s()
        return heappop(self._heap)[2] if first_s is not None and first_s <= now_s else None
