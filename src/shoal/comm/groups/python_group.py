"""Collectives in shared memory without a compiler: native/comm/collective.cpp in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Buffer

from shoal.arrays import F32, U8
from shoal.comm.groups.group_memory import CHUNK_BYTES, SLOT_BYTES, CallKind, segment, sizes_digest
from shoal.comm.groups.python_member import Failed, PythonMember

_FLOAT_BYTES = 4


class PythonCollective:
    """One rank's end. Calls return None, or why they failed; in that case the rank has left the group."""

    def __init__(self, fd: int, rank: int, size: int, generation: int, stays_awake: bool = True) -> None:
        del stays_awake  # it sleeps between any two checks
        self._member = PythonMember(fd, rank, size, generation)

    @property
    def closed(self) -> bool:
        """Whether this rank has left."""
        return self._member.closed

    def close(self) -> None:
        """Leave, so that those that wait for this rank learn of it."""
        self._member.close()

    def call_of(self, rank: int) -> tuple[int, int, int]:
        """What a rank had called at the time of this one's latest call: operation, bytes, generation."""
        return self._member.call_of(rank)

    def all_reduce(self, x: F32, in_segments: bool, timeout_s: float) -> Failed | None:
        """See `ProcessGroup.all_reduce`."""
        if not (x.dtype == np.float32 and x.flags.c_contiguous and x.flags.writeable):
            raise ValueError("all_reduce takes C-contiguous writable float32")
        flat = x.reshape(-1)
        operation = CallKind.SUM_IN_SEGMENTS if in_segments else CallKind.SUM_AT_ONCE
        if failed := self._member.begin(operation, flat.nbytes, 0, timeout_s):
            return failed
        return self._sum_in_segments(flat) if in_segments else self._sum_at_once(flat)

    def all_gather(self, part: Buffer, out: Sequence[Buffer], timeout_s: float) -> Failed | None:
        """See `ProcessGroup.all_gather`."""
        member, mine, outs = self._member, _bytes(part), [_bytes(target, writable=True) for target in out]
        sizes = [target.size for target in outs]
        if len(sizes) != member.size or sizes[member.rank] != mine.size:
            raise ValueError("all_gather takes a buffer for each rank, of its part's size")
        if failed := member.begin(CallKind.GATHER, sum(sizes), sizes_digest(sizes), timeout_s):
            return failed
        for start in _starts(max(sizes), SLOT_BYTES):
            _fill(member.next_slot(), mine[start : start + SLOT_BYTES])
            if failed := member.round():
                return failed
            for target, slot in zip(outs, member.slots(), strict=True):
                _take(target[start : start + SLOT_BYTES], slot)
        return None

    def broadcast(self, data: Buffer, root: int, timeout_s: float) -> Failed | None:
        """See `ProcessGroup.broadcast`."""
        member = self._member
        if not 0 <= root < member.size:
            raise ValueError("the root is not a rank of the group")
        flat = _bytes(data, writable=root != member.rank)
        if failed := member.begin(CallKind.BROADCAST, flat.size, root, timeout_s):
            return failed
        for start in _starts(flat.size, SLOT_BYTES):
            piece = flat[start : start + SLOT_BYTES]
            if root == member.rank:
                _fill(member.next_slot(), piece)
            if failed := member.round():
                return failed
            if root != member.rank:
                _take(piece, member.slots()[root])
        return None

    def _sum_at_once(self, flat: F32) -> Failed | None:
        slot_floats = SLOT_BYTES // _FLOAT_BYTES
        for start in _starts(flat.size, slot_floats):
            piece = flat[start : start + slot_floats]
            _fill(self._member.next_slot(), piece.view(np.uint8))
            if failed := self._member.round():
                return failed
            piece[:] = _in_rank_order(self._member.slots().view(np.float32)[:, : piece.size])
        return None

    def _sum_in_segments(self, flat: F32) -> Failed | None:
        """Reduce-scatter and all-gather, a chunk at a time; a round carries a chunk and the sums of the previous
        one."""
        before, chunk_floats = None, CHUNK_BYTES // _FLOAT_BYTES
        pieces = [flat[start : start + chunk_floats] for start in _starts(flat.size, chunk_floats)]
        for piece in [*pieces, None]:
            if piece is not None:
                _fill(self._member.next_slot(), piece.view(np.uint8))
            if failed := self._member.round():
                return failed
            if before is not None:
                self._collect_sums(before)
            if piece is not None:
                self._sum_own_segment(piece)
            before = piece
        return None

    def _sum_own_segment(self, piece: F32) -> None:
        first, last = segment(piece.size, self._member.rank, self._member.size)
        total = _in_rank_order(self._member.slots().view(np.float32)[:, first:last])
        piece[first:last] = total
        _fill(self._member.next_slot()[CHUNK_BYTES:], total.view(np.uint8))

    def _collect_sums(self, piece: F32) -> None:
        for rank, slot in enumerate(self._member.slots()):
            first, last = segment(piece.size, rank, self._member.size)
            if rank != self._member.rank:
                _take(piece[first:last].view(np.uint8), slot[CHUNK_BYTES:])


def _bytes(buffer: Buffer, *, writable: bool = False) -> U8:
    flat = np.frombuffer(memoryview(buffer), np.uint8)
    if writable and not flat.flags.writeable:
        raise BufferError("the buffer is not writable")
    return flat


def _fill(slot: U8, piece: U8) -> None:
    slot[: piece.size] = piece


def _take(piece: U8, slot: U8) -> None:
    piece[:] = slot[: piece.size]


def _starts(total: int, step: int) -> range:
    """Where the pieces begin. A call on nothing still takes one round, so that the ranks meet."""
    return range(0, max(1, total), step)


def _in_rank_order(parts_RN: F32) -> F32:
    total_N = parts_RN[0].copy()
    for part_N in parts_RN[1:]:
        total_N += part_N
    return total_N
