"""Runs an app on a socket until a signal comes or its workers are gone."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

import uvicorn
from starlette.applications import Starlette

from shoal.errors import ConfigError, WorkerLost

GRACEFUL_TIMEOUT_S = 20
"""Open requests may take this long after a signal. Kubernetes kills 30 s after it."""

KEEP_ALIVE_S = 75
"""Longer than the 60 s after which common proxies drop idle connections, so that they close first and not in the
middle of a request."""


class Mortal(Protocol):
    """What an app depends on to do any work: `app.state.mortal`."""

    on_death: Callable[[str], None] | None
    """called once, in the event loop, with the reason for which no more work can be done"""


def bind(host: str, port: int) -> socket.socket:
    """A listening address, taken before anything slow begins. Port 0 picks a free one.

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


def serve_app(app: Starlette, sock: socket.socket, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish open requests and return.

    Args:
        app: from `create_app` or `create_graph_app`.
        sock: from `bind`; closed at the end.
        on_ready: called with the URL once requests are taken.

    Raises:
        WorkerLost: the workers are gone; requests have ended with errors.
    """
    mortal: Mortal = app.state.mortal
    server = AppServer(app, on_started=lambda: on_ready(url_of(sock)) if on_ready else None)
    deaths: list[str] = []

    def stop(reason: str) -> None:
        deaths.append(reason)
        server.should_exit = True

    mortal.on_death = stop
    with _signals_not_raised_again():
        server.run(sockets=[sock])
    if deaths:
        raise WorkerLost(deaths[0])


def url_of(sock: socket.socket) -> str:
    """Where clients on this machine reach a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class AppServer(uvicorn.Server):
    """uvicorn, set up for one app; `on_started` is called in its event loop once requests are taken."""

    def __init__(self, app: Starlette, *, on_started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACEFUL_TIMEOUT_S,
        )
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_started()


@contextmanager
def _signals_not_raised_again() -> Generator[None, None, None]:
    """uvicorn raises the signal that ended it once more, for whoever handled it before: here nobody is to die of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
