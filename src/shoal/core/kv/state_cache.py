"""The states of recurrent layers beside the KV cache: which slot a sequence has, and when snapshots are taken.

A prefix can be reused only up to a block end that has a snapshot, and memory is enough for few of them. They are taken
where they are likely to be used again:

* after a prompt's last whole block, for the next turn of a conversation;
* where a prompt diverges from cached blocks: the end of a prefix that several prompts share, which becomes known only
  with the second of them. Source: Marconi, arXiv 2411.19379, section 4.1;
* at block ends of the output, of which only a sequence's latest is kept: for the next turn, and for a sequence that has
  lost its blocks.

Steps run in the order in which they were formed, and a step reads all snapshots before it writes any, so a slot may be
reused as soon as the step that reads it has been formed.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple

from shoal.core.kv.state_slots import StateSlots
from shoal.core.sequences.sequence import Sequence

NOTHING = -1
"""Stands for the slot from which a sequence's first rows read: the state is all zeros."""


class ChunkStates(NamedTuple):
    """What a step does with the state of one sequence."""

    read: int
    """Slot of the state before the chunk, or NOTHING."""
    slot: int
    """The sequence's own slot."""
    saves: list[tuple[int, int]]
    """(row of the chunk after which the state is copied, slot that it is copied to), in order."""


class StateCache:
    """The state slots of one replica, as sequences use them."""

    __slots__ = ("_block_size", "slots")

    def __init__(self, *, num_running: int, num_states: int, block_size: int) -> None:
        """`num_states`: slots in all, more than `num_running`."""
        self.slots = StateSlots(num_running=num_running, num_snapshots=num_states - num_running)
        self._block_size = block_size

    def num_reusable(self, digests: Seq[bytes]) -> int:
        """How many of these leading blocks may be reused: up to the last one that has a snapshot."""
        return next((count for count in range(len(digests), 0, -1) if digests[count - 1] in self.slots), 0)

    def admit(self, sequence: Sequence, *, num_found: int, num_reused: int) -> None:
        """Give a sequence a slot and decide where its snapshots are taken. There must be a free slot.

        Args:
            sequence: a sequence with the digests of all blocks that may be reused.
            num_found: leading blocks that are cached.
            num_reused: those of them that the sequence reuses.
        """
        sequence.state_slot = self.slots.take()
        sequence.state_source = self.slots.use(sequence.digests[num_reused - 1]) if num_reused else NOTHING
        num_reusable = sequence.first_sampled_row // self._block_size
        ends = {blocks * self._block_size for blocks in (num_found, num_reusable) if blocks > num_reused}
        sequence.snapshot_rows = sorted(ends)

    def schedule(self, sequence: Sequence, start: int, end: int) -> ChunkStates:
        """Decide what a step with the rows start:end does with the state. Mutates: the sequence's pending snapshots."""
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
        """Make the snapshots taken so far available to others. The digests of the sequence's full blocks must exist."""
        while sequence.snapshots and sequence.snapshots[0][0] <= sequence.num_computed:
            row, slot = sequence.snapshots.pop(0)
            digest = sequence.digests[row // self._block_size - 1]
            if self.slots.keep(digest, slot) and row > sequence.num_prompt:
                sequence.output_snapshot = digest

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's slot and those of snapshots that have not been taken."""
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
