"""Slots for the states of recurrent layers: one for each running sequence, the others for snapshots.

A snapshot is the state after a whole number of KV blocks. Like the blocks it is found by the digest of the last of them
(prefix_index.py). It depends only on what the digest covers, so it stays valid when a block is evicted and recomputed.
"""

from __future__ import annotations

from collections import OrderedDict


class StateSlots:
    """The state slots of one replica. Every stage uses the same numbers for its own memory."""

    __slots__ = ("_free", "_free_for_snapshots", "_slot_of", "num_running")

    def __init__(self, *, num_running: int, num_snapshots: int) -> None:
        """The first `num_running` slots are for sequences, the others for snapshots."""
        self.num_running = num_running
        self._free = list(range(num_running - 1, -1, -1))
        self._free_for_snapshots = list(range(num_running + num_snapshots - 1, num_running - 1, -1))
        self._slot_of: OrderedDict[bytes, int] = OrderedDict()
        """Snapshots by their digests, least recently used first."""

    @property
    def num_free(self) -> int:
        """Free slots for sequences."""
        return len(self._free)

    @property
    def num_free_for_snapshots(self) -> int:
        """Slots that neither hold a snapshot nor are reserved for one."""
        return len(self._free_for_snapshots)

    @property
    def snapshots(self) -> dict[bytes, int]:
        """The slot of each snapshot, by its digest."""
        return dict(self._slot_of)

    def take(self) -> int:
        """Take a slot for a sequence. One must be free."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Free a sequence's slot."""
        assert slot < self.num_running, f"slot {slot} belongs to snapshots"
        assert slot not in self._free, f"slot {slot} was given back before"
        self._free.append(slot)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._slot_of

    def use(self, digest: bytes) -> int:
        """Return the slot of an existing snapshot and mark it as the most recently used."""
        self._slot_of.move_to_end(digest)
        return self._slot_of[digest]

    def reserve(self, *, may_evict: bool) -> int | None:
        """Reserve a slot for a snapshot to be written; None if there is none.

        Args:
            may_evict: whether the least recently used snapshot may be evicted for it.
        """
        if self._free_for_snapshots:
            return self._free_for_snapshots.pop()
        if may_evict and self._slot_of:
            return self._slot_of.popitem(last=False)[1]
        return None

    def keep(self, digest: bytes, slot: int) -> bool:
        """Keep a snapshot in its reserved slot. If there is one for this digest, free the slot and return False."""
        if digest in self._slot_of:
            self._free_for_snapshots.append(slot)
            return False
        self._slot_of[digest] = slot
        return True

    def drop(self, slot: int) -> None:
        """Free a reserved slot that will not be used."""
        self._free_for_snapshots.append(slot)

    def discard(self, digest: bytes) -> None:
        """Remove a snapshot. Ignored if it does not exist any more."""
        slot = self._slot_of.pop(digest, None)
        if slot is not None:
            self._free_for_snapshots.append(slot)
