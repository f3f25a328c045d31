"""Links between machines, the listening side; `tls_link` is the connecting one."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from shoal.comm.links.link import Link
from shoal.comm.links.ports import ANY_PORT, listen_on_any
from shoal.comm.links.socket_link import SocketLink
from shoal.comm.tls.tls_identity import Credentials, listening_context
from shoal.comm.tls.tls_link import ACCEPTED, LENGTH, MAX_KEY_BYTES, Address, format_address
from shoal.errors import RemoteProtocolError, WorkerLost

_HELLO_S = 5.0
"""Time between the connection and the end of the hello: three round trips and two signatures, which take
milliseconds."""
_MAX_CALLERS = 64
"""Most connections that have not said hello. One more ends the oldest, so that strangers cannot use up descriptors."""
_MAX_WAITING = 1024
"""Most connections that nobody has taken: more than a process has peers. One more ends the oldest."""


class TlsListener:
    """Accepts peers of the cluster and keeps them until they are taken, whatever the owner does meanwhile.

    A thread performs all handshakes at the same time, so that a peer that stalls delays nobody.
    """

    def __init__(self, credentials: Credentials, *, host: str, ports: range = ANY_PORT) -> None:
        """Raises OSError if the address is not available, ConfigError if no port is free or the credentials are
        invalid.

        Args:
            credentials: of this process.
            host: an address of this machine, IPv4 or IPv6.
            ports: to choose from.
        """
        context = listening_context(credentials)
        self._sock = listen_on_any(ports, lambda port: _listen(host, port))
        self._sock.setblocking(False)
        self._address: Address = self._sock.getsockname()[:2]
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._changed = threading.Condition()
        """Signals changes of the fields below."""
        self._waiting: dict[str, ssl.SSLSocket] = {}
        """Accepted connections by key, the oldest first."""
        self._last_refused = ""
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, args=(context,), name="shoal-tls-listener", daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        """The host and port on which it listens."""
        return self._address

    def take(self, key: str, *, timeout_s: float, complaint: str | None = None) -> Link:
        """The link of the peer that has connected, or will connect, with this key.

        Raises WorkerLost, with the complaint, if none does in time.
        """
        return SocketLink(self.take_socket(key, timeout_s=timeout_s, complaint=complaint))

    def take_socket(self, key: str, *, timeout_s: float, complaint: str | None = None) -> ssl.SSLSocket:
        """As `take`, but returns the connection itself, which is non-blocking."""
        with self._changed:
            self._changed.wait_for(lambda: key in self._waiting or self._is_closed, timeout_s)
            if self._is_closed:
                raise WorkerLost(f"nobody can come as {key!r}: the listener was closed")
            if key not in self._waiting:
                missed = complaint or f"nobody came as {key!r} before the deadline"
                raise WorkerLost(missed + self._last_refused)
            return self._waiting.pop(key)

    def close(self) -> None:
        """Stop listening and close connections that were not taken. Idempotent."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._sock.close()
        for sock in self._waiting.values():
            sock.close()

    def _serve(self, context: ssl.SSLContext) -> None:
        """Run the thread until `close`."""
        entrance = _Entrance(self._sock, self._wake, context, admit=self._admit, refuse=self._refuse)
        try:
            while not self._is_closed:
                entrance.advance()
        finally:
            entrance.close()

    def _admit(self, key: str, sock: ssl.SSLSocket) -> None:
        """Accept a connection, which replaces an earlier one with the same key.

        The lock makes sure that a peer that has been told of its acceptance can be taken. Raises OSError if it is gone.
        """
        with self._changed:
            sock.send(ACCEPTED)
            earlier = self._waiting.pop(key, None)
            if earlier is None and len(self._waiting) == _MAX_WAITING:
                earlier = self._waiting.pop(next(iter(self._waiting)))
            self._waiting[key] = sock
            self._changed.notify_all()
        if earlier is not None:
            earlier.close()

    def _refuse(self, peer: str, why: Exception) -> None:
        with self._changed:
            self._last_refused = f"; {peer} was refused: {why}"


def _listen(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address, family=family, backlog=_MAX_CALLERS)


class _Caller:
    """A connection that has not said hello yet."""

    def __init__(self, sock: ssl.SSLSocket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        self.deadline_s = time.monotonic() + _HELLO_S
        self._is_verified = False
        self._heard = bytearray()

    def advance(self) -> str:
        """Continue the handshake. Returns the peer's key. Raises SSLWantReadError, SSLWantWriteError if it must wait;
        OSError, RemoteProtocolError."""
        if not self._is_verified:
            self.sock.do_handshake()
            self._is_verified = True
        self._hear(LENGTH.size)
        (length,) = LENGTH.unpack_from(self._heard)
        if not 1 <= length <= MAX_KEY_BYTES:
            raise RemoteProtocolError(f"it says hello with {length} bytes, not 1 to {MAX_KEY_BYTES}")
        self._hear(LENGTH.size + length)
        try:
            key = self._heard[LENGTH.size :].decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("it says hello with something that is no text") from error
        return key

    def _hear(self, num_bytes: int) -> None:
        while len(self._heard) < num_bytes:
            received = self.sock.recv(num_bytes - len(self._heard))
            if not received:
                raise ConnectionResetError("it left before it had said hello")
            self._heard += received


class _Entrance:
    """All connections whose handshake is not complete."""

    def __init__(
        self,
        listener: socket.socket,
        wake: int,
        context: ssl.SSLContext,
        *,
        admit: Callable[[str, ssl.SSLSocket], None],
        refuse: Callable[[str, Exception], None],
    ) -> None:
        """`wake`: a descriptor that ends a wait when it is readable."""
        self._listener = listener
        self._context = context
        self._admit = admit
        self._refuse = refuse
        self._callers: dict[int, _Caller] = {}
        """Connections by descriptor, the oldest first."""
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._poll.register(wake, select.POLLIN)

    def advance(self) -> None:
        """Wait until something arrives or a connection's time is over, and handle it."""
        oldest = next(iter(self._callers.values()), None)
        wait_ms = None if oldest is None else max(oldest.deadline_s - time.monotonic(), 0.0) * 1e3
        for fd, _ in self._poll.poll(wait_ms):
            if fd == self._listener.fileno():
                self._accept()
            elif caller := self._callers.get(fd):
                self._advance(caller)
        now_s = time.monotonic()
        for caller in [caller for caller in self._callers.values() if caller.deadline_s <= now_s]:
            self._drop(caller, TimeoutError(f"it did not say hello within {_HELLO_S:g} s"))

    def close(self) -> None:
        """Close all connections."""
        for caller in self._callers.values():
            caller.sock.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the peer may be gone again
            plain, address = self._listener.accept()
            plain.setblocking(False)
            with plain:  # `wrap_socket` takes over the descriptor if it succeeds
                sock = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            if len(self._callers) == _MAX_CALLERS:
                self._drop(next(iter(self._callers.values())), TimeoutError("too many came at once"))
            caller = self._callers[sock.fileno()] = _Caller(sock, format_address(address[:2]))
            self._poll.register(sock, select.POLLIN)
            self._advance(caller)

    def _advance(self, caller: _Caller) -> None:
        try:
            key = caller.advance()
        except ssl.SSLWantReadError:
            self._poll.modify(caller.sock, select.POLLIN)
        except ssl.SSLWantWriteError:
            self._poll.modify(caller.sock, select.POLLOUT)
        except (OSError, RemoteProtocolError) as error:
            self._drop(caller, error)
        else:
            self._forget(caller)
            try:
                self._admit(key, caller.sock)
            except OSError as error:
                self._refuse(caller.peer, error)
                caller.sock.close()

    def _drop(self, caller: _Caller, why: Exception) -> None:
        self._forget(caller)
        self._refuse(caller.peer, why)  # first: when a peer sees that it was refused, the reason is known here
        caller.sock.close()

    def _forget(self, caller: _Caller) -> None:
        self._poll.unregister(caller.sock)
        del self._callers[caller.sock.fileno()]
