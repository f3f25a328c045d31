"""Frames through shared memory in one direction: from one stage to the next on the same machine.

The memory is an anonymous file that only the two processes hold, so nothing is left behind however they end. Format:
u32 little-endian length, then the payload; a frame may be larger than the ring.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable, Sequence

from typing_extensions import Buffer

from shoal.comm.links.link import MAX_FRAME_BYTES
from shoal.comm.links.python_ring import HEADER_BYTES, PythonRing
from shoal.errors import LocalProtocolError, RemoteProtocolError, WorkerLost

try:
    from shoal._native import Ring
except ImportError:  # no compiler at installation: slower, the same behavior
    Ring = PythonRing

PeerAlive = Callable[[], bool]

_LENGTH = struct.Struct("<I")
_SLICE_S = 0.1
"""Longest wait before checking again whether the peer lives, and handling signals."""
_JOINED_BYTES = 1 << 16
"""Frames up to this size are written at once: copying 64 KiB takes less time than waking the reader twice."""


def create_ring(capacity_bytes: int) -> int:
    """Create the memory of a ring. Returns a file descriptor to pass to both processes; close it when they have it."""
    fd = os.memfd_create("shoal-ring", os.MFD_CLOEXEC)
    os.ftruncate(fd, HEADER_BYTES + capacity_bytes)
    return fd


def close_ring(fd: int) -> None:
    """Close a ring as one of its ends would, so that both ends learn of it."""
    Ring(fd).close()


def process_alive(pidfd: int) -> PeerAlive:
    """Returns whether the process behind a descriptor from `os.pidfd_open` still runs; one not yet waited for counts as
    dead."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return lambda: not poll.poll(0)


class _RingEnd:
    """What both ends have in common."""

    def __init__(self, fd: int, *, peer_alive: PeerAlive | None = None) -> None:
        """`peer_alive`: detects a peer that died without closing; without it such a peer looks silent."""
        self._ring = Ring(fd)
        self._peer_alive = peer_alive

    def fileno(self) -> int:
        """See `Link.fileno`: none, as the ring is polled."""
        return -1

    def close(self) -> None:
        """See `Link.close`: tells the other end."""
        self._ring.close()

    def _is_gone(self) -> bool:
        return self._ring.closed or (self._peer_alive is not None and not self._peer_alive())


class RingSender(_RingEnd):
    """The writing end. Implements `Link`, but cannot receive."""

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `Link.send`. After WorkerLost the ring is closed, because it may contain part of a frame."""
        views = [memoryview(part).cast("B") for part in parts]
        length = sum(len(view) for view in views)
        if length > MAX_FRAME_BYTES:
            raise LocalProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        deadline_s = time.monotonic() + timeout_s
        pieces: list[Buffer] = [_LENGTH.pack(length), *views]
        for piece in [b"".join(pieces)] if length <= _JOINED_BYTES else pieces:
            self._write(memoryview(piece), deadline_s)

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """Raises LocalProtocolError: this end only sends."""
        raise LocalProtocolError("this end of the ring only sends")

    def _write(self, piece: memoryview, deadline_s: float) -> None:
        while True:
            left_s = deadline_s - time.monotonic()
            piece = piece[_move(self._ring.write, piece, left_s) :]
            if not piece:
                return
            is_gone = self._is_gone()
            if is_gone or left_s <= _SLICE_S:
                self.close()
                raise WorkerLost("link closed" if is_gone else "deadline passed: the peer takes no more bytes")


class RingReceiver(_RingEnd):
    """The reading end. Implements `Link`, but cannot send. A frame that has arrived in part is kept across
    time-outs."""

    def __init__(self, fd: int, *, peer_alive: PeerAlive | None = None) -> None:
        super().__init__(fd, peer_alive=peer_alive)
        self._header = bytearray(_LENGTH.size)
        self._payload = bytearray()
        self._frame: memoryview | None = None
        """The frame that is being received, once its length is known."""
        self._left = memoryview(self._header)
        """The part of the header or of the frame that is still to be filled."""

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """Raises LocalProtocolError: this end only receives."""
        raise LocalProtocolError("this end of the ring only receives")

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """See `Link.receive`. What a peer wrote before it left is received first."""
        deadline_s, was_gone = time.monotonic() + timeout_s, False
        while True:
            left_s = 0.0 if was_gone else deadline_s - time.monotonic()
            if (frame := self._advance(left_s)) is not None:
                return frame
            if was_gone:
                raise WorkerLost("link closed by the peer")
            was_gone = self._is_gone()
            if not was_gone and left_s <= _SLICE_S:
                return None

    def _advance(self, timeout_s: float) -> memoryview | None:
        """Read for at most one slice of time. Returns the frame if it is complete."""
        until_s = time.monotonic() + min(timeout_s, _SLICE_S)
        if self._frame is None:
            if not self._fill(until_s):
                return None
            self._frame = self._left = self._new_frame(_LENGTH.unpack(self._header)[0])
        if not self._fill(until_s):
            return None
        frame, self._frame, self._left = self._frame, None, memoryview(self._header)
        return frame

    def _fill(self, until_s: float) -> bool:
        if self._left:
            self._left = self._left[_move(self._ring.read_into, self._left, until_s - time.monotonic()) :]
        return not self._left

    def _new_frame(self, length: int) -> memoryview:
        if length > MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        if len(self._payload) < length:
            self._payload = bytearray(length)
        return memoryview(self._payload)[:length]


def _move(move: Callable[[memoryview, float], int], piece: memoryview, left_s: float) -> int:
    """Number of bytes moved within one slice of time. Raises RemoteProtocolError if the peer corrupted the counters."""
    try:
        return move(piece, max(0.0, min(left_s, _SLICE_S)))
    except RuntimeError as error:
        raise RemoteProtocolError(str(error)) from error
