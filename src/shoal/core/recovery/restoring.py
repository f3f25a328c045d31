"""When a replica that runs without some of its workers gets them back."""

from __future__ import annotations

_FIRST_S = 10.0
"""Wait before the first attempt: the loss of its machines may not have been noticed yet. A judgment."""
_LONGEST_S = 300.0
"""The longest wait between failed attempts, each of which loads the replica's layers beside those that serve."""


class Restoring:
    """Times of the next attempts to restore replicas; `now_s` is on one monotonic clock.

    An attempt is due when a machine of the replica has returned, and otherwise after a wait that doubles with each
    failure: the cause of the failures may have disappeared unnoticed.
    """

    def __init__(self) -> None:
        self._due_s: dict[int, float] = {}
        """The next attempt for each replica that lacks workers."""
        self._num_failures: dict[int, int] = {}

    def note_whole(self, replica: int) -> None:
        """Note that the replica has all its workers."""
        self._due_s.pop(replica, None)
        self._num_failures.pop(replica, None)

    def note_back(self, replica: int, now_s: float) -> None:
        """Note that a machine of the replica has returned."""
        self._due_s[replica] = now_s
        self._num_failures[replica] = 0

    def is_due(self, replica: int, now_s: float) -> bool:
        """Whether to try now to restore a replica that lacks workers."""
        return self._due_s.setdefault(replica, now_s + _FIRST_S) <= now_s

    def note_try(self, replica: int, now_s: float) -> None:
        """Note that an attempt begins. It counts as failed until `note_whole`."""
        failures = self._num_failures[replica] = self._num_failures.get(replica, 0) + 1
        self._due_s[replica] = now_s + min(_LONGEST_S, _FIRST_S * 2.0**failures)
