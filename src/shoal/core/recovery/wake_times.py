"""The earliest of many replicas' next times, without a scan of all replicas at every tick."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class WakeTimes:
    """The minimum of times that change one by one.

    All times go into a heap; an outdated one is dropped when it reaches the top.
    """

    __slots__ = ("_changed", "_heap", "_times")

    def __init__(self) -> None:
        self._changed: set[int] = set()
        self._times: dict[int, float | None] = {}
        self._heap: list[tuple[float, int]] = []

    def note_change(self, index: int) -> None:
        """Note that the time of one index may have changed."""
        self._changed.add(index)

    def earliest_s(self, time_of: Callable[[int], float | None]) -> float | None:
        """The earliest time; None: there is none. `time_of` is called for indices whose time may have changed."""
        if self._changed:
            self._look_again(time_of)
        return self._heap[0][0] if self._heap else None

    def _look_again(self, time_of: Callable[[int], float | None]) -> None:
        heap, times = self._heap, self._times
        for index in self._changed:
            time_s = time_of(index)
            if time_s is not None and time_s != times.get(index):
                heapq.heappush(heap, (time_s, index))
            times[index] = time_s
        self._changed.clear()
        while heap and times[heap[0][1]] != heap[0][0]:
            heapq.heappop(heap)
