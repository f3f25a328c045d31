"""Frames over a stream socket: a Unix socket pair inside a machine, TLS over TCP between machines.

Format: u32 little-endian length, then the payload.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial

from typing_extensions import Buffer

from shoal.comm.links.link import MAX_FRAME_BYTES
from shoal.errors import LocalProtocolError, RemoteProtocolError, WorkerLost

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16
_RECORD_BYTES = 1 << 14
"""Bytes that are sent at once over TLS. Source: RFC 8446, section 5.1."""
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""The last two occur over TLS. Version 1.3 reads only to read and writes only to write, as there is no
renegotiation."""
_GONE = (ConnectionError, BrokenPipeError, OSError)


class SocketLink:
    """A `Link` over a connected socket, which it owns. Frames that have arrived are kept across time-outs."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        is_tls = isinstance(sock, ssl.SSLSocket)
        self._send_some: Callable[[list[memoryview]], int] = partial(_send_record, sock) if is_tls else sock.sendmsg
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(sock, select.POLLOUT)
        self._unsent: list[memoryview] = []
        """Parts of posted frames that are not sent yet."""
        self._buffer = bytearray(_READ_BYTES)
        self._start = 0
        """First byte of the oldest frame that is not consumed."""
        self._end = 0
        """End of the bytes that have arrived."""

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `Link.send`."""
        deadline_s = time.monotonic() + timeout_s
        pending = [*self._unsent, *_framed(parts)]
        while pending := self._send_now(pending):
            self._wait(self._writable, deadline_s, "the peer takes no more bytes")
        self._unsent = []

    def post(self, parts: Sequence[Buffer]) -> None:
        """Send without waiting: what the peer does not take now is kept, in order, and sent by `flush`.

        Args:
            parts: of one frame; they must not be changed afterwards.

        Raises:
            WorkerLost: the peer has closed, or more than the largest frame is kept for it.
        """
        self._unsent += _framed(parts)
        self.flush()
        if sum(map(len, self._unsent)) > MAX_FRAME_BYTES:
            raise WorkerLost("the peer takes no more bytes")

    def flush(self) -> bool:
        """Send as much of what was posted as possible now. Returns whether all of it was sent. Raises WorkerLost."""
        if self._unsent:
            self._unsent = self._send_now(self._unsent)
        return not self._unsent

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """See `Link.receive`."""
        deadline_s = time.monotonic() + timeout_s
        while (frame := self._take()) is None:
            try:
                self._read()
            except _WOULD_BLOCK:
                remaining_s = deadline_s - time.monotonic()
                if remaining_s <= 0 or not self._readable.poll(remaining_s * 1e3):
                    return None
        return frame

    def fileno(self) -> int:
        """See `Link.fileno`. The buffer may also hold frames, so receive until None after every wake-up."""
        return self._sock.fileno()

    def close(self) -> None:
        """See `Link.close`."""
        self._sock.close()

    def _take(self) -> memoryview | None:
        """The oldest frame if it is complete."""
        available = self._end - self._start
        if available < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._start)
        if length > MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        if available < _LENGTH.size + length:
            if self._start or self._end == len(self._buffer):
                self._make_room(_LENGTH.size + length)
            return None
        begin = self._start + _LENGTH.size
        self._start = begin + length
        return memoryview(self._buffer)[begin : self._start]

    def _send_now(self, pending: list[memoryview]) -> list[memoryview]:
        """Send what the peer takes. Returns what is left. Raises WorkerLost."""
        while pending:
            try:
                sent = self._send_some(pending)
            except _WOULD_BLOCK:
                break
            except _GONE as error:
                raise WorkerLost(f"link closed while sending: {error}") from error
            pending = _after(pending, sent)
        return pending

    def _make_room(self, frame_bytes: int) -> None:
        """Make room after the unread bytes for the rest of a frame, or for as much again as has arrived of it: what a
        peer announces takes no memory before it arrives. Never grows a buffer that is lent. A large frame arrives in
        many small pieces, so a buffer must be full before it grows, since growing copies all that has arrived of the
        frame."""
        if self._start + frame_bytes <= len(self._buffer):
            return
        unread = self._buffer[self._start : self._end]
        num_bytes = max(len(self._buffer), min(frame_bytes, 2 * len(unread)))
        if self._start == 0 and num_bytes == len(self._buffer):
            return
        self._buffer = bytearray(num_bytes)
        self._buffer[: len(unread)] = unread
        self._start, self._end = 0, len(unread)

    def _read(self) -> None:
        """Read whatever has arrived into the free end of the buffer."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < _LENGTH.size:
            self._make_room(len(self._buffer) - self._start + _READ_BYTES)
        try:
            count = self._sock.recv_into(memoryview(self._buffer)[self._end :])
        except _WOULD_BLOCK:
            raise
        except _GONE as error:
            raise WorkerLost(f"link closed: {error}") from error
        if count == 0:
            raise WorkerLost("link closed by the peer")
        self._end += count

    def _wait(self, poller: select.poll, deadline_s: float, what: str) -> None:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0 or not poller.poll(remaining_s * 1e3):
            raise WorkerLost(f"deadline passed: {what}")


def _framed(parts: Sequence[Buffer]) -> list[memoryview]:
    """The parts of one frame with its length. Raises LocalProtocolError if it is too long."""
    views = [memoryview(part).cast("B") for part in parts]
    length = sum(len(view) for view in views)
    if length > MAX_FRAME_BYTES:
        raise LocalProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
    return [memoryview(_LENGTH.pack(length)), *(view for view in views if view)]


def _after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of the parts after the first `sent` bytes."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [part[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []


def _send_record(sock: ssl.SSLSocket, parts: list[memoryview]) -> int:
    """Send the first bytes of the parts, with small parts joined. After SSLWantWriteError it must be called with the
    same parts."""
    first = parts[0]
    if len(first) < _RECORD_BYTES and len(parts) > 1:
        first = bytearray(first)
        for part in parts[1:]:
            first += part[: _RECORD_BYTES - len(first)]
    return sock.send(first)
