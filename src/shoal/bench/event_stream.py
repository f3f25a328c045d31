"""A small HTTP/1.1 client for server-sent events.

The load generator shares its machine with the server that it measures, so receiving a token must be cheap: it takes
only the C parser of httptools and one scan for line ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from shoal.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The parsed address to which requests are sent."""

    host: str
    port: int
    path: str
    tls: bool


def parse_endpoint(base_url: str, path: str) -> Endpoint:
    """The endpoint `path` below a base URL that may end in /v1. Raises ConfigError if the URL is invalid."""
    parts = urlsplit(base_url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ConfigError(f"--base-url {base_url!r} is not an address like http://127.0.0.1:8000")
    tls = parts.scheme == "https"
    root = parts.path.rstrip("/").removesuffix("/v1")
    return Endpoint(host=parts.hostname, port=port or (443 if tls else 80), path=root + path, tls=tls)


class _EventReader(asyncio.Protocol):
    """Reads one response and passes on the data of every event with the arrival time of its bytes."""

    def __init__(self, on_event: Callable[[bytes, float], None]) -> None:
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        """The status, and the body if it is not a stream."""
        self._on_event = on_event
        self._parser = httptools.HttpResponseParser(self)
        self._received_s = 0.0
        self._rest = b""
        self._is_stream = False
        self._body = bytearray()

    def data_received(self, data: bytes) -> None:
        self._received_s = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            cause = error.__context__  # set if `on_event` raised
            self._fail(cause if isinstance(cause, Exception) else ConnectionError(f"not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the server closed the connection"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._is_stream = value.startswith(b"text/event-stream")

    def on_body(self, body: bytes) -> None:
        if not self._is_stream:
            self._body += body
            return
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._on_event(line[5:].strip(), self._received_s)

    def on_message_complete(self) -> None:
        if not self.done.done():
            self.done.set_result((self._parser.get_status_code(), bytes(self._body)))

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


async def post_for_events(
    endpoint: Endpoint, body: bytes, *, api_key: str | None, on_event: Callable[[bytes, float], None]
) -> tuple[int, bytes]:
    """Post JSON on a new connection and read the answer to its end.

    Args:
        on_event: called with the data of each event and the `time.perf_counter` of its arrival.

    Returns:
        The status, and the body if it is not a stream of events.

    Raises:
        OSError: the server cannot be reached, or closed the connection early.
    """
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(
        lambda: _EventReader(on_event), endpoint.host, endpoint.port, ssl=endpoint.tls or None
    )
    try:
        transport.write(_head(endpoint, len(body), api_key) + body)
        return await reader.done
    finally:
        transport.close()


def _head(endpoint: Endpoint, num_body_bytes: int, api_key: str | None) -> bytes:
    lines = [
        f"POST {endpoint.path} HTTP/1.1",
        f"Host: {endpoint.host}:{endpoint.port}",
        "Content-Type: application/json",
        f"Content-Length: {num_body_bytes}",
        "Connection: close",
    ]
    if api_key:
        lines.append(f"Authorization: Bearer {api_key}")
    return "\r\n".join([*lines, "", ""]).encode()
