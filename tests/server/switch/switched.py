"""The real app of several models over servers that a test runs itself."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette

from shoal.errors import WorkerLost
from shoal.server.assembly import AppOptions
from shoal.server.http.serve import AppServer, bind, url_of
from shoal.server.openai.sse import Rhythm
from shoal.server.switch.app import create_switch_app
from shoal.server.switch.switchboard import ServerKilled, Switchboard
from shoal.server.web.routes import PageOptions

KEY, SERVER_KEY = "outside", "inside"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}


@dataclass
class FakeServer:
    """A server of one model that runs in this process. Its end is an event."""

    url: str
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        await self.ended.wait()
        return 0

    async def end(self) -> int:
        self.ended.set()
        return 0


@dataclass
class Models:
    """What is started and what may not start."""

    urls: dict[str, str]
    started: list[str] = field(default_factory=list[str])
    servers: list[FakeServer] = field(default_factory=list[FakeServer])
    broken: set[str] = field(default_factory=set[str])
    error: Exception = field(default_factory=lambda: WorkerLost("no memory"))
    """What starting a broken model raises."""
    dying: range = range(0)
    """which starts bring a server that takes no requests and ends"""
    killed: range = range(0)
    """which starts are killed"""
    gates: dict[str, threading.Event] = field(default_factory=dict[str, threading.Event])
    """models whose start waits until they are set"""

    async def start(self, name: str) -> FakeServer:
        number = len(self.started)
        self.started.append(name)
        if name in self.gates:
            assert await asyncio.to_thread(self.gates[name].wait, 30)
        if number in self.killed:
            raise ServerKilled("killed while it loaded")
        if name in self.broken:
            raise self.error
        self.servers.append(FakeServer(self.urls[name]))
        if number in self.dying:
            self.servers[-1].url = "http://127.0.0.1:9"
            self.servers[-1].ended.set()
        return self.servers[-1]


class NoBackend:
    """Of an application with nothing behind it."""

    on_death = None

    async def close(self) -> None:
        pass


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """The address of any application while the block runs."""
    sock = bind("127.0.0.1", 0)
    started: queue.Queue[None] = queue.Queue()
    server = AppServer(app, on_started=lambda: started.put(None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    url = url_of(sock)
    thread.start()
    try:
        started.get(timeout=30)
        yield url
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def switched(
    models: Models, *, max_loaded: int | None = None, page: PageOptions | None = None, rhythm: Rhythm | None = None
) -> Iterator[str]:
    """The address while the block runs."""
    board = Switchboard([*models.urls], models.start, max_loaded=max_loaded)
    options = AppOptions(api_key=KEY, page=page)
    with running(create_switch_app(board, server_key=SERVER_KEY, options=options, rhythm=rhythm)) as url:
        yield url
    assert all(one.ended.is_set() for one in models.servers)
