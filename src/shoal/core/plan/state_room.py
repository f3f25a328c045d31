"""How many slots for recurrent state, or for what an encoder gave, a replica is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.core.plan.language import Block

_FEWEST_SNAPSHOTS = 4
"""A conversation alone has its prompt's end, that of the answer, and a beginning that others share."""
_FEWEST_CLIPS = 4
"""Clips that are computed side by side, even where sequences are few: of short texts several end while one goes on."""
HYPOTHESES = 5
"""Sequences of a clip: as many as the beams of a search, by default (speech/options.py)."""


def num_state_slots(blocks: Iterable[Block], max_seqs: int) -> int:
    """Slots of a replica: one a sequence, and as many for snapshots, but a few at least; 0 where no block is recurrent.
    Of clips two for each search that fits, the second one to be kept for a while.

    Source: a judgment; memory that is never used is never taken.
    """
    blocks = list(blocks)
    if any(block.keeps_clips for block in blocks):
        return 2 * max(_FEWEST_CLIPS, max_seqs // HYPOTHESES)
    return max_seqs + max(_FEWEST_SNAPSHOTS, max_seqs) if any(block.state_bytes for block in blocks) else 0


def state_notes(shard_blocks: Sequence[Sequence[Block]], num_states: int) -> tuple[str, ...]:
    """What a user should know of the states of one replica, given the blocks of every rank."""
    if not num_states:
        return ()
    state_bytes = sum(block.state_bytes for blocks in shard_blocks for block in blocks)
    if any(block.keeps_clips for blocks in shard_blocks for block in blocks):
        return (f"encoder: room for {num_states} encoded clips of {state_bytes / 1e6:.2f} MB a replica",)
    return (
        f"recurrent layers: {num_states} states of {state_bytes / 1e6:.2f} MB a replica, for sequences and for "
        "beginnings of prompts that come again",
    )
