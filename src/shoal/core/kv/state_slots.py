"""Who holds which slot for the state of recurrent layers: a slot a running sequence, the others for snapshots.

A snapshot is the state after a whole number of KV blocks. It is found by the digest of the last of them, as the blocks
are (prefix_index.py), and depends on what the digest covers alone, so that it stays true when a block is evicted and
computed again.
"""

from __future__ import annotations

from collections import OrderedDict


class StateSlots:
    """The state slots of one replica. Every stage uses the same numbers for its own memory."""

    __slots__ = ("_free", "_free_for_snapshots", "_slot_of", "num_running")

    def __init__(self, *, num_running: int, num_snapshots: int) -> None:
        """The first `num_running` slots are for sequences, those behind them for snapshots."""
        self.num_running = num_running
        self._free = list(range(num_running - 1, -1, -1))
        self._free_for_snapshots = list(range(num_running + num_snapshots - 1, num_running - 1, -1))
        self._slot_of: OrderedDict[bytes, int] = OrderedDict()
        """Snapshots by their digests, least recently used first."""

    @property
    def num_free(self) -> int:
        """Slots that sequences can have."""
        return len(self._free)

    @property
    def num_free_for_snapshots(self) -> int:
        """Slots that hold no snapshot and wait for none."""
        return len(self._free_for_snapshots)

    @property
    def snapshots(self) -> dict[bytes, int]:
        """The slot of each snapshot, by its digest."""
        return dict(self._slot_of)

    def take(self) -> int:
        """A slot for a sequence. There must be one."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """A sequence needs its slot no more."""
        assert slot < self.num_running, f"slot {slot} belongs to snapshots"
        assert slot not in self._free, f"slot {slot} was given back before"
        self._free.append(slot)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._slot_of

    def use(self, digest: bytes) -> int:
        """The slot of a snapshot, which counts as used now. There must be one."""
        self._slot_of.move_to_end(digest)
        return self._slot_of[digest]

    def reserve(self, *, may_evict: bool) -> int | None:
        """A slot for a snapshot that is going to be written; None where none can be had.

        Args:
            may_evict: whether the least recently used snapshot may be given up for it.
        """
        if self._free_for_snapshots:
            return self._free_for_snapshots.pop()
        if may_evict and self._slot_of:
            return self._slot_of.popitem(last=False)[1]
        return None

    def keep(self, digest: bytes, slot: int) -> bool:
        """A reserved slot has been written; False where the snapshot is there already and the slot is free again."""
        if digest in self._slot_of:
            self._free_for_snapshots.append(slot)
            return False
        self._slot_of[digest] = slot
        return True

    def drop(self, slot: int) -> None:
        """A reserved slot is not going to be used."""
        self._free_for_snapshots.append(slot)

    def discard(self, digest: bytes) -> None:
        """Give a snapshot up. One that is not there any more is ignored."""
        slot = self._slot_of.pop(digest, None)
        if slot is not None:
            self._free_for_snapshots.append(slot)
