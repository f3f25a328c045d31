"""The story of each replica: recent events and their effects, in a few words each.

Source: dask's `story`, the transitions of a scheduler or worker that mention a key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NUM_ENTRIES = 1000
"""Entries kept for each replica: half a minute of decoding, and much longer without work."""
NO_REPLICA = -1
"""Stands for a replica while a request has none."""
_MAX_DIGITS = 6
"""The most digits of a replica's number; a longer one is the id of a request."""
_MAX_EFFECTS = 8
"""The most effects of an entry that are listed one by one."""


@dataclass(frozen=True, slots=True)
class StoryEntry:
    """One event and its effects on one replica."""

    time_s: float
    """The time, on the engine's clock."""
    replica: int
    """The replica's index; NO_REPLICA: none has the request."""
    event: str
    effects: Sequence[str]
    request_ids: Sequence[str]
    """Ids of the requests that the entry is about."""

    @property
    def text(self) -> str:
        """The entry as one line, without the time."""
        return f"{self.event}: {'; '.join(self.effects)}" if self.effects else self.event


class Story:
    """A ring buffer of entries for each replica. Only the thread of its engine may use it."""

    def __init__(self, num_entries: int = NUM_ENTRIES) -> None:
        """`num_entries`: entries kept for each replica, >= 1."""
        self._num_entries = num_entries
        self._entries: dict[int, deque[StoryEntry]] = {}

    def note(
        self, now_s: float, replica: int, event: str, effects: Sequence[str] = (), request_ids: Iterable[str] = ()
    ) -> None:
        """Add an entry; the oldest one is dropped if there are too many."""
        if len(effects) > _MAX_EFFECTS:
            effects = (*effects[:_MAX_EFFECTS], f"{len(effects) - _MAX_EFFECTS} more")
        entries = self._entries.get(replica)
        if entries is None:
            entries = self._entries[replica] = deque(maxlen=self._num_entries)
        entries.append(StoryEntry(now_s, replica, event, tuple(effects), tuple(request_ids)))

    def find(self, of: str) -> list[StoryEntry]:
        """Entries of a replica or request, oldest first; empty if there are none.

        Args:
            of: the number of a replica, the id of a request, or the id of a call, with which its requests' ids begin.
        """
        if of.isdecimal() and len(of) <= _MAX_DIGITS:
            return self.of_replica(int(of))
        start = f"{of}-"
        found = [
            entry
            for entries in self._entries.values()
            for entry in entries
            if any(one == of or one.startswith(start) for one in entry.request_ids)
        ]
        return sorted(found, key=lambda entry: entry.time_s)

    def of_replica(self, replica: int) -> list[StoryEntry]:
        """Entries of a replica, oldest first; empty if there are none."""
        return [*self._entries.get(replica, ())]
