"""A socket link to which nobody waits to write."""

from __future__ import annotations

import select
from collections.abc import Sequence

from typing_extensions import Buffer

from shoal.comm.links.socket_link import SocketLink


class PostingLink:
    """Implements `Link` over a connected one, which it owns: what the peer does not take at once is kept, in order, and
    goes when it does. A worker takes nothing while it computes, and the head serves others meanwhile.

    Its descriptor is also readable when more can go; `receive` sees to it then.
    """

    def __init__(self, link: SocketLink) -> None:
        self._link = link
        self._is_full = False
        """whether it waits for the peer to take more"""
        self._epoll = select.epoll()
        self._epoll.register(link.fileno(), select.EPOLLIN)

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `Link.send`; never waits. The parts must not change any more. Raises WorkerLost."""
        self._link.post(parts)
        self._flush()

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """See `Link.receive`."""
        if self._is_full:
            self._flush()
        return self._link.receive(timeout_s=timeout_s)

    def fileno(self) -> int:
        """See `Link.fileno`."""
        return self._epoll.fileno()

    def close(self) -> None:
        """See `Link.close`."""
        self._epoll.close()
        self._link.close()

    def _flush(self) -> None:
        """Send what is kept, and see to it that this side is woken when more of it can go."""
        is_full = not self._link.flush()
        if is_full != self._is_full:
            self._is_full = is_full
            self._epoll.modify(self._link.fileno(), select.EPOLLIN | (select.EPOLLOUT if is_full else 0))
