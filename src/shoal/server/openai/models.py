"""The list of models, which is one model."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.server.openai.errors import ApiError, unknown_model


class ModelsApi:
    """Handlers of /v1/models."""

    def __init__(self, model_name: str, max_context: int) -> None:
        self._model_name, self._max_context = model_name, max_context
        self._created_s = int(time.time())

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            *either_slash("/v1/models", self.models, "GET"),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}"""
        if (name := request.path_params["name"]) != self._model_name:
            raise unknown_model(name)
        return JSONResponse(self._card())

    def _card(self) -> dict[str, object]:
        return {
            "id": self._model_name,
            "object": "model",
            "created": self._created_s,
            "owned_by": "shoal",
            "max_model_len": self._max_context,
        }


def either_slash(path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> list[Route]:
    """With and without a slash at the end, which some clients join on. Not a redirect: POSTs do not follow those."""
    return [Route(path + end, handler, methods=[method]) for end in ("", "/")]


def refusing(paths: tuple[str, ...], message: str) -> list[Route]:
    """Routes that a model of another kind has, which say what this one is for."""

    async def refuse(request: Request) -> Response:
        raise ApiError(400, message, param="model", code="wrong_kind_of_model")

    return [route for path in paths for route in either_slash(path, refuse, "POST")]
