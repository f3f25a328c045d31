"""/health, /ready, /metrics and /version."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.errors import WorkerLost
from shoal.server.data_plane import DataPlane
from shoal.server.readiness import ReadinessProbe

STATS_TIMEOUT_S = 1.0
"""A long step of an in-process engine must not fail a scrape; Prometheus itself waits 10 s by default."""


class Probes:
    """Handlers for whoever watches the server."""

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane
        self._readiness = ReadinessProbe(data_plane)

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/version", self.version, methods=["GET"]),
        ]

    async def health(self, request: Request) -> Response:
        """Whether the engine lives."""
        failure = self._data_plane.failure
        return JSONResponse({"status": "ok"}) if failure is None else _unavailable(failure)

    async def ready(self, request: Request) -> Response:
        """Whether tokens really come out."""
        failure = self._data_plane.failure
        if failure is not None:
            return _unavailable(failure)
        if await self._readiness.is_ready():
            return JSONResponse({"status": "ready"})
        return _unavailable("no token was produced lately, and a test request has produced none in time")

    async def metrics(self, request: Request) -> Response:
        """Prometheus text format."""
        metrics = self._data_plane.metrics
        with suppress(TimeoutError, WorkerLost):  # then the counters are those of the last time
            async with asyncio.timeout(STATS_TIMEOUT_S):
                metrics.read_engine(await self._data_plane.stats())
        content, content_type = metrics.expose(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": content_type})

    async def version(self, request: Request) -> Response:
        """The server's version."""
        return JSONResponse({"version": _version()})


def _version() -> str:
    try:
        return version("shoal-inference")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


def _unavailable(reason: str) -> Response:
    return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)
