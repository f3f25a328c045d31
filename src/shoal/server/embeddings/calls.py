"""What both dialects of embeddings have in common: they read bodies within bounds, and report errors in their own
form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shoal.server.bodies.bodies import RequestBodies
from shoal.server.bodies.json_bounds import JsonBounds
from shoal.server.http.disconnect import ClientGone, run_until_disconnect
from shoal.server.openai.errors import HANDLED

_BOUNDS = JsonBounds(max_items=1_000_000, max_groups=10_000)


@asynccontextmanager
async def bounded_body(request: Request, bodies: RequestBodies) -> AsyncGenerator[bytes | bytearray, None]:
    """The JSON of a request, as `RequestBodies.read`, with no more values than can be parsed quickly.

    Raises InvalidRequest, BodyTooLarge, QueueFull.
    """
    async with bodies.read(request.scope, request.receive) as content:
        await bodies.check_json(content, _BOUNDS)
        yield content


def answered(
    path: str,
    handler: Callable[[Request], Coroutine[Any, Any, Response]],
    answer_error: Callable[[Request, Exception], Awaitable[Response]],
) -> Route:
    """A POST route that reports errors in the dialect's form; its work ends if the client disconnects."""

    async def answer(request: Request) -> Response:
        try:
            return await run_until_disconnect(request.receive, handler(request))
        except ClientGone:
            return Response(status_code=400)  # nobody reads it
        except HANDLED as error:
            return await answer_error(request, error)

    return Route(path, answer, methods=["POST"])
