"""Links between machines, the connecting side: TLS 1.3 over TCP, with a certificate of the cluster at both ends.

One side listens. The other connects and identifies itself in one frame, the hello, by a key that both have been given.
The listener answers with an empty frame. Nothing is read from a peer before its certificate is verified.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shoal.comm.links.socket_link import SocketLink
from shoal.comm.tls.tls_identity import Credentials, connecting_context
from shoal.errors import LocalProtocolError, RemoteProtocolError, WorkerLost

MAX_KEY_BYTES = 256
LENGTH = struct.Struct("<I")
ACCEPTED = LENGTH.pack(0)
Address = tuple[str, int]
"""host, which may be an IPv6 address, and port"""


def connect_tls(address: Address, credentials: Credentials, *, key: str, timeout_s: float) -> SocketLink:
    """Connect to the process that calls `TlsListener.take` with this key at this address.

    Raises:
        WorkerLost: nobody listens there, or answers within timeout_s.
        RemoteProtocolError: the peer belongs to another cluster, does not speak TLS, or refuses the credentials.
        LocalProtocolError: the key is empty or too long.
    """
    return SocketLink(connect_tls_socket(address, credentials, key=key, timeout_s=timeout_s))


def connect_tls_socket(address: Address, credentials: Credentials, *, key: str, timeout_s: float) -> ssl.SSLSocket:
    """As `connect_tls`, but returns the connection itself."""
    hello = key.encode()
    if not 1 <= len(hello) <= MAX_KEY_BYTES:
        raise LocalProtocolError(f"a key of {len(hello)} bytes is not of 1 to {MAX_KEY_BYTES}")
    deadline_s = time.monotonic() + timeout_s
    with _told_apart(address):
        sock = _shake_hands(address, connecting_context(credentials), deadline_s)
        try:
            sock.sendall(LENGTH.pack(len(hello)) + hello)
            _hear_acceptance(sock, deadline_s)
        except BaseException:
            sock.close()
            raise
    return sock


def format_address(address: Address) -> str:
    """`HOST:PORT`, an IPv6 address in brackets. Source: RFC 3986, section 3.2.2."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _told_apart(address: Address) -> Iterator[None]:
    """Turn errors of a connection into errors of links."""
    where = format_address(address)
    try:
        yield
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise WorkerLost(f"{where} has closed the connection: {error}") from error
    except ssl.SSLError as error:
        raise RemoteProtocolError(f"{where} and this process are not of one cluster: {error}") from error
    except OSError as error:
        raise WorkerLost(f"no link to {where}: {error}") from error


def _shake_hands(address: Address, context: ssl.SSLContext, deadline_s: float) -> ssl.SSLSocket:
    plain = socket.create_connection(address, timeout=_left_s(deadline_s))
    try:
        plain.settimeout(_left_s(deadline_s))
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def _hear_acceptance(sock: ssl.SSLSocket, deadline_s: float) -> None:
    heard = b""
    while len(heard) < len(ACCEPTED):
        sock.settimeout(_left_s(deadline_s))
        received = sock.recv(len(ACCEPTED) - len(heard))
        if not received:
            raise ConnectionResetError("closed before it was accepted")
        heard += received
    if heard != ACCEPTED:
        raise RemoteProtocolError("what answers the hello is no listener for links")


def _left_s(deadline_s: float) -> float:
    """Seconds until the deadline, for `settimeout`, and never 0, which has another meaning there."""
    return max(deadline_s - time.monotonic(), 1e-3)
