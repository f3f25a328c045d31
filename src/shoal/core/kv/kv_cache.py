"""Allocation of KV blocks and slots to sequences."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from shoal.core.kv.kv_blocks import KvBlocks
from shoal.core.kv.memory_slots import MemorySlots
from shoal.core.kv.prefix_index import extend_digests
from shoal.core.kv.state_cache import StateCache
from shoal.core.sequences.request import Clip
from shoal.core.sequences.sequence import Sequence


class KvCache:
    """The KV memory of one replica, as sequences use it."""

    __slots__ = ("block_size", "blocks", "memories", "states")

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        states: StateCache | None = None,
        memories: MemorySlots | None = None,
    ) -> None:
        self.blocks = KvBlocks(num_blocks)
        self.block_size = block_size
        self.states = states
        """Slots for the states of recurrent layers; None: the model has none."""
        self.memories = memories
        """Slots for an encoder's outputs; None: the model has no encoder."""

    def cached_blocks(self, digests: Seq[bytes]) -> list[int]:
        """The cached leading blocks that a sequence with these digests could share."""
        found = self.blocks.index.lookup(digests)
        return found if self.states is None else found[: self.states.num_reusable(digests[: len(found)])]

    def rows_to_encode(self, clip: Clip | None) -> int:
        """Rows of a clip that the encoder must still compute."""
        if clip is None or self.memories is None or self.memories.is_encoded(clip.key):
            return 0
        return clip.num_rows

    def admit(self, sequence: Sequence, *, reserve: int) -> bool:
        """Give a sequence blocks for every known token, cached ones first. Returns False, and changes nothing, if they
        do not fit.

        Rows from the first sampled one on are always computed, because their logits are needed.

        Args:
            sequence: a sequence that holds no block yet.
            reserve: blocks that must stay free for the next tokens of running sequences.

        Mutates: the sequence's blocks and its computed rows.
        """
        blocks, block_size, states = self.blocks, self.block_size, self.states
        if blocks.num_free <= reserve or (states is not None and not states.slots.num_free):
            return False
        clip = _clip_key(sequence)
        if self.memories is not None and clip and not self.memories.has_room(clip):
            return False
        num_reusable = 0 if sequence.request.attention else sequence.first_sampled_row // block_size
        self._extend_digests(sequence, num_reusable)
        found = blocks.index.lookup(sequence.digests[:num_reusable])
        cached = found if states is None else found[: states.num_reusable(sequence.digests[: len(found)])]
        num_new = -(-len(sequence.token_ids) // block_size) - len(cached)
        if num_new + reserve > blocks.num_free - blocks.num_unreferenced(cached):
            return False
        for block in cached:
            blocks.share(block)
        sequence.block_table = cached
        sequence.num_registered = len(cached)
        sequence.num_scheduled = sequence.num_computed = len(cached) * block_size
        sequence.block_table += self.blocks.allocate_all(num_new)
        if states is not None:
            states.admit(sequence, num_found=len(found), num_reused=sequence.num_registered)
        if self.memories is not None and clip:
            sequence.memory_slot = self.memories.take(clip)
        return True

    def admit_all(self, sequences: Seq[Sequence], *, reserve: int) -> bool:
        """`admit` all of these sequences or none of them."""
        for place, sequence in enumerate(sequences):
            if not self.admit(sequence, reserve=reserve):
                for admitted in sequences[:place]:
                    self.release(admitted)
                    admitted.forget_rows()
                return False
        return True

    def grow(self, sequence: Sequence) -> bool:
        """Ensure that the next row has a block of its own; a shared one is copied. Returns False if none is free.

        Mutates: the sequence's blocks, and what the next step copies.
        """
        place = sequence.num_scheduled // self.block_size
        if place == len(sequence.block_table):
            return self._append_block(sequence)
        shared = sequence.block_table[place]
        if self.blocks.references(shared) == 1:
            return True
        own = self.blocks.allocate()
        if own is None:
            return False
        self.blocks.release(shared)
        sequence.block_table[place] = own
        sequence.block_copy = shared, own
        return True

    def follow(self, sequences: Seq[Sequence], parents: Seq[Sequence]) -> None:
        """Let each sequence continue from the rows of its parent. They share blocks until one of them writes (`grow`).

        Args:
            sequences: the sequences that continue; their former blocks are released.
            parents: the parent of each, with all rows computed.

        Mutates: blocks, slots and computed rows of the sequences.
        """
        tables = [parent.block_table.copy() for parent in parents]
        rows = [(parent.digests.copy(), parent.num_registered, parent.num_computed) for parent in parents]
        for block in (block for table in tables for block in table):
            self.blocks.share(block)
        for sequence, table, (digests, num_registered, num_computed) in zip(sequences, tables, rows, strict=True):
            clip = _clip_key(sequence)
            if self.memories is not None and clip and sequence.memory_slot < 0:
                sequence.memory_slot = self.memories.take(clip)
            for block in reversed(sequence.block_table):
                self.blocks.release(block)
            sequence.block_table, sequence.digests, sequence.num_registered = table, digests, num_registered
            sequence.num_scheduled = sequence.num_computed = num_computed

    def register(self, sequence: Sequence) -> None:
        """Enter the blocks that are full and computed by now into the prefix index."""
        first, num_full = sequence.num_registered, sequence.num_computed // self.block_size
        if num_full == first:
            return
        self._extend_digests(sequence, num_full)
        digests, table = sequence.digests, sequence.block_table
        register = self.blocks.index.register
        if not first:
            register(digests[0], table[0], is_first=True)
        for i in range(first or 1, num_full):
            register(digests[i], table[i])
        sequence.num_registered = num_full
        if self.states is not None:
            self.states.register(sequence)

    def release(self, sequence: Sequence) -> None:
        """Release every block. The last ones are evicted first, so that a prefix outlives its continuations."""
        self.blocks.release_all(reversed(sequence.block_table))
        sequence.block_table = []
        if self.states is not None:
            self.states.release(sequence)
        if self.memories is not None and sequence.memory_slot >= 0:
            self.memories.give_back(_clip_key(sequence))
            sequence.memory_slot = -1

    def _extend_digests(self, sequence: Sequence, num_blocks: int) -> None:
        digests, request = sequence.digests, sequence.request
        if len(digests) < num_blocks:
            root = b"" if digests else request.root
            extend_digests(digests, sequence.token_ids, self.block_size, num_blocks, root, request.pictures)

    def _append_block(self, sequence: Sequence) -> bool:
        block = self.blocks.allocate()
        if block is None:
            return False
        sequence.block_table.append(block)
        return True


def _clip_key(sequence: Sequence) -> bytes:
    """The key of the sequence's clip; empty if it has none."""
    clip = sequence.request.clip
    return b"" if clip is None else clip.key
