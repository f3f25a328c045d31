"""A socket link whose sender never waits."""

from __future__ import annotations

import select
from collections.abc import Sequence

from typing_extensions import Buffer

from shoal.comm.links.socket_link import SocketLink


class PostingLink:
    """Implements `Link` over a connected one, which it owns. What the peer does not take at once is kept, in order, and
    sent later. A worker receives nothing while it computes, and the head serves others meanwhile.

    The descriptor is also readable when more can be sent, which `receive` then does.
    """

    def __init__(self, link: SocketLink) -> None:
        self._link = link
        self._is_full = False
        """Whether it waits until the peer takes more."""
        self._epoll = select.epoll()
        self._epoll.register(link.fileno(), select.EPOLLIN)

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `Link.send`; never waits. The parts must not be changed afterwards. Raises WorkerLost."""
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
        """Send what is kept, and ask to be woken when more of it can be sent."""
        is_full = not self._link.flush()
        if is_full != self._is_full:
            self._is_full = is_full
            self._epoll.modify(self._link.fileno(), select.EPOLLIN | (select.EPOLLOUT if is_full else 0))
