"""What one connection may send, hold and wait for, without a socket; and framing, with one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Generator
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from shoal.server.http.connection_pace import (
    BODY_GRACE_S,
    BODY_WINDOW_BYTES,
    BODY_WINDOW_S,
    HEAD_TIMEOUT_S,
    MIN_BODY_BYTES_PER_S,
    UNREAD_TIMEOUT_S,
)
from shoal.server.http.http_protocol import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    MAX_UNWANTED_BYTES,
    BoundedConfig,
    BoundedProtocol,
    ConnectionLimits,
)
from tests.server.fakes import FakeEngine
from tests.server.hostile_requests import send_raw
from tests.server.running_server import RunningServer, run_server

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written = b""
        self.unread_bytes = 0
        self.is_closed = self.is_aborted = self.is_paused = False

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


async def never(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def loop() -> Generator[asyncio.AbstractEventLoop, None, None]:
    """Not running: tasks that the protocol makes do not begin."""
    loop = asyncio.new_event_loop()
    yield loop
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


class Connection:
    def __init__(self, loop: asyncio.AbstractEventLoop, state: ServerState | None = None, limit: int = 9) -> None:
        config = BoundedConfig(
            never, limits=ConnectionLimits(max_connections=limit), ws="none", lifespan="off", log_level="error"
        )
        config.load()
        self.protocol = BoundedProtocol(config, state or ServerState(), {}, loop)
        self.transport = FakeTransport()
        self.protocol.connection_made(self.transport)
        self.begun_s = self.protocol._pace.request_s

    def send(self, data: bytes) -> Connection:
        self.protocol.data_received(data)
        return self

    def after(self, seconds: float) -> Connection:
        self.protocol.sweep(self.begun_s + seconds)
        return self

    @property
    def status(self) -> int | None:
        """Of the refusal; None: there was none."""
        assert self.transport.is_closed == self.transport.written.startswith(b"HTTP/1.1 ")
        return int(self.transport.written[9:12]) if self.transport.written else None


@pytest.fixture
def connection(loop: asyncio.AbstractEventLoop) -> Connection:
    return Connection(loop)


def test_connections_beyond_the_bound_are_told_so(loop: asyncio.AbstractEventLoop) -> None:
    state = ServerState()
    statuses = [Connection(loop, state, limit=2).status for _ in range(3)]
    assert statuses == [None, None, 503]


@pytest.mark.parametrize("size", [1 << 10, 1 << 20])
@pytest.mark.parametrize(
    ("start", "filling", "status"),
    [
        (b"GET /", b"a", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: ", b"a", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"a: bcdef\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"a", 431),
        (b"", b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: ", b"a", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a", 431),
    ],
)
def test_what_is_no_body_is_bounded(
    connection: Connection, start: bytes, filling: bytes, status: int, size: int
) -> None:
    connection.send(start)
    for _ in range(2 * MAX_HEAD_BYTES // size + 2):
        connection.send(filling * (size // len(filling)))
    assert connection.status == status


@pytest.mark.parametrize("extra", [0, 1])
def test_the_number_of_headers_is_bounded(connection: Connection, extra: int) -> None:
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * (MAX_HEADERS - 1 + extra) + b"\r\n")
    assert connection.status == (431 if extra else None)


@pytest.mark.parametrize("extra", [0, 1])
def test_pipelined_requests_are_bounded(connection: Connection, extra: int) -> None:
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * (1 + MAX_PIPELINED + extra))
    assert connection.status == (400 if extra else None)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /", 505),
        (b"GET / HTTP/2.0", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM", 400),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.0", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a", 400),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1e9", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: x", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
def test_heads_that_mean_nothing_certain(connection: Connection, head: bytes, status: int | None) -> None:
    assert connection.send(head + b"\r\n\r\n").status == status


def test_the_urls_host_is_the_requests(connection: Connection) -> None:
    connection.send(b"GET http://u:p@evil.com:8/x?y HTTP/1.1\r\nHost: localhost\r\na: b\r\n\r\n")
    scope = connection.protocol.cycle.scope
    assert scope["headers"] == [(b"a", b"b"), (b"host", b"evil.com:8")]
    assert scope["path"] == "/x"


def test_trailers_do_not_become_headers(connection: Connection) -> None:
    connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n")
    assert [value for name, value in connection.protocol.cycle.scope["headers"] if name == b"host"] == [b"a"]


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_headers_have_a_deadline(connection: Connection, sent: bytes) -> None:
    if sent:
        connection.send(sent)
    assert connection.after(HEAD_TIMEOUT_S - 1).status is None
    assert connection.after(HEAD_TIMEOUT_S + 1).status == 408


def test_an_answer_has_no_deadline(connection: Connection) -> None:
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n")
    assert connection.after(1e6).after(2e6).status is None


def test_a_body_must_come_on(connection: Connection) -> None:
    connection.send(HEAD)
    assert connection.after(BODY_WINDOW_S - 1).status is None
    connection.send(b"a" * BODY_WINDOW_BYTES)
    assert connection.after(BODY_WINDOW_S + 1).status is None
    connection.send(b"a" * 10)
    assert connection.after(2 * BODY_WINDOW_S + 3).status == 408


def test_a_body_that_the_server_does_not_read_is_not_late(connection: Connection) -> None:
    connection.send(HEAD + b"a" * 100_000)
    assert connection.transport.is_paused
    assert connection.after(BODY_WINDOW_S + 1).after(3 * BODY_WINDOW_S).status is None


def test_a_client_that_reads_nothing_is_cut_off(connection: Connection) -> None:
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.transport.unread_bytes = 100
    connection.after(1).after(UNREAD_TIMEOUT_S)
    connection.transport.unread_bytes = 99
    connection.after(UNREAD_TIMEOUT_S + 2).after(2 * UNREAD_TIMEOUT_S)
    assert not connection.transport.is_aborted
    connection.after(2 * UNREAD_TIMEOUT_S + 3)
    assert connection.transport.is_aborted


def test_a_refused_body_is_not_read_for_ever(connection: Connection) -> None:
    connection.send(HEAD.replace(b"1000000", b"1000000000"))
    connection.protocol.cycle.response_complete = True
    for _ in range(MAX_UNWANTED_BYTES >> 18):
        connection.send(b"a" * (1 << 18))
    assert not connection.transport.is_closed
    connection.send(b"a")
    assert connection.transport.is_closed


def test_an_unbounded_config_is_bounded_too(loop: asyncio.AbstractEventLoop) -> None:
    config = uvicorn.Config(never, ws="none", lifespan="off", log_level="error")
    config.load()
    assert BoundedProtocol(config, ServerState(), {}, loop)._limits.max_connections < math.inf


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    with run_server(FakeEngine()) as running:
        yield running


@pytest.mark.parametrize("is_stream", [False, True])
def test_http_1_0_has_no_chunks(server: RunningServer, is_stream: bool) -> None:
    body = b'{"prompt":"{abc}","stream":%s}' % (b"true" if is_stream else b"false")
    request = b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    head, _, answer = send_raw(server.url, request).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"connection: close" in head
    if is_stream:
        assert answer.startswith(b"data: {")
        assert answer.endswith(b"data: [DONE]\n\n")
    else:
        assert b"content-length: %d" % len(answer) in head


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_an_upgrade_is_not_taken_up(server: RunningServer, upgrade: str) -> None:
    headers = {"connection": "upgrade", "upgrade": upgrade}
    response = httpx.get(f"{server.url}/version", headers=headers)
    assert response.status_code == 200


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
"""As Java's HttpClient sends it. Source: JDK, jdk.internal.net.http.Exchange."""


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("piece_bytes", [1, 50, 1 << 20])
def test_a_request_that_asks_for_http_2_keeps_its_body_and_the_connection(
    connection: Connection, framing: str, piece_bytes: int
) -> None:
    framed = (
        b"Content-Length: 4\r\n\r\nbody"
        if framing == "length"
        else (b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n")
    )
    sent = b"POST /x HTTP/1.1\r\nHost: a\r\n" + UPGRADE + framed
    for first in range(0, len(sent), piece_bytes):
        connection.send(sent[first : first + piece_bytes])
    cycle = connection.protocol.cycle
    assert (bytes(cycle.body), cycle.more_body, cycle.keep_alive) == (b"body", False, True)
    assert (b"host", b"a") in cycle.scope["headers"]
    assert connection.status is None


def test_many_requests_for_http_2_at_once_are_refused_as_others_are(connection: Connection) -> None:
    connection.send((b"GET /x HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n") * 400)
    assert connection.status == 400


def test_an_upgrade_changes_no_other_bound(connection: Connection) -> None:
    connection.send(b"POST /x HTTP/1.1\r\n" + UPGRADE + b"Content-Length: 4\r\n\r\nbody")
    assert connection.status == 400  # it names no host


def test_a_body_that_drips_is_given_up_before_long(connection: Connection) -> None:
    connection.send(HEAD)
    seconds = 0.0
    while connection.status is None:
        seconds += BODY_WINDOW_S + 1
        connection.send(b"a" * BODY_WINDOW_BYTES).after(seconds)
    assert connection.status == 408
    assert BODY_GRACE_S < seconds < BODY_GRACE_S + 2 * BODY_WINDOW_S


def test_a_large_body_has_the_time_that_it_takes(connection: Connection) -> None:
    connection.send(HEAD.replace(b"1000000", b"1000000000"))
    for seconds in range(10, 500, 10):
        connection.send(b"a" * (10 * MIN_BODY_BYTES_PER_S))
        connection.protocol.flow.read_paused = False
        connection.protocol.cycle.body.clear()
        assert connection.after(seconds).status is None
