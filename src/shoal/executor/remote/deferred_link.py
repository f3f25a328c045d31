"""A link that can be used while it is still being connected; sending on it never blocks.

The connecting thread can give signs of life, which wake whoever waits for the link.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Sequence

from typing_extensions import Buffer

from shoal.comm.links.posting_link import PostingLink
from shoal.comm.links.socket_link import SocketLink
from shoal.errors import ConfigError, MachineGone, ShoalError, WorkerLost


class DeferredLink:
    """Implements `Link`. One thread calls all methods; a second thread makes the connection, then ends."""

    def __init__(self, connect: Callable[[Callable[[], None]], SocketLink], name: str) -> None:
        """Start connecting.

        Args:
            connect: makes the link, or raises ShoalError. It may block, and calls its argument as a sign of life.
            name: the name of the thread that calls `connect`.
        """
        self._connect = connect
        self._made: SocketLink | None = None
        self._error: ShoalError | None = None
        self._link: PostingLink | None = None
        """The link, once this side has seen that it is connected."""
        self._pending: list[bytes] = []
        self._is_done = False
        self._is_closed = False
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable after a sign of life, and after connecting has ended until this side has seen it."""
        self._epoll = select.epoll()
        """One descriptor for both: news of connecting first, received data later."""
        self._epoll.register(self._news, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_connecting(self) -> bool:
        """Whether the thread is still connecting."""
        return self._thread.is_alive()

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `Link.send`. Never blocks.

        Data is kept until the link is connected and accepts it. Only `receive` raises if connecting has failed.
        """
        self._check_open()
        if self._made is not None and self._is_there(0.0):
            assert self._link is not None
            self._link.send(parts, timeout_s=timeout_s)
        else:
            self._pending.append(b"".join(parts))

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """See `Link.receive`. Raises ConfigError if the settings make the connection impossible."""
        self._check_open()
        if not self._is_there(timeout_s):
            return None
        assert self._link is not None
        return self._link.receive(timeout_s=timeout_s)

    def fileno(self) -> int:
        """See `Link.fileno`."""
        return self._epoll.fileno()

    def close(self) -> None:
        """See `Link.close`. Waits for the thread, which has its own deadlines."""
        self._thread.join()
        if self._is_closed:
            return
        self._is_closed = True
        made = self._link or self._made
        if made is not None:
            made.close()
        os.close(self._news)
        self._epoll.close()

    def _run(self) -> None:
        try:
            self._made = self._connect(self._note_progress)
        except ShoalError as error:
            self._error = error
        except Exception as error:  # the outermost call of a thread: the waiting thread must see the error
            self._error = WorkerLost(f"{type(error).__name__}: {error}".partition("\n")[0])
        finally:
            self._is_done = True
            os.eventfd_write(self._news, 1)

    def _note_progress(self) -> None:
        os.eventfd_write(self._news, 1)

    def _check_open(self) -> None:
        if self._is_closed:
            raise WorkerLost("the link was closed")

    def _is_there(self, timeout_s: float) -> bool:
        """Wait for the link for at most `timeout_s`. Returns whether it is connected.

        Raises:
            WorkerLost: connecting failed.
            ConfigError: connecting failed, and would fail again.
        """
        if self._link is not None:
            return True
        if not self._epoll.poll(timeout_s):
            return False
        if not self._is_done:
            os.eventfd_read(self._news)
            if not self._is_done:
                return False
            os.eventfd_write(self._news, 1)  # what was read may have been the end of connecting
        if self._made is None:
            error = self._error or "the connection was not made"
            kind = next((one for one in (MachineGone, ConfigError) if isinstance(error, one)), WorkerLost)
            raise kind(str(error))
        self._epoll.unregister(self._news)
        self._link = PostingLink(self._made)
        self._epoll.register(self._link.fileno(), select.EPOLLIN)
        for frame in self._pending:
            self._link.send([frame], timeout_s=0.0)
        self._pending.clear()
        return True
