"""Runs an app on a socket until a signal arrives or its workers are gone."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol, cast

import uvicorn
from starlette.applications import Starlette

from shoal.errors import ConfigError, WorkerLost
from shoal.server.http.connection_pace import HEAD_TIMEOUT_S
from shoal.server.http.descriptors import max_connections
from shoal.server.http.draining import DRAIN_TIMEOUT_S, Drain
from shoal.server.http.http_protocol import BoundedConfig, BoundedProtocol, ConnectionLimits
from shoal.server.http.request_log import RequestLog
from shoal.server.http.tls import TlsFiles

CUT_OFF_S = 2
"""Time for sending the errors of requests that did not finish in time."""

KEEP_ALIVE_S = 75
"""Longer than the 60 s after which common proxies drop idle connections, so that they close first, and not in the
middle of a request."""


_logger = logging.getLogger("shoal.server")

_STDERR_FD = 2

STUCK_S = 4.0
"""Time in addition to that for draining: what closing the workers may take, and less than Kubernetes waits by
default."""

_TICKS_PER_SWEEP = 10
"""uvicorn ticks ten times a second; connections are checked once a second."""


class Backend(Protocol):
    """What an app needs in order to work: `app.state.backend`."""

    on_death: Callable[[str], None] | None
    """Called once, in the event loop, with the reason why no more work can be done."""

    async def close(self) -> None:
        """End all work; open requests end with an error. Idempotent."""
        ...


def bind(host: str, port: int) -> socket.socket:
    """Bind a listening socket, before anything slow begins. Port 0 means any free port.

    Raises:
        ConfigError: the address is unknown, in use or not allowed.
    """
    if not 0 <= port < 65_536:
        raise ConfigError(f"cannot listen on port {port}: choose a --port from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {host}: {error}: choose another --host") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}: choose another --port") from error
    return sock


def serve_app(
    app: Starlette,
    sock: socket.socket,
    *,
    tls: TlsFiles | None = None,
    on_ready: Callable[[str], None] | None = None,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    on_drain: Callable[[int], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then refuse new requests, finish the open ones and return.

    Args:
        app: from `create_app` or `create_graph_app`.
        sock: from `bind`; closed at the end.
        tls: from `check_tls`; None: without TLS.
        on_ready: called with the URL once requests are accepted.
        drain_timeout_s: how long open requests may take after the signal. A second signal ends them at once.
        on_drain: called with their number after the signal, if there are any.

    Raises:
        WorkerLost: the workers are gone; requests have ended with errors.
    """
    server = AppServer(
        app,
        tls=tls,
        on_started=lambda: on_ready(url_of(sock, tls)) if on_ready else None,
        drain_timeout_s=drain_timeout_s,
        on_drain=on_drain,
    )
    deaths: list[str] = []

    def stop(reason: str) -> None:
        deaths.append(reason)
        server.should_exit = True

    backend: Backend = app.state.backend
    backend.on_death = stop
    server.run(sockets=[sock])
    if deaths:
        raise WorkerLost(deaths[0])


def url_of(sock: socket.socket, tls: TlsFiles | None = None) -> str:
    """The URL at which clients on this machine reach a listening socket."""
    host, port = sock.getsockname()[:2]
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class AppServer(uvicorn.Server):
    """uvicorn, configured for one app. Its listeners stay open while it drains, so that new requests get an answer."""

    def __init__(
        self,
        app: Starlette,
        *,
        on_started: Callable[[], None],
        tls: TlsFiles | None = None,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
        on_drain: Callable[[int], None] | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """As `serve_app`; `on_started` is called in the event loop once requests are accepted."""
        config = BoundedConfig(
            RequestLog(app),
            limits=limits or ConnectionLimits(max_connections=max_connections()),
            ssl_certfile=tls and tls.cert,
            ssl_keyfile=tls and tls.key,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",  # anything that clients can provoke is not logged
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CUT_OFF_S,
        )
        super().__init__(config)
        self._on_started = on_started
        self._on_drain = on_drain
        self._drain_timeout_s = drain_timeout_s
        self._drained_by_s: float | None = None
        self._drain: Drain = app.state.drain
        self._backend: Backend = app.state.backend

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start and listen, then call `on_started`."""
        await super().startup([])
        if self.started:
            loop = asyncio.get_running_loop()
            for sock in sockets or ():
                self.servers.append(await self._listen(loop, sock))
            if not self._drain.is_on:  # a signal may have arrived in the meantime
                self._on_started()

    async def _listen(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> asyncio.Server:
        """Listen as uvicorn does, but close connections whose TLS handshake never ends."""

        def accept() -> BoundedProtocol:
            return BoundedProtocol(self.config, self.server_state, self.lifespan.state, loop)

        handshake_timeout_s = None if self.config.ssl is None else HEAD_TIMEOUT_S
        return await loop.create_server(
            accept,
            sock=sock,
            ssl=self.config.ssl,
            backlog=self.config.backlog,
            ssl_handshake_timeout=handshake_timeout_s,
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has arrived: the first one lets open requests finish, the second ends them, a third kills."""
        if self._drain.is_on:
            self.should_exit = True
            signal.signal(sig, signal.SIG_DFL)
        self._drain.is_on = True
        _logger.info("received signal %d: refusing new requests, %d still open", sig, self._drain.num_open)
        self._expect_ticks()

    async def on_tick(self, counter: int) -> bool:
        """Returns whether to stop; called ten times a second."""
        if self._drain.is_on:
            self._expect_ticks()
        if counter % _TICKS_PER_SWEEP == 0:
            now_s = time.monotonic()
            for connection in list(self.server_state.connections):
                cast(BoundedProtocol, connection).sweep(now_s)
        return await super().on_tick(counter) or self._is_drained()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listeners and end what is left."""
        if self._drain.num_open:
            await self._backend.close()
        try:
            await super().shutdown(sockets)
            _logger.info("the server has shut down")
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _expect_ticks(self) -> None:
        """End the process, and print its stack, if the event loop does not tick within the time for draining: something
        blocks it permanently, and supervisors send only one signal."""
        stderr = sys.__stderr__ or _STDERR_FD
        faulthandler.dump_traceback_later(self._drain_timeout_s + STUCK_S, exit=True, file=stderr)

    def _is_drained(self) -> bool:
        if not self._drain.is_on:
            return False
        now_s, num_open = time.monotonic(), self._drain.num_open
        if self._drained_by_s is None:
            self._drained_by_s = now_s + self._drain_timeout_s
            if num_open and self._on_drain is not None:
                self._on_drain(num_open)
        return not num_open or now_s >= self._drained_by_s
