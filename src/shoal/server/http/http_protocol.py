"""One HTTP connection, with a bound on everything that a client can make it store or wait for.

uvicorn's httptools protocol limits neither headers, URLs, trailers, pipelined requests nor the time that any of them
takes, and frames streams as in HTTP/1.1 whatever version the client uses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shoal.server.http.connection_pace import ConnectionPace

MAX_HEAD_BYTES = 1 << 16
"""Most bytes of request line and headers together, and of everything else in a request that is not its body. Source:
the limit of h11, uvicorn's other parser."""
MAX_HEADERS = 256
"""A judgment: browsers behind several proxies send about 50."""
MAX_PIPELINED = 16
"""Most requests that wait on one connection behind the one that is being answered. A judgment: few clients pipeline at
all, and each of these requests costs memory before its turn."""
MAX_UNWANTED_BYTES = 16 << 20
"""Bytes of a refused body that are still read, since the answer may be lost if the connection is closed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds that depend on the server."""

    max_connections: int = 4_096
    """Further connections are answered with 503 and closed, >= 1."""


class _Refusal(Exception):
    """The request cannot be accepted; the connection is closed after the answer."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Head:
    """Size of the present request's headers so far."""

    num_bytes: int = 0
    num_headers: int = 0
    hosts: list[bytes] = field(default_factory=list[bytes])


class BoundedProtocol(HttpToolsProtocol):
    """Its parent with bounds. `sweep` must be called about once a second."""

    def __init__(self, config: uvicorn.Config, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits if isinstance(config, BoundedConfig) else ConnectionLimits()
        self._pace = ConnectionPace(time.monotonic())
        self._head = _Head()
        self._idle_bytes = 0
        self._unwanted_bytes = 0
        self._data = b""
        """The data that are being parsed."""
        self._is_upgrade = False
        """Whether the present request asks for another protocol; the parser then does not read its body."""
        self._refusal: _Refusal | None = None
        self.url = b""

    def connection_made(self, transport: Any) -> None:
        """Accept the connection, or refuse it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(_Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the server has too many connections: try later"))

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, as long as the connection is not refused."""
        if self.transport.is_closing():
            return
        if self._pace.is_idle:
            self._pace.begin_request(time.monotonic())
        self._idle_bytes += len(data)
        self._parse(data)
        if self.transport.is_closing():
            return
        if self._idle_bytes > MAX_HEAD_BYTES:
            self._refuse(self._too_long())
        elif self._unwanted_bytes > MAX_UNWANTED_BYTES:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed, or was refused during parsing."""
        self._refuse(self._refusal or _Refusal(HTTPStatus.BAD_REQUEST, "this is not an HTTP request"))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = _Head()

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        super().on_url(url)
        self._count(len(url), 0)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer. Trailers are ignored, since headers have been processed by then."""
        self._count(len(name) + len(value), 1)
        if self._pace.is_in_body:
            return
        if name.lower() == b"host":
            self._head.hosts.append(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body begins, and the request is passed to the app."""
        assert self.parser is not None
        self._is_upgrade = self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers)
        if self._is_upgrade:
            return
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            message = f"HTTP/{version} is not spoken here"
            raise self._refused(_Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, message))
        self._settle_host(may_miss=version == "1.0")
        if len(self.pipeline) >= MAX_PIPELINED:
            message = f"more than {MAX_PIPELINED} requests wait on this connection"
            raise self._refused(_Refusal(HTTPStatus.BAD_REQUEST, message))
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            _answer_unframed(self.cycle)
        if self.parser.should_upgrade():  # no other protocol is supported, but the parser reads no further
            self.cycle.keep_alive = False
        self._pace.begin_body(time.monotonic())

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._idle_bytes = 0
        self._pace.take_body(len(body))
        if self.cycle.response_complete:
            self._unwanted_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._is_upgrade:
            return
        self._idle_bytes = 0
        self._unwanted_bytes = 0
        self._pace.end_body()
        super().on_message_complete()

    def sweep(self, now_s: float) -> None:
        """Close the connection if its client has been too slow."""
        if self._pace.is_unread(self.transport.get_write_buffer_size(), now_s):
            self.transport.abort()
        elif not self.transport.is_closing():
            late = self._pace.lateness(now_s, is_paused=self.flow.read_paused, is_answering=self._is_answering)
            if late is not None:
                self._refuse(_Refusal(HTTPStatus.REQUEST_TIMEOUT, late))

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def _count(self, num_bytes: int, num_headers: int) -> None:
        head = self._head
        head.num_bytes += num_bytes
        head.num_headers += num_headers
        if head.num_bytes > MAX_HEAD_BYTES or head.num_headers > MAX_HEADERS:
            raise self._refused(self._too_long())

    def _too_long(self) -> _Refusal:
        if self._pace.awaits_headers and not self._head.num_headers and len(self.url) > 1:
            return _Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, f"the URL has more than {MAX_HEAD_BYTES} bytes")
        message = f"the headers have more than {MAX_HEAD_BYTES} bytes, or there are more than {MAX_HEADERS}"
        return _Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)

    def _refused(self, refusal: _Refusal) -> _Refusal:
        """The exception to raise in the parser's callbacks, which pass on only that there was one."""
        self._refusal = refusal
        return refusal

    def _refuse(self, refusal: _Refusal) -> None:
        """Answer at once and close. An answer that is being written is cut off, since its client does not speak HTTP
        correctly."""
        if not self._is_answering or not self.cycle.response_started:
            message = f"{refusal}\n".encode()
            head = (
                f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}",
                "content-type: text/plain; charset=utf-8",
                f"content-length: {len(message)}",
                "connection: close",
            )
            self.transport.write("\r\n".join([*head, "", ""]).encode() + message)
        if self._is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _settle_host(self, *, may_miss: bool) -> None:
        """Check that the request has one host, which is the URL's if that names one. Source: RFC 9112, sections 3.2 and
        3.2.2."""
        hosts = self._head.hosts
        if len(hosts) > 1 or not (hosts or may_miss):
            raise self._refused(_Refusal(HTTPStatus.BAD_REQUEST, "a request has one Host header"))
        if self.url.startswith(b"/") or self.url == b"*":
            return
        scheme, _, rest = self.url.partition(b"://")
        if scheme.lower() not in (b"http", b"https") or not rest:
            raise self._refused(_Refusal(HTTPStatus.BAD_REQUEST, "the URL is neither a path nor one of HTTP"))
        host = rest.partition(b"/")[0].partition(b"?")[0].rpartition(b"@")[2]
        self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"] + [(b"host", host)]

    def _parse(self, data: bytes) -> None:
        self._data = data
        super().data_received(data)

    def _unsupported_upgrade_warning(self) -> None:
        """The parser has stopped after the headers of a request that asks for another protocol. A server may ignore
        that (RFC 9110, section 7.8), so the request is parsed again without it: Java's client asks for h2c with its
        first request, whatever its body."""
        error = sys.exception()
        if not self._is_upgrade or not isinstance(error, httptools.HttpParserUpgrade):
            return
        rest = self._data[error.args[0] :]
        old, self._is_upgrade = self.parser, False
        assert old is not None
        lines = [b"%b %b HTTP/%b" % (old.get_method(), self.url, old.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        with suppress(AttributeError):  # as in its parent: httptools before 0.6.3
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(b"\r\n".join([*lines, b"", b""]) + rest)


class BoundedConfig(uvicorn.Config):
    """uvicorn's configuration, with bounds for its connections."""

    def __init__(self, app: Any, *, limits: ConnectionLimits, **given: Any) -> None:
        super().__init__(app, http=BoundedProtocol, **given)
        self.limits = limits


def _answer_unframed(cycle: RequestResponseCycle) -> None:
    """Let an answer of unknown length to HTTP/1.0 end with the connection. Source: RFC 9112, section 6.3.

    uvicorn would frame it in chunks, which such clients read as text.
    """
    send = cycle.send

    async def send_unframed(message: MutableMapping[str, Any]) -> None:
        is_start = message["type"] == "http.response.start"
        if is_start and not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
            cycle.chunked_encoding = False
            cycle.expected_content_length = _ANY_LENGTH
        elif not is_start and cycle.expected_content_length > _ANY_LENGTH // 2 and not message.get("more_body", False):
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)  # pyright: ignore[reportArgumentType]

    cycle.send = send_unframed  # pyright: ignore[reportAttributeAccessIssue]


_ANY_LENGTH = 1 << 62
"""A length that no answer reaches, which uvicorn is given if the length is unknown."""
