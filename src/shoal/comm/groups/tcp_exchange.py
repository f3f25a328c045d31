"""One exchange of a TCP group: messages to and from any of the peers, with all sockets moving at once, without threads.

Both ends may send more than the sockets hold at the same time, so whoever cannot send continues to receive. A rank that
finds a peer lost, or doing something else, tells the others before it raises, so that they need not wait for their own
deadlines.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

from shoal.comm.groups.tcp_message import HEADER, Header, Incoming, Operation, Outgoing
from shoal.errors import RemoteProtocolError, ShoalError, WorkerLost

_SPIN_S = 50e-6
"""Time of polling without sleeping, while yielding to other processes: about what waking a process on another core
takes (a raw round trip in benchmarks/collectives.py is two wake-ups)."""
Transfer = Outgoing | Incoming


class Exchange:
    """The connected sockets of all peers, which it owns, and the number of the group's latest exchange."""

    def __init__(self, peers: Mapping[int, socket.socket], *, rank: int, generation: int) -> None:
        self._peers = dict(peers)
        self._rank = rank
        self._generation = generation
        self._sequence = 0
        self._failure: ShoalError | None = None
        self._outgoing: list[Outgoing] = []
        for sock in self._peers.values():
            sock.setblocking(False)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(
        self,
        operation: Operation,
        sends: Mapping[int, memoryview],
        receives: Mapping[int, memoryview],
        *,
        deadline_s: float,
    ) -> None:
        """Send each peer its bytes and fill the buffers with what the others send.

        Args:
            sends: payloads by rank.
            receives: buffers by rank, of exactly the size that the rank sends. Mutates: filled.
            deadline_s: of `time.monotonic`.

        Raises:
            WorkerLost: a peer has left, or did not come before the deadline; raised again by every later call.
            RemoteProtocolError: a peer is in another generation, or does something else; likewise.
        """
        if self._failure is not None:
            raise self._failure
        self._sequence += 1
        try:
            self._drive(self._transfers(operation, sends, receives), deadline_s)
        except BaseException as error:  # also Ctrl-C: part of a message may have been sent
            known = isinstance(error, ShoalError)
            self._failure = error if known else WorkerLost(f"a call of rank {self._rank} was interrupted")
            self._leave()
            raise

    def close(self) -> None:
        """Leave; peers that wait for this rank learn of it at once. Idempotent."""
        self._failure = self._failure or WorkerLost(f"the group was closed by this rank, {self._rank}")
        for sock in self._peers.values():
            sock.close()

    def _transfers(
        self, operation: Operation, sends: Mapping[int, memoryview], receives: Mapping[int, memoryview]
    ) -> list[Transfer]:
        self._outgoing = []
        for rank, payload in sends.items():
            header = self._header(operation, len(payload), self._rank)
            self._outgoing.append(Outgoing(self._peers[rank], rank, header, payload))
        incoming: list[Transfer] = []
        for rank, target in receives.items():
            header = self._header(operation, len(target), rank)
            incoming.append(Incoming(self._peers[rank], rank, header, target, self._refuse))
        return [*self._outgoing, *incoming]

    def _header(self, operation: Operation, num_bytes: int, rank: int) -> bytes:
        return HEADER.pack(self._generation, self._sequence, num_bytes, operation, rank)

    def _drive(self, pending: list[Transfer], deadline_s: float) -> None:
        """Move whatever can move until nothing is left."""
        idle_since_s = None
        while True:
            moved = False
            for transfer in pending:
                moved |= self._advance(transfer, pending)
            pending = [transfer for transfer in pending if not transfer.is_done]
            if not pending:
                return
            now_s = time.monotonic()
            if now_s >= deadline_s:
                self._give_up(pending)
            idle_since_s = now_s if moved or idle_since_s is None else idle_since_s
            if now_s - idle_since_s >= _SPIN_S:
                _sleep(pending, deadline_s - now_s)
            elif not moved:
                os.sched_yield()

    def _advance(self, transfer: Transfer, pending: list[Transfer]) -> bool:
        try:
            return transfer.advance()
        except OSError as error:
            return self._lose(transfer, pending, error)

    def _lose(self, transfer: Transfer, pending: list[Transfer], error: OSError) -> bool:
        """The peer has left. Its last message says why, if it sent one that can still be read."""
        for other in pending:
            if isinstance(other, Incoming) and other is not transfer and other.rank == transfer.rank:
                while not other.is_done and self._advance(other, []):
                    pass
        self._tell(Operation.LOST, transfer.rank)
        raise WorkerLost(f"rank {transfer.rank} has left the group: {error}") from error

    def _give_up(self, pending: list[Transfer]) -> NoReturn:
        silent = sorted({transfer.rank for transfer in pending if isinstance(transfer, Incoming)})
        deaf = sorted({transfer.rank for transfer in pending})
        self._tell(Operation.LOST, (silent or deaf)[0])
        names = ", ".join(f"rank {rank}" for rank in silent or deaf)
        raise WorkerLost(f"{names} did not {'come' if silent else 'take its bytes'} before the deadline")

    def _refuse(self, peer: int, header: Header, expected: Header) -> NoReturn:
        """The peer sent something other than what was expected from it."""
        same = header.generation == self._generation
        if same and header.operation == Operation.LOST:
            self._tell(Operation.LOST, header.rank)
            raise WorkerLost(f"rank {header.rank} is lost, says rank {peer}")
        self._tell(Operation.REFUSED, self._rank)
        if same and header.operation == Operation.REFUSED:
            raise RemoteProtocolError(f"rank {peer} found the ranks of the group doing different things")
        raise RemoteProtocolError(f"rank {peer} sent {header} where rank {self._rank} expected {expected}")

    def _tell(self, operation: Operation, rank: int) -> None:
        """Send a last message to everyone to whom no message is half sent, if the sockets take it."""
        torn = {outgoing.rank for outgoing in self._outgoing if outgoing.is_started and not outgoing.is_done}
        header = self._header(operation, 0, rank)
        for peer in self._peers.keys() - torn:
            with suppress(OSError):
                Outgoing(self._peers[peer], peer, header, memoryview(b"")).advance()

    def _leave(self) -> None:
        """Send no more bytes. What was sent can still be read, which might not be so after a close."""
        for sock in self._peers.values():
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_WR)  # the `shutdown` of a TLS socket would drop its keys


def _sleep(pending: list[Transfer], longest_s: float) -> None:
    """Sleep until one of the sockets is ready."""
    events: dict[int, int] = {}
    for transfer in pending:
        wanted = select.POLLIN if isinstance(transfer, Incoming) else select.POLLOUT
        events[transfer.sock.fileno()] = events.get(transfer.sock.fileno(), 0) | wanted
    poll = select.poll()
    for fd, wanted in events.items():
        poll.register(fd, wanted)
    poll.poll(longest_s * 1e3)
