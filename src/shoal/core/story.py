"""What has happened to each replica lately, and what was done about it, in a few words each.

Source of the idea: dask's `story`, the transitions of a scheduler or worker that mention a key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NUM_ENTRIES = 1000
"""Of one replica that are kept: half a minute of decoding, with everything that was rare since much longer ago."""
NO_REPLICA = -1
"""In the place of a replica: of a request that none has yet."""
_MAX_DIGITS = 6
"""Of a replica's number; what is longer is the id of a request."""
_MAX_EFFECTS = 8
"""Of one entry that are told one by one."""


@dataclass(frozen=True, slots=True)
class StoryEntry:
    """One event and its effects on one replica."""

    time_s: float
    """on the engine's clock"""
    replica: int
    """NO_REPLICA: none has the request"""
    event: str
    effects: Sequence[str]
    request_ids: Sequence[str]
    """of the requests that it is about"""

    @property
    def text(self) -> str:
        """One line, without the time."""
        return f"{self.event}: {'; '.join(self.effects)}" if self.effects else self.event


class Story:
    """A ring of entries for each replica. Belongs to the thread of its engine."""

    def __init__(self, num_entries: int = NUM_ENTRIES) -> None:
        """`num_entries`: of one replica that are kept, >= 1."""
        self._num_entries = num_entries
        self._entries: dict[int, deque[StoryEntry]] = {}

    def note(
        self, now_s: float, replica: int, event: str, effects: Sequence[str] = (), request_ids: Iterable[str] = ()
    ) -> None:
        """Remember an entry; the oldest one goes."""
        if len(effects) > _MAX_EFFECTS:
            effects = (*effects[:_MAX_EFFECTS], f"{len(effects) - _MAX_EFFECTS} more")
        entries = self._entries.get(replica)
        if entries is None:
            entries = self._entries[replica] = deque(maxlen=self._num_entries)
        entries.append(StoryEntry(now_s, replica, event, tuple(effects), tuple(request_ids)))

    def find(self, of: str) -> list[StoryEntry]:
        """The oldest first; empty where nothing is known.

        Args:
            of: the number of a replica; or the id of a request, or of a call, with which the ids of its parts begin.
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
        """The oldest first; empty for a replica of which nothing is known."""
        return [*self._entries.get(replica, ())]
