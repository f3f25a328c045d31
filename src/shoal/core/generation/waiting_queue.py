"""The queue of waiting sequences: first come, first served, with a bounded number of exceptions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from shoal.core.kv.kv_cache import KvCache
from shoal.core.sequences.sequence import Sequence

MAX_OVERTAKES = 8
"""The number of younger requests that may overtake the oldest one while it does not fit into the free KV blocks. A
bound for fairness, not a tuned value: 0 would leave memory idle behind a long prompt, and no bound would starve it."""


class WaitingQueue:
    """Sequences without KV blocks, in order of arrival."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._queue)

    def append(self, sequence: Sequence) -> None:
        """Add a new arrival, the youngest of all."""
        self._queue.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Put a sequence that had been admitted back into its place by arrival."""
        place = 0
        for waiting in self._queue:
            if waiting.arrival > sequence.arrival:
                break
            place += 1
        self._queue.insert(place, sequence)

    def replace(self, sequences: Iterable[Sequence]) -> None:
        """Replace the whole queue by these sequences, ordered by arrival."""
        self._queue = deque(sorted(sequences, key=lambda sequence: sequence.arrival))

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence."""
        self._queue.remove(sequence)

    def admit_next(self, kv: KvCache, *, num_places: int, reserve: int) -> Sequence | None:
        """Remove the next sequence for which there are places and blocks, and give it and its branches blocks.

        The oldest comes first. If it does not fit, one of the next few that does may overtake it, MAX_OVERTAKES times
        in its life; then all others wait until it fits, at the latest when nothing else runs. No sequence overtakes a
        preempted one, which lost its blocks because memory is short.
        """
        if not self._queue:
            return None
        oldest = self._queue[0]
        if _admit(kv, oldest, num_places, reserve):
            return self._queue.popleft()
        num_passes = 0 if oldest.is_preempted else MAX_OVERTAKES - oldest.num_overtaken
        for place in range(1, min(len(self._queue), num_passes + 1)):
            if _admit(kv, self._queue[place], num_places, reserve):
                oldest.num_overtaken += 1
                return self._take(place)
        return None

    def _take(self, place: int) -> Sequence:
        sequence = self._queue[place]
        del self._queue[place]
        return sequence


def _admit(kv: KvCache, sequence: Sequence, num_places: int, reserve: int) -> bool:
    return sequence.request.num_places <= num_places and kv.admit_all(sequence.members, reserve=reserve)
