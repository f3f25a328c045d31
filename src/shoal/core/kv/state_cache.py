"""The state of recurrent layers beside the KV cache: which slot a sequence has, and when snapshots are taken.

A prefix can be taken over only up to a block end that has a snapshot, and memory is for few of them. They are taken
where they are likely to be met again:

* behind a prompt's last whole block, for the next turn of a conversation;
* where a prompt leaves blocks that others have computed: the end of a beginning that several prompts have in common,
  which nobody can know before the second of them has come. Source: Marconi, arXiv 2411.19379, section 4.1;
* at block ends of the output, of which only a sequence's latest is kept: for the next turn, and for a sequence that has
  lost its blocks.

Steps are run in the order in which they were formed, and a step reads all snapshots before it writes any. So a slot may
have another use as soon as the step that reads it has been formed.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple

from shoal.core.kv.state_slots import StateSlots
from shoal.core.sequences.sequence import Sequence

NOTHING = -1
"""slot that the first rows of a sequence are read from: all zeros"""


class ChunkStates(NamedTuple):
    """What a step does with the state of one sequence."""

    read: int
    """Slot of the state before the chunk, or NOTHING."""
    slot: int
    """Slot of the sequence."""
    saves: list[tuple[int, int]]
    """Rows of the chunk after which the state is copied, and the slot that it is copied to, in order."""


class StateCache:
    """The state slots of one replica, as sequences use them."""

    __slots__ = ("_block_size", "slots")

    def __init__(self, *, num_running: int, num_states: int, block_size: int) -> None:
        """`num_states`: slots in all, more than `num_running`."""
        self.slots = StateSlots(num_running=num_running, num_snapshots=num_states - num_running)
        self._block_size = block_size

    def num_reusable(self, digests: Seq[bytes]) -> int:
        """How many of these leading blocks may be taken over: up to the last one that has a snapshot."""
        return next((count for count in range(len(digests), 0, -1) if digests[count - 1] in self.slots), 0)

    def admit(self, sequence: Sequence, *, num_found: int, num_reused: int) -> None:
        """Give a sequence a slot and say where its snapshots are to be. There must be a free slot.

        Args:
            sequence: its digests reach as far as its blocks may be taken over.
            num_found: leading blocks that are cached.
            num_reused: those of them that it takes over.
        """
        sequence.state_slot = self.slots.take()
        sequence.state_source = self.slots.use(sequence.digests[num_reused - 1]) if num_reused else NOTHING
        num_reusable = sequence.first_sampled_row // self._block_size
        ends = {blocks * self._block_size for blocks in (num_found, num_reusable) if blocks > num_reused}
        sequence.snapshot_rows = sorted(ends)

    def schedule(self, sequence: Sequence, start: int, end: int) -> ChunkStates:
        """Rows `start` to `end` of a sequence go into a step. Mutates: the sequence's snapshots under way."""
        read, sequence.state_source = sequence.state_source, sequence.state_slot
        saves: list[tuple[int, int]] = []
        while sequence.snapshot_rows and sequence.snapshot_rows[0] <= end:
            self._reserve(sequence, sequence.snapshot_rows.pop(0), start, saves, may_evict=True)
        if end % self._block_size == 0 and start >= sequence.num_prompt:
            if sequence.output_snapshot:
                self.slots.discard(sequence.output_snapshot)
                sequence.output_snapshot = b""
            self._reserve(sequence, end, start, saves, may_evict=False)
        return ChunkStates(read, sequence.state_slot, saves)

    def register(self, sequence: Sequence) -> None:
        """Offer the snapshots that have been taken by now. The digests of the sequence's full blocks must be there."""
        while sequence.snapshots and sequence.snapshots[0][0] <= sequence.num_computed:
            row, slot = sequence.snapshots.pop(0)
            digest = sequence.digests[row // self._block_size - 1]
            if self.slots.keep(digest, slot) and row > sequence.num_prompt:
                sequence.output_snapshot = digest

    def release(self, sequence: Sequence) -> None:
        """Take back a sequence's slot, and those of snapshots that have not been taken."""
        self.slots.give_back(sequence.state_slot)
        for _, slot in sequence.snapshots:
            self.slots.drop(slot)
        sequence.snapshots, sequence.snapshot_rows = [], []
        sequence.output_snapshot = b""
        sequence.state_slot = sequence.state_source = NOTHING

    def _reserve(
        self, sequence: Sequence, row: int, start: int, saves: list[tuple[int, int]], *, may_evict: bool
    ) -> None:
        slot = self.slots.reserve(may_evict=may_evict)
        if slot is not None:
            saves.append((row - start, slot))
            sequence.snapshots.append((row, slot))
