"""The memory that the ranks of a group share, and how a call on it can fail. native/comm/ has the same layout.

It begins with a page of state with RANK_BYTES for each rank, written by that rank only; then come two slots of data for
each rank. A call is one or more rounds: write your slot of this round, publish the round's number, wait until all have
published it, read the others' slots. Rounds use the two slots alternately: a rank that publishes round n + 1 has read
round n, so a slot may be written again as soon as the next round is complete, and no second barrier is needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from shoal.core.collectives import MAX_RANKS

HEADER_BYTES = 4096
RANK_BYTES = 256
CHUNK_BYTES = 128 << 10
"""Size of the chunks in which a tensor is reduced in segments: this much of it, of every rank's copy and of the sums
fits the second-level cache. Source: 16 MB over 2 ranks, each on a core with 2 MB of it: 2.4 ms with 64 KiB, 2.3 with
128 to 512, 2.7 with 1 MiB (best of 30, 2026-11-24)."""
SLOT_BYTES = CHUNK_BYTES + CHUNK_BYTES // 2
"""Room for what a rank adds to a chunk, and for the sums of its segment of the previous chunk: half a chunk with two
ranks."""
SEGMENT_FLOATS = 16
"""Segments begin at multiples of this: a cache line."""

CALL = np.dtype([("num_bytes", np.uint64), ("operation", np.uint32), ("detail", np.uint32)])
RANK = np.dtype(
    {
        "names": ["step", "generation", "calls", "event", "sleepers", "closed", "lost", "pid"],
        "formats": [np.uint64, np.uint64, (CALL, 2), np.uint32, np.uint32, np.uint32, np.uint32, np.int32],
        "offsets": [0, 8, 16, 64, 68, 128, 132, 136],
        "itemsize": RANK_BYTES,
    }
)
"""step: rounds published. calls: the latest two. event, sleepers: those that wait for this rank sleep on a futex.
closed: the rank has left, because it lost rank lost - 1 if that is not 0."""


class CallKind(IntEnum):
    """What a rank called, and in which way; it must be the same on all ranks."""

    SUM_AT_ONCE = 1
    SUM_IN_SEGMENTS = 2
    GATHER = 3
    BROADCAST = 4


class CallFailure(IntEnum):
    """Why a call did not finish; it comes with the rank that is to blame."""

    DEAD = 1
    LATE = 2
    LEFT = 3
    MISMATCH = 4
    CLOSED = 5


def group_bytes(size: int) -> int:
    """Size of the memory of a group. Raises ValueError for an impossible number of ranks."""
    if not 1 <= size <= MAX_RANKS:
        raise ValueError(f"a group has 1 to {MAX_RANKS} ranks, not {size}")
    return HEADER_BYTES + size * 2 * SLOT_BYTES


def create_group_memory(size: int) -> int:
    """Create the memory for a group of `size` ranks.

    It is an anonymous file that only the ranks hold, so nothing is left behind however they end.

    Returns: a file descriptor to pass to every rank; close it when they have it.
    """
    num_bytes = group_bytes(size)
    fd = os.memfd_create("shoal-group", os.MFD_CLOEXEC)
    os.ftruncate(fd, num_bytes)
    return fd


def segment(num_floats: int, rank: int, size: int) -> tuple[int, int]:
    """The floats [first, last) of a chunk that a rank sums."""
    width = -(-num_floats // (size * SEGMENT_FLOATS)) * SEGMENT_FLOATS
    return min(num_floats, rank * width), min(num_floats, (rank + 1) * width)


def sizes_digest(sizes: Sequence[int]) -> int:
    """32 bits that differ if two ranks do not agree on the sizes. Source: FNV-1a's constants, a size at a time."""
    digest = 0x811C9DC5
    for size in sizes:
        digest = ((digest ^ (size & 0xFFFFFFFF)) * 0x01000193) & 0xFFFFFFFF
    return digest
