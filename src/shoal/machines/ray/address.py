"""The address of the Ray cluster from `RAY_ADDRESS`. It is checked first, as Ray would try a wrong one for minutes."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack

from shoal.comm.tls.tls_link import Address, format_address
from shoal.errors import ConfigError

VARIABLE = "RAY_ADDRESS"
AUTO = "auto"
_TIMEOUT_S = 3.0
"""Longest wait for another machine to accept a connection; one lost packet costs 1 s."""
_AGAIN_S = 0.25
"""Seconds between two parallel attempts. A single one would repeat a lost packet only after 1 s: RFC 6298, 2."""
_LAST_PORT = 65_535
_MAX_PORT_DIGITS = 5
_EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""A frame of HTTP/2: length 0, type 4, no flags, stream 0."""
HOW_TO_START = "start one with: ray start --head, and on every other machine: ray start --address HEAD:6379"


def read_ray_address(environ: Mapping[str, str]) -> Address | None:
    """The address of Ray's head; None: the cluster that runs on this machine. Raises ConfigError if it is invalid."""
    text = environ.get(VARIABLE, "").strip()
    if text in ("", AUTO):
        return None
    if text == "local":
        raise ConfigError(f"{VARIABLE}=local would start a Ray of its own, on this machine: leave out --cluster ray")
    scheme, separator, rest = text.partition("://")
    if separator:
        raise ConfigError(
            f"{VARIABLE}={text}: give HOST:PORT of Ray's head, not {scheme}:// (such as {_host_of(rest)}:6379)"
        )
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not is_bracketed:
        raise ConfigError(f"{VARIABLE}={text}: put an IPv6 address into brackets, such as [fd00::1]:6379")
    if not host.strip("[]") or not (port.isascii() and port.isdigit()):
        raise ConfigError(f"{VARIABLE}={text}: give HOST:PORT, such as {_host_of(text)}:6379")
    if len(port) > _MAX_PORT_DIGITS or not 1 <= int(port) <= _LAST_PORT:
        raise ConfigError(f"{VARIABLE}={text}: a port is a number from 1 to {_LAST_PORT}")
    return (host[1:-1] if is_bracketed else host, int(port))


def check_that_a_head_listens(address: Address, *, is_tls: bool) -> None:
    """Raises ConfigError if nothing listens there, or something other than a Ray head. Ray would try for minutes.

    Args:
        address: the address of the head.
        is_tls: whether the head uses TLS; its protocol is then not checked.
    """
    where = f"{VARIABLE}={format_address(address)}"
    try:
        with socket.create_connection(address, timeout=_TIMEOUT_S) as sock:
            if not is_tls and not _speaks_http2(sock):
                raise ConfigError(f"{where}: the program that listens there is not a Ray head")
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"{where}: the name is not known") from None
    except TimeoutError:
        raise ConfigError(
            f"{where} does not answer: check that it is Ray's head and that no firewall blocks its port"
        ) from None
    except OSError as error:
        reason = "nobody listens there" if isinstance(error, ConnectionRefusedError) else error.strerror or str(error)
        raise ConfigError(f"{where}: {reason}; if no Ray cluster runs, {HOW_TO_START}") from None


def _speaks_http2(sock: socket.socket) -> bool:
    """Whether the server speaks HTTP/2, as Ray's head does. Source: RFC 9113, 3.4, 4.1 and 6.5. Raises OSError."""
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _EMPTY_SETTINGS)
    try:
        header = sock.recv(len(_EMPTY_SETTINGS), socket.MSG_WAITALL)
    except (ConnectionResetError, TimeoutError):
        return False
    return len(header) == len(_EMPTY_SETTINGS) and header[3] == _EMPTY_SETTINGS[3]


def can_be_reached(address: Address, timeout_s: float = _TIMEOUT_S) -> bool:
    """Whether the machine accepts a connection at that port within `timeout_s`."""
    try:
        socket.create_connection(address, timeout=timeout_s).close()
    except (OSError, UnicodeError):
        return False
    return True


def can_be_reached_soon(address: Address, timeout_s: float) -> bool:
    """As `can_be_reached`, but a lost packet costs little time, as further connections are tried meanwhile."""
    deadline_s = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as waiting, ExitStack() as attempts:
        try:
            family, kind, number, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
            while (left_s := deadline_s - time.monotonic()) > 0:
                attempt = attempts.enter_context(socket.socket(family, kind, number))
                attempt.setblocking(False)
                attempt.connect_ex(where)
                waiting.register(attempt, selectors.EVENT_WRITE)
                for key, _ in waiting.select(min(left_s, _AGAIN_S)):
                    assert isinstance(key.fileobj, socket.socket)
                    return key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        except (OSError, UnicodeError):
            return False
    return False


def _host_of(text: str) -> str:
    """The part of the text that may be a host, for an example in a message."""
    return text.partition(":")[0].strip("[]/") or "HOST"
