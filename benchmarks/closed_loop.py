"""Clients that each send a request as soon as the last one is answered, over plain sockets.

One thread drives all of them and does nothing but send bytes made before and look for the end of the answer, so that
the server is what is measured: some 20 us of this process's time a request.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_RECEIVE_BYTES = 1 << 18
_TIMEOUT_S = 60.0
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole HTTP answer of status 200."""

    head: bytes
    """lower-cased"""
    body: bytes

    def header(self, name: str) -> int:
        """A header that is a number."""
        return _number(self.head, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """A closed loop's outcome."""

    elapsed_s: float
    latencies_s: list[float] = field(repr=False)
    """of every request, in the order of their ends"""

    @property
    def requests_per_s(self) -> float:
        """Throughput of all clients."""
        return len(self.latencies_s) / self.elapsed_s

    def percentile_s(self, percent: float) -> float:
        """Nearest rank."""
        ranked = sorted(self.latencies_s)
        return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


class Connection:
    """One client: a kept-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_s = 0.0
        self._received = b""

    def send(self, request: bytes) -> None:
        """Start a request."""
        self.sent_s = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> Answer | None:
        """Take what has come. None: the answer is not whole yet.

        Raises:
            SystemExit: the server hung up, or its answer is no success.
        """
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise SystemExit("the server closed the connection")
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if not end:
            return None
        head = head.lower()
        if len(body) < _number(head, "content-length"):
            return None
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"the server answered {(head + _HEAD_END + body).decode(errors='replace')}")
        self._received = b""
        return Answer(head=head, body=body)

    def ask(self, request: bytes) -> Answer:
        """A whole request, blocking."""
        self.send(request)
        while (answer := self.receive()) is None:
            pass
        return answer

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def closed_loop(port: int, requests: Sequence[bytes], *, num_requests: int) -> LoadResult:
    """As many clients as there are `requests`, each repeating its own, until `num_requests` have been answered."""
    clients = [Connection(port) for _ in requests]
    latencies_s: list[float] = []
    with selectors.DefaultSelector() as selector:
        started_s = time.perf_counter()
        for client, request in zip(clients, requests, strict=True):
            selector.register(client.socket, selectors.EVENT_READ, (client, request))
            client.send(request)
        num_sent = len(clients)
        while len(latencies_s) < num_requests:
            events = selector.select(_TIMEOUT_S)
            if not events:
                raise SystemExit(f"no answer for {_TIMEOUT_S:.0f} s")
            for key, _ in events:
                client, request = key.data
                if client.receive() is None:
                    continue
                latencies_s.append(time.perf_counter() - client.sent_s)
                if num_sent < num_requests:
                    client.send(request)
                    num_sent += 1
        elapsed_s = time.perf_counter() - started_s
    for client in clients:
        client.close()
    return LoadResult(elapsed_s=elapsed_s, latencies_s=latencies_s)


def _number(head: bytes, name: str) -> int:
    """A numeric header's value. Raises SystemExit without one: every server here is expected to send it."""
    _, found, rest = head.partition(f"\r\n{name}:".encode())
    if not found:
        raise SystemExit(f"the server's answer has no {name}: {head.decode(errors='replace')}")
    return int(rest.partition(b"\r\n")[0])
