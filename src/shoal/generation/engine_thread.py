"""Runs the engine in a thread of its own and passes its outputs to the event loop.

Commands go through a deque and a wake-up of the engine. All outputs of a turn are passed on in a single wake-up of the
loop, whatever the number of requests.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never

from shoal.core.generation.admission import AdmissionConfig, EndRate, reason_to_refuse
from shoal.core.sequences.request import Output, Request, RequestFinished, RequestId
from shoal.core.story import StoryEntry
from shoal.errors import CapacityError, RequestError, ShoalError, WorkerLost
from shoal.generation.output.output_stream import OutputStream
from shoal.generation.seams import GenerationEngine, GenerationStats

TURN_TIMEOUT_S = 60.0
"""The longest wait of a turn. A wake-up ends it sooner; a long wait keeps an idle server off the CPU."""

CLOSE_TIMEOUT_S = 30.0
"""Seconds for which closing waits for the engine to stop its workers, before the thread is left behind as a daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Submit:
    requests: tuple[Request, ...]
    ack: asyncio.Future[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cancel:
    request_ids: tuple[RequestId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadStats:
    ack: asyncio.Future[GenerationStats]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadStory:
    of: str
    ack: asyncio.Future[list[StoryEntry]]


_Command = _Submit | _Cancel | _ReadStats | _ReadStory


class EngineThread:
    """The only user of the engine. Its methods belong to the event loop that called `start`."""

    def __init__(self, engine: GenerationEngine, admission: AdmissionConfig, clock: Callable[[], float]) -> None:
        """
        Args:
            engine: the engine, which nothing else uses.
            admission: how many requests may wait.
            clock: gives monotonic seconds.
        """
        self._engine = engine
        self._admission = admission
        self._clock = clock
        self._end_rate = EndRate()
        stats = engine.stats()
        self.max_context = stats.max_context
        """The longest sequence in tokens."""
        self._max_running = stats.max_running
        self.failure: str | None = None
        """Why the engine can do no more work; None while it can."""
        self._commands: deque[_Command] = deque()
        self._streams: dict[RequestId, OutputStream] = {}
        self._acks: set[asyncio.Future[Any]] = set()
        self._question: asyncio.Future[GenerationStats] | None = None
        """The latest question of `silent_s`."""
        self._asked_s = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_death: Callable[[str], None] | None = None

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._stopping

    def start(self, *, on_death: Callable[[str], None] | None = None) -> None:
        """Start the thread; `on_death` is called in the running loop, with the reason, if the engine fails."""
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        self._thread = threading.Thread(target=self._run, name="shoal-engine", daemon=True)
        self._thread.start()

    def check_room(self, num_requests: int) -> None:
        """Check that so many more requests may wait. Raises QueueFull."""
        refusal = reason_to_refuse(
            self._admission,
            num_new=num_requests,
            num_unfinished=len(self._streams),
            max_running=self._max_running,
            rate=self._end_rate,
            now_s=self._clock(),
        )
        if refusal is not None:
            raise refusal

    def retry_after_s(self) -> float:
        """Expected seconds until the next place is free."""
        return self._end_rate.expected_s(1, self._clock())

    async def submit(self, requests: Sequence[Request]) -> OutputStream:
        """Submit requests, all or none of them, without a check for room.

        Raises:
            InvalidRequest, CapacityError: the engine refused one of them.
            WorkerLost: the engine can do no more work.
        """
        stream = OutputStream([request.request_id for request in requests])
        ack = self._new_ack()
        if not self._streams:
            self._end_rate.note_start(self._clock())
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
        """Cancel the open requests of a stream and drop their outputs. Idempotent."""
        open_ids = tuple(stream.open_ids)
        self._forget(stream)
        if open_ids:
            self._command(_Cancel(request_ids=open_ids))

    def cancel(self, request_id: RequestId) -> None:
        """Cancel one request; its RequestFinished still follows."""
        self._command(_Cancel(request_ids=(request_id,)))

    async def stats(self) -> GenerationStats:
        """The engine's counters now. Raises WorkerLost."""
        stats = await self._ask_for_stats()
        self._max_running = stats.max_running
        return stats

    async def story(self, of: str) -> list[StoryEntry]:
        """See `Story.find`. Raises WorkerLost."""
        ack: asyncio.Future[list[StoryEntry]] = self._new_ack()
        self._command(_ReadStory(of=of, ack=ack))
        return await ack

    def silent_s(self) -> float:
        """Seconds for which the engine has not answered. Each call asks a question unless one is open."""
        if self._question is None or self._question.done():
            self._question, self._asked_s = self._ask_for_stats(), self._clock()
        return self._clock() - self._asked_s

    async def close(self) -> None:
        """Stop the thread and the engine; requests that are still open end with an error. Idempotent."""
        if not self._stopping:
            self._stopping = True
            self._engine.wake()
            try:
                await asyncio.to_thread(self._stop)
            except RuntimeError:  # the interpreter is ending and starts no work in other threads
                self._stop()
        self._fail("the server is shutting down")

    # in the event loop

    def _ask_for_stats(self) -> asyncio.Future[GenerationStats]:
        ack: asyncio.Future[GenerationStats] = self._new_ack()
        self._command(_ReadStats(ack=ack))
        return ack

    def _new_ack(self) -> asyncio.Future[Any]:
        if self.failure is not None:
            raise WorkerLost(self.failure)
        assert self._loop is not None, "start() comes first"
        ack = self._loop.create_future()
        self._acks.add(ack)
        ack.add_done_callback(self._settled)
        return ack

    def _settled(self, ack: asyncio.Future[Any]) -> None:
        """Retrieve the error of an acknowledgement, so that asyncio does not log it if nobody waits for it."""
        self._acks.discard(ack)
        if not ack.cancelled():
            ack.exception()

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

    def _deliver(self, outputs: Sequence[Output], told_s: float) -> None:
        for output in outputs:
            if isinstance(output, RequestFinished):
                stream = self._streams.pop(output.request_id, None)
                self._end_rate.note_end(self._clock())
            else:
                stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.put(output, told_s)

    def _fail(self, reason: str) -> None:
        if self.failure is not None:
            return
        self.failure = reason
        for ack in list(self._acks):
            _settle(ack, error=WorkerLost(reason))
        self._deliver([_ended_by_error(request_id, reason) for request_id in self._streams], self._clock())

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
                    self._post(self._deliver, outputs, self._clock())
        except Exception as error:  # the outermost loop: on any error, requests must end and the failure be reported
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
                case _ReadStory(of=of, ack=ack):
                    self._post(_settle, ack, self._engine.story.find(of))
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
        with suppress(RuntimeError):  # the loop was closed first
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
