"""Forwards a call to a model's own server, and its answer to the client as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shoal.errors import DeadlineExceeded, ShoalError, WorkerLost
from shoal.server.dialects import answer_in_dialect
from shoal.server.http.disconnect import ClientGone, DisconnectWatch
from shoal.server.http.request_log import HEADER, request_id_of
from shoal.server.openai.sse import Rhythm, send_stream
from shoal.server.switch.stream_forms import StreamForm
from shoal.server.switch.switchboard import ModelServer, ServerEnded, Switchboard
from shoal.server.switch.time_limit import TimeLimit

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "host",
        "keep-alive",
        "origin",
        "referer",
        "sec-fetch-site",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
        "authorization",
    }
)
"""Headers of a request that concern only its own connection, or that this server is responsible for. Source: RFC 9110,
7.6.1."""
_KEPT_OF_ANSWERS = frozenset({"cache-control", "content-type", "retry-after", "x-accel-buffering"})
_ATTEMPTS = 2
_MAX_PLAIN_CHARS = 200
"""Characters of an error that is not JSON."""
_SILENT_S = 300.0
"""Longest time without a byte in a stream from a model's server; this server's own keep-alives would hide a longer
silence from the client. A judgment: a server that works sends its own every ten seconds once it has read the call,
which takes seconds for hours of sound."""
_NOTICED_S = 5.0
"""Time in which the end of a server is noticed after it has closed a connection early."""


class ForwardedCall:
    """A call that is forwarded to a model's server once that is started."""

    def __init__(
        self,
        switchboard: Switchboard,
        client: httpx.AsyncClient,
        name: str,
        request: Request,
        body: bytes,
        limit: TimeLimit,
    ) -> None:
        """`limit`: what is left of it when the model is loaded goes to the model's server."""
        self.request = request
        self._switchboard, self._client, self._name, self._content = switchboard, client, name, body
        self._limit = limit

    @asynccontextmanager
    async def answered(self, silent_s: float | None = None) -> AsyncGenerator[httpx.Response, None]:
        """An answer that has begun; the server stays while the block runs. If the server ends before that, the call is
        forwarded to the next server, once.

        Args:
            silent_s: longest time for which the model's server may send nothing; None: any time.

        Raises:
            WorkerLost: the model cannot be loaded, or its server has ended again, ends within the block, or is silent.
            DeadlineExceeded: the call's time was up before the model was loaded.
        """
        try:
            answer, held = await self._begun(silent_s)
            async with held:
                yield answer
        except httpx.ReadTimeout as error:
            raise WorkerLost(f"the server of {self._name} has said nothing for {silent_s:g} s") from error
        except httpx.HTTPError as error:
            raise self._lost() from error

    async def _begun(self, silent_s: float | None) -> tuple[httpx.Response, AsyncExitStack]:
        """The answer, and the resources to hold until it has ended. Raises WorkerLost; httpx.HTTPError if the server
        lives but does not answer."""
        for _ in range(_ATTEMPTS):
            with suppress(ServerEnded):
                async with AsyncExitStack() as held:
                    async with self._limit.waiting():
                        server = await held.enter_async_context(self._switchboard.use(self._name))
                    return await self._answer_of(server, held, silent_s), held.pop_all()
        raise self._lost()

    async def _answer_of(self, server: ModelServer, held: AsyncExitStack, silent_s: float | None) -> httpx.Response:
        """An answer that has begun. Raises ServerEnded, httpx.HTTPError."""
        try:
            return await held.enter_async_context(self._asked(server, silent_s))
        except httpx.ReadTimeout:
            raise
        except httpx.TransportError as error:
            try:
                async with asyncio.timeout(_NOTICED_S):
                    await server.wait()
            except TimeoutError:
                raise error from None
            raise ServerEnded(f"the server of {self._name} has ended") from error

    def _lost(self) -> WorkerLost:
        return WorkerLost(f"the server of {self._name} has ended")

    @asynccontextmanager
    async def _asked(self, server: ModelServer, silent_s: float | None) -> AsyncGenerator[httpx.Response, None]:
        url = self.request.url
        target = server.url + url.path + (f"?{url.query}" if url.query else "")
        headers = {**_passed_on(self.request.headers), HEADER.decode(): request_id_of(self.request.scope)}
        timeout = httpx.Timeout(self._client.timeout)
        timeout.read = silent_s
        async with self._client.stream(
            self.request.method, target, headers=headers, content=self._limit.left_in(self._content), timeout=timeout
        ) as answer:
            yield answer


class ForwardedAnswer(Response):
    """The answer of a model's server, forwarded as it arrives."""

    def __init__(self, call: ForwardedCall) -> None:
        super().__init__()
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the call. It ends if the client disconnects, even while the model is being loaded for it."""
        response: Response = Response(status_code=400)  # nobody reads it
        async with AsyncExitStack() as held:
            with suppress(ClientGone):
                try:
                    with DisconnectWatch(receive, 0.0):
                        answer = await held.enter_async_context(self._call.answered())
                    response = StreamingResponse(answer.aiter_raw(), answer.status_code, _kept(answer.headers))
                except (WorkerLost, DeadlineExceeded) as error:
                    response = await answer_in_dialect(self._call.request, error)
            try:
                await response(scope, receive, send)
            except httpx.HTTPError as error:  # the client sees that the answer was cut off
                raise ClientDisconnect from error


class _NoStream(ShoalError):
    """A call that asked for a stream gets another answer."""

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self.answer = answer


class ForwardedStream(Response):
    """The answer as a stream that shows signs of life from the call on, even while the model is being loaded."""

    def __init__(self, call: ForwardedCall, form: StreamForm, rhythm: Rhythm) -> None:
        super().__init__()
        self._call, self._form, self._rhythm = call, form, rhythm
        self._num_events = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the call. An error before the first sign of life has a status of its own."""
        try:
            await send_stream(
                self._pieces(),
                receive,
                send,
                framing=self._form.framing,
                rhythm=self._rhythm,
                failure=self._failure,
            )
        except _NoStream as error:
            await error.answer(scope, receive, send)

    def _failure(self, error: ShoalError) -> bytes:
        assert isinstance(error, _NoStream)
        return self._form.failure(bytes(error.answer.body), self._num_events)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """Whole pieces, so that an error can follow any of them. Raises _NoStream."""
        separator, rest = self._form.separator, b""
        try:
            async with self._call.answered(_SILENT_S) as answer:
                content_type = answer.headers.get("content-type", "")
                if answer.status_code != 200 or content_type.encode() != self._form.framing.content_type:
                    raise _NoStream(await self._whole(answer, content_type))
                async for data in answer.aiter_raw():
                    whole, found, rest = (rest + data).rpartition(separator)
                    if found:
                        self._num_events += (b"\n" + whole).count(b"\nevent: ")
                        yield whole + found
                if rest:
                    yield rest
        except (WorkerLost, DeadlineExceeded) as error:
            raise _NoStream(await answer_in_dialect(self._call.request, error)) from error

    async def _whole(self, answer: httpx.Response, content_type: str) -> Response:
        """An answer in one piece. If it is not JSON, it does not come from the API: too many connections are open."""
        content = await answer.aread()
        if not content_type.startswith("application/json"):
            error = HTTPException(answer.status_code, answer.text[:_MAX_PLAIN_CHARS])
            return await answer_in_dialect(self._call.request, error)
        return Response(content, answer.status_code, _kept(answer.headers))


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name in _KEPT_OF_ANSWERS}


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
