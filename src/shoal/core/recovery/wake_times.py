"""When the first of many replicas is to be looked at again, without looking at all of them at every tick."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class WakeTimes:
    """The earliest of some times that change one by one.

    Every time that was ever told stands in a heap; one that is no longer right is dropped when it comes to the top.
    """

    __slots__ = ("_changed", "_heap", "_times")

    def __init__(self) -> None:
        self._changed: set[int] = set()
        self._times: dict[int, float | None] = {}
        self._heap: list[tuple[float, int]] = []

    def note_change(self, index: int) -> None:
        """The time of one may be another now."""
        self._changed.add(index)

    def earliest_s(self, time_of: Callable[[int], float | None]) -> float | None:
        """The first of all times; None: there is none. `time_of`: asked about those that have changed."""
        for index in self._changed:
            time_s = time_of(index)
            if time_s is not None and time_s != self._times.get(index):
                heapq.heappush(self._heap, (time_s, index))
            self._times[index] = time_s
        self._changed.clear()
        while self._heap and self._times[self._heap[0][1]] != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
