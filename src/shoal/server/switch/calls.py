"""Calls for one model or for all, if several are served."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from shoal.server.bodies.bodies import MAX_BODY_BYTES, RequestBodies
from shoal.server.bodies.forms import form_field
from shoal.server.http.health.probes import server_version
from shoal.server.ollama.card import UNKNOWN_CARD
from shoal.server.ollama.routes import API_PATH
from shoal.server.openai.errors import ApiError, unknown_model
from shoal.server.openai.models import model_card, model_list
from shoal.server.openai.sse import Rhythm
from shoal.server.speech.paths import AUDIO_PATHS, MAX_UPLOAD_BYTES
from shoal.server.switch.forwarding import ForwardedAnswer, ForwardedCall, ForwardedStream
from shoal.server.switch.stream_forms import stream_form
from shoal.server.switch.switchboard import Switchboard
from shoal.server.switch.time_limit import TimeLimit

_TIMEOUT_S = 15.0
"""Time limit for a question that a model's server answers in milliseconds."""


class _Named(msgspec.Struct):
    """The part of a body that says which model it is for, whether it wants a stream, and how long it may take."""

    model: Any = None
    name: Any = None
    stream: Any = None
    timeout: Any = None
    """Of JSON only."""


class SwitchCalls:
    """Handlers of calls for one model or for all."""

    def __init__(self, switchboard: Switchboard, client: httpx.AsyncClient, rhythm: Rhythm) -> None:
        """`rhythm`: of streams, also while their model is being loaded."""
        self._switchboard, self._client, self._rhythm = switchboard, client, rhythm
        self._bodies = RequestBodies(MAX_UPLOAD_BYTES)
        self._created_s = int(time.time())

    def close(self) -> None:
        """Read no more bodies."""
        self._bodies.close()

    async def forward(self, request: Request) -> Response:
        """Any call whose body names a model."""
        return _Forwarding(self, request)

    @asynccontextmanager
    async def forwarded(self, request: Request) -> AsyncGenerator[Response, None]:
        """The answer of the model that a body names. The body counts as in memory until the end of the block.

        Uploads of sound may be larger than JSON; a model's own server refuses them if it accepts less.

        Raises:
            ApiError: the body names no model, or an unknown one.
            BodyTooLarge, InvalidRequest, QueueFull, ClientDisconnect: as `RequestBodies.read`.
        """
        is_upload = request.url.path.rstrip("/") in AUDIO_PATHS
        limit_bytes = MAX_UPLOAD_BYTES if is_upload else MAX_BODY_BYTES
        async with self._bodies.read(request.scope, request.receive, limit_bytes) as body:
            content_type = request.headers.get("content-type", "")
            if content_type.lower().startswith("multipart/form-data"):
                named = await self._bodies.off_loop(lambda: _of_form(content_type, body))
            else:
                named = _of_json(body)
            limit = TimeLimit(named.timeout)
            name = self._served(named.model if named.model is not None else named.name)
            call = ForwardedCall(self._switchboard, self._client, name, request, bytes(body), limit)
            form = stream_form(request.url.path, name, named.stream)
            yield ForwardedAnswer(call) if form is None else ForwardedStream(call, form, self._rhythm)

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse(model_list([self._card(name) for name in self._switchboard.names]))

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}"""
        name = request.path_params["name"]
        if name not in self._switchboard.names:
            raise unknown_model(name)
        return JSONResponse(self._card(name))

    async def tags(self, request: Request) -> Response:
        """GET /api/tags"""
        return JSONResponse({"models": [UNKNOWN_CARD.listed(name) for name in self._switchboard.names]})

    async def running(self, request: Request) -> Response:
        """GET /api/ps"""
        cards: list[object] = []
        for server in self._switchboard.servers.values():
            with suppress(httpx.HTTPError):  # it has just ended
                answer = await self._client.get(f"{server.url}{API_PATH}ps", timeout=_TIMEOUT_S)
                cards += answer.json().get("models", [])
        return JSONResponse({"models": cards})

    async def version(self, request: Request) -> Response:
        """GET /api/version"""
        return JSONResponse({"version": server_version()})

    async def stored(self, request: Request) -> Response:
        """GET and DELETE /v1/responses/{id}: forwarded to the server that has the response."""
        for server in self._switchboard.servers.values():
            with suppress(httpx.HTTPError):  # it has just ended
                answer = await self._client.request(request.method, server.url + request.url.path, timeout=_TIMEOUT_S)
                if answer.status_code != 404:
                    return Response(answer.content, answer.status_code, media_type="application/json")
        raise ApiError(404, f"No response has the id {request.path_params['name']!r}", code="not_found")

    def _served(self, name: Any) -> str:
        """The model with a name that a client gave. Raises ApiError if there is none."""
        if name is None:
            served = ", ".join(self._switchboard.names)
            raise ApiError(400, f"name one of {served} in `model`", param="model", code="model_missing")
        if isinstance(name, str) and name not in self._switchboard.names:
            name = name.removesuffix(":latest")  # Ollama's clients add it
        if name not in self._switchboard.names:
            raise unknown_model(str(name)[:100])
        return name

    def _card(self, name: str) -> dict[str, object]:
        state = self._switchboard.residency.phase(name).value
        return {**model_card(name, self._created_s), "state": state}


def _of_json(body: bytes | bytearray) -> _Named:
    """The model's name and `stream` in a JSON body. Raises ApiError if it is not JSON."""
    try:
        return msgspec.json.decode(body, type=_Named)
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error


def _of_form(content_type: str, body: bytes | bytearray) -> _Named:
    """The model's name and `stream` in a form. Raises InvalidRequest if it is not a form."""
    model, stream = (form_field(content_type, body, name, "speech") for name in ("model", "stream"))
    return _Named(model=model, stream=stream is not None and stream.lower() in ("true", "1"))


class _Forwarding(Response):
    """A call whose body is read first, and which a model's server then answers."""

    def __init__(self, calls: SwitchCalls, request: Request) -> None:
        super().__init__()
        self._calls, self._request = calls, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the call. Raises what `SwitchCalls.forwarded` raises."""
        async with self._calls.forwarded(self._request) as answer:
            await answer(scope, receive, send)
