"""One address for several models: calls go to the server of the model that they name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shoal.errors import WorkerLost
from shoal.server.assembly import AppOptions, guards
from shoal.server.bodies.bodies import MAX_BODY_BYTES, RequestBodies
from shoal.server.bodies.forms import form_field
from shoal.server.dialects import API_PATHS, answer_in_dialect
from shoal.server.http.disconnect import ClientGone, DisconnectWatch
from shoal.server.http.draining import Drain
from shoal.server.http.health.probes import Probes, server_version
from shoal.server.http.request_log import HEADER, request_id_of
from shoal.server.ollama.routes import API_PATH
from shoal.server.openai.errors import HANDLED, ApiError, unknown_model
from shoal.server.openai.models import either_slash
from shoal.server.openai.tokenize import TOKENIZE_PATHS
from shoal.server.speech.paths import AUDIO_PATHS, MAX_UPLOAD_BYTES
from shoal.server.switch.switch_status import SwitchStatus
from shoal.server.switch.switchboard import ModelServer, ServerEnded, Switchboard
from shoal.server.web.routes import PageApi, page_at_work, page_routes

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "host",
        "keep-alive",
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
_CONNECT_TIMEOUT_S = 10.0
_ATTEMPTS = 2
_SIGNAL_S = 0.1
"""Between two looks at whether a signal has come while models are loaded."""
_NOTICED_S = 5.0
"""In which the end of a server is known that has broken a connection off."""
_STORED = "/v1/responses/{name}"


class _Named(msgspec.Struct):
    """The part of a body that says which model it is for."""

    model: Any = None
    name: Any = None


def create_switch_app(
    switchboard: Switchboard,
    *,
    server_key: str,
    options: AppOptions,
) -> Starlette:
    """The HTTP application over servers of single models, which it ends with its own lifespan.

    Args:
        switchboard: the models' servers.
        server_key: that those servers want.
        options: how it is guarded.
    """
    drain = Drain()
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),  # the servers themselves bound their calls
        limits=httpx.Limits(max_connections=None),  # and how many there are
        headers={"authorization": f"Bearer {server_key}"},
        trust_env=False,
    )
    calls = _Calls(switchboard, client)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        try:
            if reason := await _loaded(switchboard, drain):
                drain.leave(reason)
            async with page_at_work(page):
                yield
        finally:
            await backend.close()

    backend = _Backend(switchboard, client, calls)
    status = SwitchStatus(switchboard, client, drain)
    page = None if options.page is None else PageApi(status, options.page, options.allowed_hosts)
    app = Starlette(
        routes=[
            *Probes(status).routes(),
            *page_routes(page),
            *either_slash("/v1/models", calls.models, "GET"),
            Route("/v1/models/{name:path}", calls.model, methods=["GET"]),
            Route(f"{API_PATH}tags", calls.tags, methods=["GET"]),
            Route(f"{API_PATH}ps", calls.running, methods=["GET"]),
            Route(f"{API_PATH}version", calls.version, methods=["GET"]),
            Route(_STORED, calls.stored, methods=["GET", "DELETE"]),
            Route("/{path:path}", calls.forward, methods=["POST"]),
        ],
        middleware=guards(options, drain, API_PATHS, TOKENIZE_PATHS),
        exception_handlers=dict.fromkeys(HANDLED, answer_in_dialect),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.backend, app.state.drain = backend, drain
    return app


async def _loaded(switchboard: Switchboard, drain: Drain) -> str | None:
    """As `load_all`, but given up at once when a signal ends the server."""
    loading = asyncio.ensure_future(switchboard.load_all())
    while not loading.done() and not drain.is_on:
        await asyncio.wait({loading}, timeout=_SIGNAL_S)
    if loading.done():
        return loading.result()
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    return None


class _Backend:
    """Implements `serve.Backend`. A model whose workers are gone for good is started again by the next call."""

    def __init__(self, switchboard: Switchboard, client: httpx.AsyncClient, calls: _Calls) -> None:
        self.on_death = None
        self._switchboard, self._client, self._calls = switchboard, client, calls

    async def close(self) -> None:
        """End all servers. Idempotent."""
        await self._switchboard.close()
        await self._client.aclose()
        self._calls.close()


class _Calls:
    """Handlers of everything that is of one model, or of all."""

    def __init__(self, switchboard: Switchboard, client: httpx.AsyncClient) -> None:
        self._switchboard, self._client = switchboard, client
        self._bodies = RequestBodies(MAX_UPLOAD_BYTES)
        self._created_s = int(time.time())

    def close(self) -> None:
        """Read no more bodies."""
        self._bodies.close()

    async def forward(self, request: Request) -> Response:
        """Any call whose body names a model."""
        return _Forwarding(self, request)

    @asynccontextmanager
    async def forwarded(self, request: Request) -> AsyncGenerator[_Forwarded, None]:
        """The answer of the model that a body names; the body counts as in memory until the end of the block.

        Uploads of sound may be larger than JSON; where a model's own server takes less, it says so.

        Raises:
            ApiError: it names no model that there is.
            BodyTooLarge, InvalidRequest, QueueFull, ClientDisconnect: as `RequestBodies.read`.
        """
        is_upload = request.url.path.rstrip("/") in AUDIO_PATHS
        limit_bytes = MAX_UPLOAD_BYTES if is_upload else MAX_BODY_BYTES
        async with self._bodies.read(request.scope, request.receive, limit_bytes) as body:
            content_type = request.headers.get("content-type", "")
            if content_type.lower().startswith("multipart/form-data"):
                said = await self._bodies.off_loop(lambda: form_field(content_type, body, "model", "speech"))
                name = self._served(said)
            else:
                name = self._model_of(body)
            yield _Forwarded(self._switchboard, self._client, name, request, bytes(body))

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._switchboard.names]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}"""
        name = request.path_params["name"]
        if name not in self._switchboard.names:
            raise unknown_model(name)
        return JSONResponse(self._card(name))

    async def tags(self, request: Request) -> Response:
        """GET /api/tags"""
        return JSONResponse({"models": [{"name": name, "model": name} for name in self._switchboard.names]})

    async def running(self, request: Request) -> Response:
        """GET /api/ps"""
        cards = [await self._get(server, f"{API_PATH}ps") for server in self._switchboard.servers.values()]
        return JSONResponse({"models": [card for one in cards for card in one.json()["models"]]})

    async def version(self, request: Request) -> Response:
        """GET /api/version"""
        return JSONResponse({"version": server_version()})

    async def stored(self, request: Request) -> Response:
        """GET and DELETE /v1/responses/{id}: from the server that has it."""
        for server in self._switchboard.servers.values():
            answer = await self._client.request(request.method, server.url + request.url.path)
            if answer.status_code != 404:
                return Response(answer.content, answer.status_code, media_type="application/json")
        raise ApiError(404, f"No response has the id {request.path_params['name']!r}", code="not_found")

    async def _get(self, server: ModelServer, path: str) -> httpx.Response:
        return await self._client.get(server.url + path)

    def _model_of(self, body: bytes | bytearray) -> str:
        try:
            named = msgspec.json.decode(body, type=_Named)
        except msgspec.DecodeError as error:
            raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
        return self._served(named.model if named.model is not None else named.name)

    def _served(self, name: Any) -> str:
        """The model of a name as a client wrote it. Raises ApiError: there is none."""
        if name is None:
            served = ", ".join(self._switchboard.names)
            raise ApiError(400, f"say in `model` which of {served} you want", param="model", code="model_missing")
        if isinstance(name, str) and name not in self._switchboard.names:
            name = name.removesuffix(":latest")  # Ollama's clients add it
        if name not in self._switchboard.names:
            raise unknown_model(str(name)[:100])
        return name

    def _card(self, name: str) -> dict[str, object]:
        state = self._switchboard.residency.phase(name).value
        return {"id": name, "object": "model", "created": self._created_s, "owned_by": "shoal", "state": state}


class _Forwarding(Response):
    """A call that is read, and then answered by a model's server."""

    def __init__(self, calls: _Calls, request: Request) -> None:
        super().__init__()
        self._calls, self._request = calls, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the call. Raises what `_Calls.forwarded` raises."""
        async with self._calls.forwarded(self._request) as answer:
            await answer(scope, receive, send)


class _Forwarded(Response):
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
