"""Runs the engine in one thread of its own and carries its outputs to the event loop.

Commands go through a deque and a wake of the engine; everything a turn produced comes back in a single wake of the
loop, whatever the number of requests it concerns.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never

from shoal.core.request import Output, Request, RequestFinished, RequestId
from shoal.errors import CapacityError, RequestError, ShoalError, WorkerLost
from shoal.server.seams import Engine, EngineStats

TURN_TIMEOUT_S = 60.0
"""Longest wait of one turn. A wake ends it sooner; a long one keeps an idle server off the CPU."""

CLOSE_TIMEOUT_S = 30.0
"""How long closing waits for the engine to stop its workers before the thread is left behind as a daemon."""


class OutputStream:
    """What comes back for the requests of one submission, in order, read by one task of the event loop."""

    def __init__(self, request_ids: Sequence[RequestId]) -> None:
        self.open_ids = set(request_ids)
        """requests that have not ended, as far as the loop knows"""
        self._pending: list[Output] = []
        self._waiter: asyncio.Future[None] | None = None

    async def take(self) -> list[Output]:
        """Everything that came since the last call, at least one output. Not to be called after the last end."""
        if not self._pending:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken, self._pending = self._pending, []
        return taken

    def put(self, output: Output) -> None:
        """Add one output and wake the reader."""
        self._pending.append(output)
        if isinstance(output, RequestFinished):
            self.open_ids.discard(output.request_id)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Submit:
    requests: tuple[Request, ...]
    ack: asyncio.Future[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cancel:
    request_ids: tuple[RequestId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadStats:
    ack: asyncio.Future[EngineStats]


_Command = _Submit | _Cancel | _ReadStats


class EngineThread:
    """The only user of the engine. Its methods belong to the event loop that called `start`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.max_context = engine.stats().max_context
        """longest sequence in tokens"""
        self.failure: str | None = None
        """why the engine can do no more work; None while it can"""
        self._commands: deque[_Command] = deque()
        self._streams: dict[RequestId, OutputStream] = {}
        self._acks: set[asyncio.Future[Any]] = set()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_death: Callable[[str], None] | None = None

    def start(self, *, on_death: Callable[[str], None] | None = None) -> None:
        """Start the thread; `on_death` is called in the running loop, with the reason, if the engine breaks."""
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        self._thread = threading.Thread(target=self._run, name="shoal-engine", daemon=True)
        self._thread.start()

    async def submit(self, requests: Sequence[Request]) -> OutputStream:
        """Hand over requests, all of them or none.

        Raises:
            InvalidRequest, CapacityError: the engine refused one of them.
            WorkerLost: the engine can do no more work.
        """
        stream = OutputStream([request.request_id for request in requests])
        ack = self._new_ack()
        self._streams.update((request.request_id, stream) for request in requests)
        self._command(_Submit(requests=tuple(requests), ack=ack))
        try:
            await ack
        except ShoalError:
            self._forget(stream)
            raise
        except asyncio.CancelledError:
            self.abandon(stream)
            raise
        return stream

    def abandon(self, stream: OutputStream) -> None:
        """Cancel what is still open and drop what it produces. Idempotent."""
        open_ids = tuple(stream.open_ids)
        self._forget(stream)
        if open_ids:
            self._command(_Cancel(request_ids=open_ids))

    def cancel(self, request_id: RequestId) -> None:
        """Give one request up; its RequestFinished still comes."""
        self._command(_Cancel(request_ids=(request_id,)))

    async def stats(self) -> EngineStats:
        """The engine's counters now. Raises WorkerLost."""
        ack: asyncio.Future[EngineStats] = self._new_ack()
        self._command(_ReadStats(ack=ack))
        return await ack

    async def close(self) -> None:
        """Stop the thread and the engine; requests that are still open end with an error. Idempotent."""
        if not self._stopping:
            self._stopping = True
            self._engine.wake()
            await asyncio.to_thread(self._stop)
        self._fail("the server is shutting down")

    # in the event loop

    def _new_ack(self) -> asyncio.Future[Any]:
        if self.failure is not None:
            raise WorkerLost(self.failure)
        assert self._loop is not None, "start() comes first"
        ack = self._loop.create_future()
        self._acks.add(ack)
        ack.add_done_callback(self._acks.discard)
        return ack

    def _command(self, command: _Command) -> None:
        self._commands.append(command)
        if not self._stopping:
            self._engine.wake()

    def _stop(self) -> None:
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread is None or not self._thread.is_alive():
            self._engine.close()

    def _forget(self, stream: OutputStream) -> None:
        for request_id in stream.open_ids:
            self._streams.pop(request_id, None)
        stream.open_ids.clear()

    def _deliver(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if isinstance(output, RequestFinished):
                stream = self._streams.pop(output.request_id, None)
            else:
                stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.put(output)

    def _fail(self, reason: str) -> None:
        if self.failure is not None:
            return
        self.failure = reason
        for ack in list(self._acks):
            _settle(ack, error=WorkerLost(reason))
        self._deliver([_ended_by_error(request_id, reason) for request_id in self._streams])

    def _die(self, reason: str) -> None:
        self._fail(reason)
        if self._on_death is not None:
            self._on_death(reason)

    # in the engine's thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._obey()
                outputs = self._engine.turn(TURN_TIMEOUT_S)
                if outputs:
                    self._post(self._deliver, outputs)
        except Exception as error:  # the outermost loop: whatever it was, requests must end and the process must tell
            self._post(self._die, str(error) if isinstance(error, ShoalError) else f"{type(error).__name__}: {error}")

    def _obey(self) -> None:
        while self._commands:
            match self._commands.popleft():
                case _Submit(requests=requests, ack=ack):
                    self._post(_settle, ack, None, self._add(requests))
                case _Cancel(request_ids=request_ids):
                    for request_id in request_ids:
                        self._engine.cancel(request_id)
                case _ReadStats(ack=ack):
                    self._post(_settle, ack, self._engine.stats())
                case _ as unreachable:
                    assert_never(unreachable)

    def _add(self, requests: Sequence[Request]) -> ShoalError | None:
        added: list[RequestId] = []
        for request in requests:
            try:
                self._engine.add(request)
            except (RequestError, CapacityError) as error:
                for request_id in added:
                    self._engine.cancel(request_id)
                return error
            added.append(request.request_id)
        return None

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop closed first: nobody is left to tell
            self._loop.call_soon_threadsafe(callback, *arguments)


def _settle(ack: asyncio.Future[Any], value: object = None, error: ShoalError | None = None) -> None:
    if ack.done():
        return
    if error is None:
        ack.set_result(value)
    else:
        ack.set_exception(error)


def _ended_by_error(request_id: RequestId, message: str) -> RequestFinished:
    return RequestFinished(
        request_id=request_id, reason="error", num_prompt_tokens=0, num_output_tokens=0, message=message
    )
