"""Frames through shared memory, one way: from a stage to the next on the same machine.

The memory is an anonymous file that only the two processes hold, so nothing is left anywhere when they are gone,
however they end. Format: u32 little-endian length, then the payload; a frame may be larger than the ring.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence

from typing_extensions import Buffer

from shoal.comm.link import MAX_FRAME_BYTES
from shoal.comm.python_ring import HEADER_BYTES, PythonRing
from shoal.errors import LocalProtocolError, RemoteProtocolError, WorkerLost

try:
    from shoal._native import Ring
except ImportError:  # no compiler at installation: slower, the same behavior
    Ring = PythonRing

_LENGTH = struct.Struct("<I")


def create_ring(capacity_bytes: int) -> int:
    """Memory for one ring. Returns a file descriptor to hand to both processes; close it when they have it."""
    fd = os.memfd_create("shoal-ring", os.MFD_CLOEXEC)
    os.ftruncate(fd, HEADER_BYTES + capacity_bytes)
    return fd


class _RingEnd:
    """What both ends share."""

    def __init__(self, fd: int) -> None:
        self._ring = Ring(fd)

    def fileno(self) -> int:
        """See `Link.fileno`: none, the ring is polled."""
        return -1

    def close(self) -> None:
        """See `Link.close`: tells the other end."""
        self._ring.close()


class RingSender(_RingEnd):
    """The writing end. Implements `Link`; it cannot receive."""

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `Link.send`."""
        views = [memoryview(part).cast("B") for part in parts]
        length = sum(len(view) for view in views)
        if length > MAX_FRAME_BYTES:
            raise LocalProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        deadline_s = time.monotonic() + timeout_s
        for view in (_LENGTH.pack(length), *views):
            if self._ring.write(view, deadline_s - time.monotonic()) < len(view):
                raise WorkerLost(
                    "link closed" if self._ring.closed else "deadline passed: the peer takes no more bytes"
                )

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """This end only sends."""
        raise LocalProtocolError("this end of the ring only sends")


class RingReceiver(_RingEnd):
    """The reading end. Implements `Link`; it cannot send. A frame that arrived in part is kept across time-outs."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._header = bytearray(_LENGTH.size)
        self._header_filled = 0
        self._payload = bytearray()
        self._filled = 0

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """This end only receives."""
        raise LocalProtocolError("this end of the ring only receives")

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """See `Link.receive`."""
        deadline_s = time.monotonic() + timeout_s
        self._header_filled += self._read(memoryview(self._header)[self._header_filled :], timeout_s)
        if self._header_filled < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(self._header)
        if length > MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        if len(self._payload) < length:
            self._payload = bytearray(length)
        frame = memoryview(self._payload)[:length]
        self._filled += self._read(frame[self._filled :], deadline_s - time.monotonic())
        if self._filled < length:
            return None
        self._header_filled = self._filled = 0
        return frame

    def _read(self, target: memoryview, timeout_s: float) -> int:
        """Bytes read in time. Raises WorkerLost when the sender has closed and nothing is left."""
        count = self._ring.read_into(target, timeout_s)
        if count < len(target) and self._ring.closed:
            raise WorkerLost("link closed by the peer")
        return count
