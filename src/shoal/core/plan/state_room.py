"""The number of slots that a replica gets for recurrent states or for an encoder's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.core.plan.language import Block

_FEWEST_SNAPSHOTS = 4
"""The fewest slots for snapshots: a conversation needs the end of its prompt, of its answer and of a shared prefix."""
_FEWEST_CLIPS = 4
"""The fewest clips computed side by side, even with few sequences: short ones end while a long one continues."""
HYPOTHESES = 5
"""Sequences of a clip: the default number of beams (speech/options.py)."""


def num_state_slots(blocks: Iterable[Block], max_seqs: int) -> int:
    """State slots of a replica: one per sequence and as many for snapshots, but at least a few; 0 without recurrence.

    For clips: two for each beam search that fits, the second one to be kept for a while.

    Source: a judgment; memory that is never used is never allocated.
    """
    blocks = list(blocks)
    if any(block.keeps_clips for block in blocks):
        return 2 * max(_FEWEST_CLIPS, max_seqs // HYPOTHESES)
    return max_seqs + max(_FEWEST_SNAPSHOTS, max_seqs) if any(block.state_bytes for block in blocks) else 0


def state_notes(shard_blocks: Sequence[Sequence[Block]], num_states: int) -> tuple[str, ...]:
    """Notes for the user about the states of one replica, given the blocks of every rank."""
    if not num_states:
        return ()
    state_bytes = sum(block.state_bytes for blocks in shard_blocks for block in blocks)
    if any(block.keeps_clips for blocks in shard_blocks for block in blocks):
        return (f"encoder: room for {num_states} encoded clips of {state_bytes / 1e6:.2f} MB a replica",)
    return (
        f"recurrent layers: {num_states} states of {state_bytes / 1e6:.2f} MB a replica, for sequences and for "
        "beginnings of prompts that come again",
    )
