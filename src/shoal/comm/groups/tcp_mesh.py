"""The connections of a TCP group: of two ranks the lower one listens and the higher one connects.

Both say which generation they are of before anything else, so that a process left over from an earlier group cannot
come into a later one. Format of a greeting, little-endian: 8 bytes of `_MAGIC`, u64 generation, u32 rank, u32 size.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from shoal.errors import RemoteProtocolError, WorkerLost

_MAGIC = b"shoal-g1"
_GREETING = struct.Struct("<8sQII")
_RETRY_S = 0.02
"""Between two tries to reach a rank that does not listen yet: short beside starting a process, about 1 s (the start
line of benchmarks/splits.py)."""
Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Greeting:
    """Who is at the other end."""

    generation: int
    rank: int
    size: int

    def pack(self) -> bytes:
        return _GREETING.pack(_MAGIC, self.generation, self.rank, self.size)


def connect_mesh(
    addresses: Sequence[Address], *, rank: int, generation: int, listener: socket.socket, timeout_s: float
) -> dict[int, socket.socket]:
    """A connection to every other rank.

    Args:
        addresses: for each rank the host and port of its listener; that of the last rank is not used.
        listener: this rank's. Mutates: becomes non-blocking. Remains the caller's, for a group of a later generation.

    Returns:
        Connected sockets by rank, as `TcpGroup` wants them.

    Raises:
        WorkerLost: a rank did not come within timeout_s.
        RemoteProtocolError: a process of a later generation, or of another group, answers at a rank's address.
    """
    deadline_s = time.monotonic() + timeout_s
    own = _Greeting(generation=generation, rank=rank, size=len(addresses))
    peers: dict[int, socket.socket] = {}
    try:
        for other in range(rank):
            peers[other] = _connect(addresses[other], other, own, deadline_s)
        peers |= _Entrance(listener, own).admit_all(deadline_s)
    except BaseException:
        for sock in peers.values():
            sock.close()
        raise
    return peers


def _connect(address: Address, other: int, own: _Greeting, deadline_s: float) -> socket.socket:
    """Try until the rank answers as one of this generation. Raises WorkerLost, RemoteProtocolError."""
    while (left_s := deadline_s - time.monotonic()) > 0:
        with ExitStack() as unless_expected, suppress(OSError):  # nobody listens there yet, or it has left
            sock = unless_expected.enter_context(socket.create_connection(address, timeout=left_s))
            sock.sendall(own.pack())
            if _is_expected(_read_greeting(sock, deadline_s), other, own, address):
                unless_expected.pop_all()
                return sock
        time.sleep(min(_RETRY_S, left_s))
    raise WorkerLost(f"rank {other} did not answer at {address[0]}:{address[1]} before the deadline")


def _is_expected(greeting: _Greeting, other: int, own: _Greeting, address: Address) -> bool:
    """False where the rank has not heard of this generation yet. Raises RemoteProtocolError where it never will be."""
    if greeting.generation < own.generation:
        return False
    if (greeting.generation, greeting.rank, greeting.size) != (own.generation, other, own.size):
        raise RemoteProtocolError(
            f"at {address[0]}:{address[1]} is rank {greeting.rank} of {greeting.size} in generation "
            f"{greeting.generation}, not rank {other} of {own.size} in generation {own.generation}"
        )
    return True


def _read_greeting(sock: socket.socket, deadline_s: float) -> _Greeting:
    """Raises OSError where the other end leaves or is silent, RemoteProtocolError where it speaks something else."""
    data = b""
    while len(data) < _GREETING.size:
        sock.settimeout(max(deadline_s - time.monotonic(), 1e-3))
        data += _at_least_one(sock.recv(_GREETING.size - len(data)))
    return _parse(data)


class _Entrance:
    """Where the higher ranks come in; whoever else comes is answered and let go."""

    def __init__(self, listener: socket.socket, own: _Greeting) -> None:
        self._listener = listener
        self._own = own
        self._admitted: dict[int, socket.socket] = {}
        self._callers: dict[int, tuple[socket.socket, bytearray]] = {}
        """by descriptor: who has not said yet all that it must, and what it has said"""
        self._poll = select.poll()
        listener.setblocking(False)
        self._poll.register(listener, select.POLLIN)

    def admit_all(self, deadline_s: float) -> dict[int, socket.socket]:
        """Every higher rank's connection. Raises WorkerLost."""
        try:
            while missing := [r for r in range(self._own.rank + 1, self._own.size) if r not in self._admitted]:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    names = ", ".join(f"rank {rank}" for rank in missing)
                    raise WorkerLost(f"{names} did not connect before the deadline")
                for fd, _ in self._poll.poll(left_s * 1e3):
                    self._serve(fd)
        except BaseException:
            for sock in self._admitted.values():
                sock.close()
            raise
        finally:
            for sock, _ in self._callers.values():
                sock.close()
        return self._admitted

    def _serve(self, fd: int) -> None:
        if fd == self._listener.fileno():
            with suppress(OSError):  # it has gone again
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                self._callers[sock.fileno()] = sock, bytearray()
                self._poll.register(sock, select.POLLIN)
            return
        sock, heard = self._callers[fd]
        try:
            heard += _at_least_one(sock.recv(_GREETING.size - len(heard)))
            is_heard = len(heard) == _GREETING.size
            is_admitted = is_heard and self._answer(sock, heard)
        except (OSError, RemoteProtocolError):
            is_heard, is_admitted = True, False
        if is_heard:
            self._poll.unregister(fd)
            del self._callers[fd]
            if not is_admitted:
                sock.close()

    def _answer(self, sock: socket.socket, heard: bytearray) -> bool:
        """Whether the caller belongs to this group. One that comes again takes the place of its earlier connection."""
        caller = _parse(bytes(heard))
        sock.send(self._own.pack())
        is_of_group = (caller.generation, caller.size) == (self._own.generation, self._own.size)
        if not (is_of_group and self._own.rank < caller.rank < caller.size):
            return False
        if caller.rank in self._admitted:
            self._admitted[caller.rank].close()
        self._admitted[caller.rank] = sock
        return True


def _parse(data: bytes) -> _Greeting:
    magic, generation, rank, size = _GREETING.unpack(data)
    if magic != _MAGIC:
        raise RemoteProtocolError("what answers is no rank of a group")
    return _Greeting(generation=generation, rank=rank, size=size)


def _at_least_one(received: bytes) -> bytes:
    if not received:
        raise ConnectionResetError("closed by the peer")
    return received
