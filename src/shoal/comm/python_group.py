"""Collectives in shared memory without a compiler: native/comm/collective.cpp in NumPy, polled with growing sleeps.

Relies on stores becoming visible in program order, as on x86-64 (Intel SDM volume 3, section 9.2.2).
"""

from __future__ import annotations

import mmap
import os
import time
import weakref
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from shoal.comm.group_memory import (
    CHUNK_BYTES,
    HEADER_BYTES,
    RANK,
    SLOT_BYTES,
    Failure,
    Operation,
    group_bytes,
    segment,
    sizes_digest,
)
from shoal.comm.ring_link import PeerAlive, process_alive
from shoal.core.collectives import F32

Failed = tuple[int, int]
"""`Failure`, and the rank that is to blame."""
U8 = npt.NDArray[np.uint8]

_FLOAT_BYTES = 4
_SHORTEST_SLEEP_S = 20e-6
_LONGEST_SLEEP_S = 1e-3


class PythonCollective:
    """One rank's end. Calls return None, or why they failed: then the rank has left the group."""

    def __init__(self, fd: int, rank: int, size: int, generation: int) -> None:
        if os.fstat(fd).st_size != group_bytes(size):
            raise ValueError(f"not the memory of a group of {size} ranks")
        memory = mmap.mmap(fd, group_bytes(size))
        self._rank, self._size = rank, size
        self._ranks = np.frombuffer(memory, RANK, size)
        self._steps = self._ranks["step"]
        slots_RPB: U8 = np.frombuffer(memory, np.uint8, offset=HEADER_BYTES).reshape(size, 2, SLOT_BYTES)
        self._bytes_RPB, self._floats_RPN = slots_RPB, slots_RPB.view(np.float32)
        """by rank, by parity of the step"""
        self._alive: dict[int, PeerAlive] = {}
        self._step, self._num_calls, self._deadline_s = 0, 0, 0.0
        self._join(generation)

    @property
    def closed(self) -> bool:
        """Whether this rank has left."""
        return bool(self._ranks["closed"][self._rank])

    def close(self) -> None:
        """Leave: who waits for this rank learns of it."""
        self._ranks["closed"][self._rank] = 1

    def call_of(self, rank: int) -> tuple[int, int, int]:
        """What a rank called when this one made its latest call: operation, bytes, generation."""
        call = self._ranks["calls"][rank, self._num_calls % 2]
        return int(call["operation"]), int(call["num_bytes"]), int(self._ranks["generation"][rank])

    def all_reduce(self, x: F32, in_segments: bool, timeout_s: float) -> Failed | None:
        """See `ProcessGroup.all_reduce`."""
        if not (isinstance(x, np.ndarray) and x.dtype == np.float32 and x.flags.c_contiguous and x.flags.writeable):
            raise ValueError("all_reduce takes C-contiguous writable float32")
        flat = x.reshape(-1)
        operation = Operation.SUM_IN_SEGMENTS if in_segments else Operation.SUM_AT_ONCE
        if failed := self._begin(operation, flat.nbytes, 0, timeout_s):
            return failed
        return self._sum_in_segments(flat) if in_segments else self._sum_at_once(flat)

    def all_gather(self, part: Buffer, out: Sequence[Buffer], timeout_s: float) -> Failed | None:
        """See `ProcessGroup.all_gather`."""
        mine, outs = _bytes(part), [_bytes(target, writable=True) for target in out]
        sizes = [target.size for target in outs]
        if len(sizes) != self._size or sizes[self._rank] != mine.size:
            raise ValueError("all_gather takes a buffer for each rank, of its part's size")
        if failed := self._begin(Operation.GATHER, sum(sizes), sizes_digest(sizes), timeout_s):
            return failed
        for start in _starts(max(sizes), SLOT_BYTES):
            self._write(mine[start : start + SLOT_BYTES])
            if failed := self._round():
                return failed
            for rank, target in enumerate(outs):
                self._read(rank, target[start : start + SLOT_BYTES])
        return None

    def broadcast(self, data: Buffer, root: int, timeout_s: float) -> Failed | None:
        """See `ProcessGroup.broadcast`."""
        if not 0 <= root < self._size:
            raise ValueError("the root is not a rank of the group")
        flat = _bytes(data, writable=root != self._rank)
        if failed := self._begin(Operation.BROADCAST, flat.size, root, timeout_s):
            return failed
        for start in _starts(flat.size, SLOT_BYTES):
            piece = flat[start : start + SLOT_BYTES]
            if root == self._rank:
                self._write(piece)
            if failed := self._round():
                return failed
            if root != self._rank:
                self._read(root, piece)
        return None

    def _join(self, generation: int) -> None:
        if not 0 <= self._rank < self._size:
            raise ValueError(f"rank {self._rank} is not in a group of {self._size}")
        if self._ranks["pid"][self._rank]:
            raise ValueError(f"rank {self._rank} has joined this group before")
        self._ranks["generation"][self._rank] = generation
        self._ranks["pid"][self._rank] = os.getpid()

    def _begin(self, operation: Operation, num_bytes: int, detail: int, timeout_s: float) -> Failed | None:
        if self.closed:
            return Failure.CLOSED, self._rank
        self._num_calls += 1
        self._ranks["calls"][self._rank, self._num_calls % 2] = (num_bytes, operation, detail)
        self._deadline_s = time.monotonic() + timeout_s
        self._is_checked = False
        return None

    def _sum_at_once(self, flat: F32) -> Failed | None:
        slot_floats = SLOT_BYTES // _FLOAT_BYTES
        for start in _starts(flat.size, slot_floats):
            piece = flat[start : start + slot_floats]
            self._write(piece.view(np.uint8))
            if failed := self._round():
                return failed
            piece[:] = _in_rank_order(list(self._floats_RPN[:, self._step % 2, : piece.size]))
        return None

    def _sum_in_segments(self, flat: F32) -> Failed | None:
        """Reduce-scatter and all-gather, a chunk at a time; a round carries a chunk and the sums of the one before."""
        before, chunk_floats = None, CHUNK_BYTES // _FLOAT_BYTES
        pieces = [flat[start : start + chunk_floats] for start in _starts(flat.size, chunk_floats)]
        for piece in [*pieces, None]:
            if piece is not None:
                self._write(piece.view(np.uint8))
            if failed := self._round():
                return failed
            if before is not None:
                self._collect_sums(before)
            if piece is not None:
                self._sum_own_segment(piece)
            before = piece
        return None

    def _sum_own_segment(self, piece: F32) -> None:
        first, last = segment(piece.size, self._rank, self._size)
        total = _in_rank_order(list(self._floats_RPN[:, self._step % 2, first:last]))
        piece[first:last] = total
        sums_at = CHUNK_BYTES // _FLOAT_BYTES
        self._floats_RPN[self._rank, (self._step + 1) % 2, sums_at : sums_at + total.size] = total

    def _collect_sums(self, piece: F32) -> None:
        sums_at = CHUNK_BYTES // _FLOAT_BYTES
        for rank in range(self._size):
            first, last = segment(piece.size, rank, self._size)
            if rank != self._rank:
                piece[first:last] = self._floats_RPN[rank, self._step % 2, sums_at : sums_at + last - first]

    def _write(self, piece: U8) -> None:
        """Into this rank's slot of the round to come."""
        self._bytes_RPB[self._rank, (self._step + 1) % 2, : piece.size] = piece

    def _read(self, rank: int, piece: U8) -> None:
        """From a rank's slot of this round. Mutates: piece."""
        piece[:] = self._bytes_RPB[rank, self._step % 2, : piece.size]

    def _round(self) -> Failed | None:
        """Publish this rank's slot and wait for all others."""
        self._step += 1
        self._steps[self._rank] = self._step
        try:
            failed = next((failed for peer in range(self._size) if (failed := self._wait_for(peer))), None)
        except BaseException:  # interrupted: this rank leaves
            self.close()
            raise
        if failed is None and not self._is_checked:
            self._is_checked, failed = True, self._mismatch()
        if failed is not None:
            self._ranks["lost"][self._rank] = failed[1] + 1
            self.close()
        return failed

    def _mismatch(self) -> Failed | None:
        calls, generations = self._ranks["calls"][:, self._num_calls % 2], self._ranks["generation"]
        for peer in range(self._size):
            if calls[peer] != calls[self._rank] or generations[peer] != generations[self._rank]:
                return Failure.MISMATCH, peer
        return None

    def _wait_for(self, peer: int) -> Failed | None:
        sleep_s = _SHORTEST_SLEEP_S
        while not self._has_come(peer):
            if failed := self._trouble(peer):
                return failed
            time.sleep(sleep_s)
            sleep_s = min(2 * sleep_s, _LONGEST_SLEEP_S)
        return None

    def _has_come(self, peer: int) -> bool:
        return int(self._steps[peer]) >= self._step

    def _trouble(self, awaited: int) -> Failed | None:
        """Why waiting has no sense any more. What a rank published before it went counts."""
        if self.closed:
            return Failure.CLOSED, self._rank
        for peer in range(self._size):
            if not self._has_come(peer) and self._ranks["closed"][peer] and not self._has_come(peer):
                lost = int(self._ranks["lost"][peer]) - 1
                return Failure.LEFT, peer if lost in (-1, self._rank) else lost
            if not self._has_come(peer) and not self._lives(peer) and not self._has_come(peer):
                return Failure.DEAD, peer
        return (Failure.LATE, awaited) if time.monotonic() >= self._deadline_s else None

    def _lives(self, peer: int) -> bool:
        """False once its process has ended; a rank that has not joined yet lives."""
        pid = int(self._ranks["pid"][peer])
        if pid in (0, os.getpid()):
            return True
        if peer not in self._alive:
            self._alive[peer] = self._watch(pid)
        return self._alive[peer]()

    def _watch(self, pid: int) -> PeerAlive:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return lambda: False
        except OSError:  # none to be had: only the deadline finds the death of this peer
            return lambda: True
        weakref.finalize(self, os.close, pidfd)
        return process_alive(pidfd)


def _bytes(buffer: Buffer, *, writable: bool = False) -> U8:
    flat = np.frombuffer(memoryview(buffer), np.uint8)
    if writable and not flat.flags.writeable:
        raise BufferError("the buffer is not writable")
    return flat


def _starts(total: int, step: int) -> range:
    """Where the pieces begin; a call on nothing still takes one round, so that the ranks meet."""
    return range(0, max(1, total), step)


def _in_rank_order(parts: list[F32]) -> F32:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
