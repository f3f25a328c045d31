"""The REST dialect: /v2 and all paths below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from shoal.errors import InvalidRequest
from shoal.inference.repository import ModelRepository
from shoal.inference.served_model import ServedModel
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.oip.metadata import (
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
)
from shoal.server.oip.repository_calls import RepositoryCalls
from shoal.server.oip.rest.errors import error_response
from shoal.server.oip.rest.infer_endpoint import InferEndpoint
from shoal.server.oip.statistics import model_statistics
from shoal.server.oip.status import RepositoryStatus

MAX_CHANGE_BYTES = 1 << 16
"""Limit for the bodies of calls that concern the repository."""


class _IndexBody(msgspec.Struct):
    ready: bool = False


class _ChangeBody(msgspec.Struct):
    parameters: dict[str, Any] | None = None


Body = TypeVar("Body", _IndexBody, _ChangeBody)


class RestApi:
    """Handlers over one repository. `more_models`: returns entries of the index for other served things."""

    def __init__(
        self,
        repository: ModelRepository,
        status: RepositoryStatus,
        calls: RepositoryCalls,
        bodies: RequestBodies,
        more_models: Callable[[bool], list[dict[str, str]]] = lambda only_ready: [],
    ) -> None:
        self._calls = calls
        self._repository = repository
        self._status = status
        self._bodies = bodies
        self._more_models = more_models
        self._infer = InferEndpoint(repository, bodies)

    def routes(self) -> list[BaseRoute]:
        """For the app's router; the most frequent routes first, because they are tried in order."""
        return [
            Route("/v2/models/{name}/infer", self._infer),
            Route("/v2/models/{name}/versions/{version}/infer", self._infer),
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/health/live", self.live, methods=["GET"]),
            Route("/v2/health/ready", self.ready, methods=["GET"]),
            Route("/v2/models/stats", self.all_statistics, methods=["GET"]),
            *self._model_routes("/v2/models/{name}"),
            *self._model_routes("/v2/models/{name}/versions/{version}"),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{name}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{name}/unload", self.unload, methods=["POST"]),
            *self._shared_memory_routes("/v2/systemsharedmemory"),
            *self._shared_memory_routes("/v2/cudasharedmemory"),
        ]

    def _shared_memory_routes(self, prefix: str) -> list[Route]:
        """Clients routinely list and unregister regions of shared memory; none is ever registered."""
        return [
            Route(f"{prefix}/{path}{call}", handler, methods=[method])
            for path in ("", "region/{name}/")
            for call, handler, method in (("status", self.no_regions, "GET"), ("unregister", self.nothing, "POST"))
        ]

    def _model_routes(self, prefix: str) -> list[Route]:
        return [
            Route(prefix, self.model, methods=["GET"]),
            Route(f"{prefix}/ready", self.model_ready, methods=["GET"]),
            Route(f"{prefix}/config", self.config, methods=["GET"]),
            Route(f"{prefix}/stats", self.statistics, methods=["GET"]),
        ]

    async def server(self, request: Request) -> Response:
        """GET /v2"""
        return _json(server_metadata())

    async def live(self, request: Request) -> Response:
        """GET /v2/health/live"""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """GET /v2/health/ready"""
        reason = await self._status.unreadiness()
        return _json({"ready": True}) if reason is None else _not_ready(reason)

    async def model(self, request: Request) -> Response:
        """GET /v2/models/NAME"""
        return _json(model_metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready"""
        model = self._model(request)
        reason = await self._status.unreadiness_of(model)
        return _json({"name": model.file.name, "ready": True}) if reason is None else _not_ready(reason)

    async def config(self, request: Request) -> Response:
        """GET /v2/models/NAME/config"""
        return _json(model_config(self._model(request)))

    async def statistics(self, request: Request) -> Response:
        """GET /v2/models/NAME/stats"""
        return _json({"model_stats": [model_statistics(self._model(request))]})

    async def all_statistics(self, request: Request) -> Response:
        """GET /v2/models/stats"""
        return _json({"model_stats": [model_statistics(model) for model in self._repository.models]})

    async def index(self, request: Request) -> Response:
        """POST /v2/repository/index"""
        body = await self._read(request, _IndexBody)
        models = repository_index(self._repository, only_ready=body.ready)
        return _json(models + self._more_models(body.ready))

    async def load(self, request: Request) -> Response:
        """POST /v2/repository/models/NAME/load"""
        body = await self._read(request, _ChangeBody)
        await self._calls.load(request.path_params["name"], body.parameters or {})
        return _json({})

    async def unload(self, request: Request) -> Response:
        """POST /v2/repository/models/NAME/unload"""
        await self._read(request, _ChangeBody)
        await self._calls.unload(request.path_params["name"])
        return _json({})

    async def no_regions(self, request: Request) -> Response:
        """GET /v2/systemsharedmemory/status, and of CUDA"""
        return _json([])

    async def nothing(self, request: Request) -> Response:
        """POST /v2/systemsharedmemory/unregister, and of CUDA"""
        return _json({})

    def _model(self, request: Request) -> ServedModel:
        return self._repository.get(request.path_params["name"], request.path_params.get("version", ""))

    async def _read(self, request: Request, schema: type[Body]) -> Body:
        """The body, which may be empty. Raises InvalidRequest, BodyTooLarge, QueueFull."""
        async with self._bodies.read(request.scope, request.receive, MAX_CHANGE_BYTES) as body:
            try:
                return msgspec.json.decode(body or b"{}", type=schema)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidRequest(f"the body is not what this call takes: {error}") from error


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _not_ready(reason: str) -> Response:
    return error_response(503, reason)
