"""Starts and ends the servers of models as `core.residency` decides, and gives calls their server."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol, assert_never

from shoal.core.residency import (
    AdmitCall,
    CallEnded,
    CallId,
    LoadFailed,
    LoadModel,
    ModelLoaded,
    ModelPhase,
    ModelUnloaded,
    ModelWanted,
    RefuseCall,
    Residency,
    ResidencyEvent,
    TimePassed,
    UnloadModel,
)
from shoal.errors import ShoalError, WorkerLost

_logger = logging.getLogger("shoal.server")


class ModelServer(Protocol):
    """A server of one model."""

    @property
    def url(self) -> str:
        """The URL at which it accepts requests."""
        ...

    async def wait(self) -> int:
        """Wait until it has ended. Returns its exit status."""
        ...

    async def end(self) -> int:
        """End the server. Returns its exit status."""
        ...


class ServerEnded(WorkerLost):
    """A model's server ended just as a call was forwarded to it."""


class ServerKilled(WorkerLost):
    """A model's server was killed before it accepted requests, which is not the model's fault."""


class Switchboard:
    """The servers of all models. Belongs to the running event loop."""

    def __init__(
        self,
        names: Sequence[str],
        start: Callable[[str], Awaitable[ModelServer]],
        *,
        max_loaded: int | None = None,
        idle_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            names: of the models.
            start: starts a model's server and waits until it accepts requests. Raises ShoalError; ServerKilled: another
                attempt may succeed.
            max_loaded: see `Residency`.
            idle_s: see `Residency`.
            clock: monotonic seconds.
        """
        self.names = tuple(names)
        self.residency = Residency(names, max_loaded=max_loaded, idle_s=idle_s)
        """May be read, but not changed."""
        self._start, self._clock = start, clock
        self._calls = itertools.count()
        self._admitted: dict[CallId, asyncio.Future[None]] = {}
        self._servers: dict[str, ModelServer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def servers(self) -> dict[str, ModelServer]:
        """The servers that accept requests now, by their models' names."""
        ready = (name for name in self.names if self.residency.phase(name) is ModelPhase.READY)
        return {name: self._servers[name] for name in ready}

    @asynccontextmanager
    async def use(self, name: str) -> AsyncGenerator[ModelServer, None]:
        """The server of a model, which stays while the block runs unless it breaks.

        Raises:
            ServerEnded: the server was started, but has ended since.
            WorkerLost: the server cannot be started.
        """
        call = CallId(next(self._calls))
        admitted = self._admitted[call] = asyncio.get_running_loop().create_future()
        try:
            self._tell(ModelWanted(call=call, name=name))
            await admitted
            if (server := self._servers.get(name)) is None:
                raise ServerEnded(f"the server of {name} has ended")
            yield server
        finally:
            del self._admitted[call]
            self._tell(CallEnded(call=call, name=name))

    async def load_all(self) -> str | None:
        """Start as many servers as may run at once, in order. Returns why none can be started; None if one was."""
        reason = ""
        for name in self.names:
            if self.residency.has_room:
                try:
                    async with self.use(name):
                        pass
                except WorkerLost as error:
                    reason = f"{name}: {error}"
        return None if self.servers else reason

    async def close(self) -> None:
        """End all servers."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.end() for server in self._servers.values()))
        self._servers.clear()

    def _tell(self, event: ResidencyEvent) -> None:
        for effect in self.residency.handle(event, self._clock()):
            match effect:
                case AdmitCall(call=call):
                    self._settle(call, None)
                case RefuseCall(call=call, reason=reason):
                    self._settle(call, WorkerLost(reason))
                case LoadModel(name=name):
                    self._spawn(self._load(name))
                case UnloadModel(name=name):
                    self._spawn(self._unload(name))
                case _:
                    assert_never(effect)
        self._set_timer()

    def _settle(self, call: CallId, error: WorkerLost | None) -> None:
        admitted = self._admitted.get(call)
        if admitted is None or admitted.done():  # its client has disconnected in the meantime
            return
        if error is None:
            admitted.set_result(None)
        else:
            admitted.set_exception(error)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, name: str) -> None:
        _logger.info("model %s is being loaded", name)
        try:
            server = await self._start(name)
        except ShoalError as error:
            _logger.error("model %s cannot be loaded: %s", name, error)
            self._tell(LoadFailed(name=name, reason=str(error), may_succeed=isinstance(error, ServerKilled)))
            return
        except Exception as error:  # calls that wait for the model must get an error, whatever it is
            _logger.exception("model %s cannot be loaded", name)
            self._tell(LoadFailed(name=name, reason=f"internal error: {type(error).__name__}: {error}"))
            return
        self._servers[name] = server
        self._tell(ModelLoaded(name=name))
        status = await server.wait()
        if self.residency.phase(name) is ModelPhase.READY:
            _logger.error("the server of model %s has ended with status %s", name, status)
        del self._servers[name]
        self._tell(ModelUnloaded(name=name))

    async def _unload(self, name: str) -> None:
        """`_load`, which waits for the server's end, does the rest."""
        _logger.info("model %s is being unloaded", name)
        await self._servers[name].end()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_s = self.residency.wake_s()
        if wake_s is not None:
            with suppress(RuntimeError):  # the loop is being closed
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(max(0.0, wake_s - self._clock()), self._tell, TimePassed())
