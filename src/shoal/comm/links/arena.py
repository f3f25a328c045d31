"""Memory that a sender shares with one receiver: tensors are written once and read in place.

The memory is an anonymous sparse file that only the two processes hold. Its size is address space, not memory: pages
are allocated when they are first written, and freed when a large arena has become empty.
"""

from __future__ import annotations

import mmap
import os
from bisect import insort

from shoal.errors import CapacityError, RemoteProtocolError

ARENA_BYTES = 1 << 36
"""Address space of one arena, 64 GiB: more than the tensors in flight on one link ever need."""
ALIGNMENT_BYTES = 64
"""A cache line, and what AVX-512 loads at once."""
_KEPT_BYTES = 64 << 20
"""Pages below this stay with an empty arena, so that the next batch need not allocate them again."""


def create_arena_memory(size_bytes: int = ARENA_BYTES) -> int:
    """Create the memory. Returns a file descriptor to pass to both processes; close it when they have it."""
    fd = os.memfd_create("shoal-arena", os.MFD_CLOEXEC)
    os.ftruncate(fd, size_bytes)
    return fd


class FreeList:
    """First-fit allocation of an address range; lowest addresses first, so that warm pages are reused."""

    def __init__(self, size_bytes: int) -> None:
        self._free = [(0, size_bytes)]
        """(offset, size), ascending, never adjacent"""
        self._taken: dict[int, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is allocated."""
        return not self._taken

    def allocate(self, num_bytes: int) -> int:
        """Allocate a range of at least one aligned unit. Returns its offset. Raises CapacityError."""
        needed = max(1, -(-num_bytes // ALIGNMENT_BYTES)) * ALIGNMENT_BYTES
        for index, (offset, size) in enumerate(self._free):
            if size >= needed:
                self._free[index : index + 1] = [(offset + needed, size - needed)] if size > needed else []
                self._taken[offset] = needed
                return offset
        raise CapacityError(f"no room for {num_bytes} bytes of tensors in flight")

    def free(self, offset: int) -> None:
        """Free a range. Raises RemoteProtocolError if it is not allocated, because the peer named it."""
        size = self._taken.pop(offset, None)
        if size is None:
            raise RemoteProtocolError(f"memory at {offset} was given back, but it is not in use")
        insort(self._free, (offset, size))
        self._free = _merged(self._free)


class SendingArena:
    """The sender's side: allocates, writes, and frees what the receiver has finished with."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, 0, mmap.MAP_SHARED)
        self._view = memoryview(self._memory)
        self._ranges = FreeList(len(self._memory))
        self._high_bytes = 0

    def allocate(self, num_bytes: int) -> tuple[int, memoryview]:
        """Allocate memory. Returns its offset and a writable view. Raises CapacityError."""
        offset = self._ranges.allocate(num_bytes)
        self._high_bytes = max(self._high_bytes, offset + num_bytes)
        return offset, self._view[offset : offset + num_bytes]

    def free(self, offset: int) -> None:
        """Free a range that the receiver has released. Raises RemoteProtocolError."""
        self._ranges.free(offset)
        if self._ranges.is_empty and self._high_bytes > _KEPT_BYTES:
            beyond = -(-self._high_bytes // mmap.PAGESIZE) * mmap.PAGESIZE - _KEPT_BYTES
            self._memory.madvise(mmap.MADV_REMOVE, _KEPT_BYTES, beyond)
            self._high_bytes = 0


class ReceivingArena:
    """The receiver's side: reads in place."""

    def __init__(self, fd: int) -> None:
        self._view = memoryview(mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ))

    def view(self, offset: int, num_bytes: int) -> memoryview:
        """What the sender wrote. Raises RemoteProtocolError if the range is outside the arena."""
        if min(offset, num_bytes) < 0 or offset + num_bytes > len(self._view):
            raise RemoteProtocolError(f"tensor of {num_bytes} bytes at {offset} lies outside the shared memory")
        return self._view[offset : offset + num_bytes]


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for offset, size in ranges:
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + size)
        else:
            merged.append((offset, size))
    return merged
