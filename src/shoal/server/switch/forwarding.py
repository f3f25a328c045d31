"""A call handed on to a model's own server, and its answer handed back as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shoal.errors import WorkerLost
from shoal.server.dialects import answer_in_dialect
from shoal.server.http.disconnect import ClientGone, DisconnectWatch
from shoal.server.http.request_log import HEADER, request_id_of
from shoal.server.switch.switchboard import ModelServer, ServerEnded, Switchboard

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
"""Headers of a request that are of its own connection, or that this server answers for. Source: RFC 9110, 7.6.1."""
_KEPT_OF_ANSWERS = frozenset({"cache-control", "content-type", "retry-after", "x-accel-buffering"})
_ATTEMPTS = 2
_NOTICED_S = 5.0
"""In which the end of a server is known that has broken a connection off."""


class ForwardedAnswer(Response):
    """The answer of a model's server, passed on as it comes."""

    def __init__(
        self, switchboard: Switchboard, client: httpx.AsyncClient, name: str, request: Request, body: bytes
    ) -> None:
        super().__init__()
        self._switchboard, self._client, self._name = switchboard, client, name
        self._request, self._content = request, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the call. A client that goes away ends it, also while the model is loaded for it."""
        response: Response = Response(status_code=400)  # nobody reads it
        async with AsyncExitStack() as held:
            with suppress(ClientGone):
                try:
                    with DisconnectWatch(receive, 0.0):
                        answer, while_answered = await self._begun()
                    await held.enter_async_context(while_answered)
                    headers = {name: value for name, value in answer.headers.items() if name in _KEPT_OF_ANSWERS}
                    response = StreamingResponse(answer.aiter_raw(), answer.status_code, headers)
                except (WorkerLost, httpx.HTTPError) as error:
                    lost = error if isinstance(error, WorkerLost) else self._lost()
                    response = await answer_in_dialect(self._request, lost)
            try:
                await response(scope, receive, send)
            except httpx.HTTPError as error:  # the client sees that the answer was cut off
                raise ClientDisconnect from error

    async def _begun(self) -> tuple[httpx.Response, AsyncExitStack]:
        """An answer that has begun, and what is held until it has ended. A call whose server ends before that is given
        to the next server, once.

        Raises:
            WorkerLost: the model cannot be loaded, or its server has ended again.
            httpx.HTTPError: the server lives and does not answer.
        """
        for _ in range(_ATTEMPTS):
            with suppress(ServerEnded):
                async with AsyncExitStack() as held:
                    server = await held.enter_async_context(self._switchboard.use(self._name))
                    return await self._answer_of(server, held), held.pop_all()
        raise self._lost()

    async def _answer_of(self, server: ModelServer, held: AsyncExitStack) -> httpx.Response:
        """An answer that has begun. Raises ServerEnded, httpx.HTTPError."""
        try:
            return await held.enter_async_context(self._asked(server))
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
    async def _asked(self, server: ModelServer) -> AsyncGenerator[httpx.Response, None]:
        url = self._request.url
        target = server.url + url.path + (f"?{url.query}" if url.query else "")
        headers = {**_passed_on(self._request.headers), HEADER.decode(): request_id_of(self._request.scope)}
        async with self._client.stream(self._request.method, target, headers=headers, content=self._content) as answer:
            yield answer


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
