"""Answers as server-sent events (WHATWG HTML, section 9.2), written straight to the ASGI server.

Per token this costs one template and one write: all events of one wake go out together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shoal.errors import ShoalError
from shoal.generation.choice import ChoiceDelta
from shoal.generation.generation import Generation
from shoal.server.http.disconnect import ClientGone, run_until_disconnect
from shoal.server.openai.errors import from_exception
from shoal.server.openai.form import Form

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """Streams one admitted generation; the client going away cancels it at once."""

    def __init__(self, generation: Generation, form: Form, *, num_choices: int) -> None:
        super().__init__()
        self._generation = generation
        self._form = form
        self._num_choices = num_choices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole answer."""
        async with self._generation:
            with suppress(ClientGone):
                await run_until_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        """The status waits for the first token, so that what goes wrong before it has a status of its own."""
        is_started = False
        try:
            async for body in self._bodies():
                if not is_started:
                    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                    is_started = True
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except ShoalError as error:
            if not is_started:
                raise
            event = self._form.failure(from_exception(error))
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

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
