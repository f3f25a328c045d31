"""When a replica that does without some of its workers is to be given them back."""

from __future__ import annotations

_FIRST_S = 10.0
"""From the time that a replica is found to lack workers: its machines may not have been missed yet. A judgment."""
_LONGEST_S = 300.0
"""Between two attempts where each has failed: it costs loading the replica's layers beside those that serve."""


class Restoring:
    """Patience with one replica after the other; `now_s` is on one monotonic clock.

    An attempt is due when machines of the replica have come back, and otherwise after a time that doubles with each
    failure: whatever made its workers fail there may be over without anyone having noticed that it was.
    """

    def __init__(self) -> None:
        self._due_s: dict[int, float] = {}
        """of replicas that lack workers"""
        self._num_failures: dict[int, int] = {}

    def note_whole(self, replica: int) -> None:
        """The replica lacks nothing."""
        self._due_s.pop(replica, None)
        self._num_failures.pop(replica, None)

    def note_back(self, replica: int, now_s: float) -> None:
        """A machine of the replica has come back."""
        self._due_s[replica] = now_s
        self._num_failures[replica] = 0

    def is_due(self, replica: int, now_s: float) -> bool:
        """Whether to try now to give back its workers to a replica that lacks some."""
        return self._due_s.setdefault(replica, now_s + _FIRST_S) <= now_s

    def note_try(self, replica: int, now_s: float) -> None:
        """An attempt begins. Until it has succeeded it counts as failed."""
        failures = self._num_failures[replica] = self._num_failures.get(replica, 0) + 1
        self._due_s[replica] = now_s + min(_LONGEST_S, _FIRST_S * 2.0**failures)
