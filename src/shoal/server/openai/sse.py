"""Answers as server-sent events (WHATWG HTML, section 9.2), written directly to the ASGI server.

For each token this costs one template and one write: all events of one wake-up are sent together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shoal.errors import ShoalError
from shoal.generation.generation import Generation
from shoal.generation.output.choice import ChoiceDelta
from shoal.server.http.disconnect import ClientGone, run_until_disconnect
from shoal.server.openai.errors import from_exception
from shoal.server.openai.form import Form, event_of, note_usage


@dataclass(frozen=True, slots=True)
class Framing:
    """The format of a stream's pieces."""

    content_type: bytes
    sign_of_life: bytes
    """A piece that clients ignore."""


EVENTS = Framing(b"text/event-stream; charset=utf-8", b": the answer is on its way\n\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """Seconds for which a stream may be silent: proxies close connections on which nothing is sent."""

    first_s: float = 2.0
    """Until the status is sent without a token; an error before that has its own status."""
    every_s: float = 10.0
    """Between two signs of life."""


class EventStream(Response):
    """Streams one admitted generation, which is cancelled at once if the client disconnects."""

    def __init__(
        self,
        generation: Generation,
        form: Form,
        *,
        num_choices: int,
        framing: Framing = EVENTS,
        rhythm: Rhythm | None = None,
    ) -> None:
        super().__init__()
        self._framing = framing
        self._rhythm = rhythm or Rhythm()
        self._generation = generation
        self._form = form
        self._num_choices = num_choices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole answer."""
        async with self._generation:
            try:
                with suppress(ClientGone):
                    await run_until_disconnect(receive, self._send_all(send))
            finally:
                note_usage(scope, self._generation.usage)

    async def _send_all(self, send: Send) -> None:
        """Send the pieces. An error after the status is reported by the form's own event."""

        def failure(error: ShoalError) -> bytes:
            return self._form.failure(from_exception(error))

        await send_pieces(self._bodies(), send, self._framing, self._rhythm, failure)

    async def _bodies(self) -> AsyncIterator[bytes]:
        opening = self._form.opening(self._num_choices)
        async for deltas in self._generation:
            yield opening + self._events(deltas)
            opening = b""
        yield opening + self._form.closing(self._generation.usage)

    def _events(self, deltas: Sequence[ChoiceDelta]) -> bytes:
        if len(deltas) == 1:
            return self._form.event(deltas[0])
        return b"".join([self._form.event(delta) for delta in deltas])


async def send_pieces(
    pieces: AsyncIterator[bytes],
    send: Send,
    framing: Framing,
    rhythm: Rhythm,
    failure: Callable[[ShoalError], bytes],
) -> None:
    """Send a stream. The status waits for the first piece for a while, so that errors before it have their own status.

    Args:
        pieces: of the stream, without an end.
        send: of the connection.
        framing: format of the pieces.
        rhythm: how long the stream may be silent.
        failure: makes the piece that reports an error after the status.

    Raises:
        ShoalError: from the pieces, before the status was sent.
    """
    sender = _Sender(send, framing, rhythm)
    beat = asyncio.create_task(sender.keep_alive())
    try:
        async for body in pieces:
            await sender.send(body)
    except ShoalError as error:
        if not sender.is_started:
            raise
        await sender.send(failure(error))
    finally:
        beat.cancel()
    await sender.end()


def _error_event(error: ShoalError) -> bytes:
    return event_of(from_exception(error).body())


async def send_stream(
    pieces: AsyncGenerator[bytes, None],
    receive: Receive,
    send: Send,
    *,
    framing: Framing = EVENTS,
    rhythm: Rhythm | None = None,
    failure: Callable[[ShoalError], bytes] = _error_event,
) -> None:
    """As `send_pieces`. The pieces are server-sent events by default, and end if the client disconnects."""
    async with aclosing(pieces):
        with suppress(ClientGone):
            await run_until_disconnect(receive, send_pieces(pieces, send, framing, rhythm or Rhythm(), failure))


class _Sender:
    """The connection, and the time of the latest piece."""

    def __init__(self, send: Send, framing: Framing, rhythm: Rhythm) -> None:
        self.is_started = False
        self._send = send
        self._framing = framing
        self._rhythm = rhythm
        self._clock = asyncio.get_running_loop().time
        self._last_s = self._clock()

    async def send(self, body: bytes) -> None:
        """Send a piece of the stream, after the status if it is the first one."""
        self._last_s = self._clock()
        if not self.is_started:
            self.is_started = True
            headers = [
                (b"content-type", self._framing.content_type),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """Note that nothing follows."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def keep_alive(self) -> None:
        """Send a sign of life whenever nothing else was sent for too long. Ends when it is cancelled."""
        while True:
            silence_s = self._rhythm.every_s if self.is_started else self._rhythm.first_s
            wait_s = self._last_s + silence_s - self._clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                await self.send(self._framing.sign_of_life)
