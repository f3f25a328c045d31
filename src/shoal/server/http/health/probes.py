"""/health, /ready, /metrics, /status and /version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.errors import WorkerLost
from shoal.executor.remote.strikes import Strike
from shoal.server.http.health.story import MAX_NAME_CHARS

STATUS_PATH = "/status"
"""Shows more than the others, so it needs the key if there is one."""

_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""Source: Prometheus, text exposition format."""


class Status(Protocol):
    """What the probes need to know about the backend of an app."""

    @property
    def failure(self) -> str | None:
        """Why no more work can be done; None while it can."""
        ...

    async def unreadiness(self) -> str | None:
        """Why requests would not be answered now; None if one has just been answered."""
        ...

    async def describe(self) -> list[dict[str, Any]]:
        """Each model as plain data: `name`, `kind`, `plan`, `replicas` with their `state`, and `counters`."""
        ...

    async def strike(self, model: str, machine: str, strike: Strike) -> None:
        """Do to another machine, or to a worker there, what a drill asks for.

        Raises:
            ConfigError: there is no such machine or worker, or its cable is pulled already.
            WorkerLost: the machine does not answer.
        """
        ...

    async def story(self, of: str) -> list[dict[str, Any]]:
        """The latest events of a replica, by its number, or of a request, by its id. Raises WorkerLost."""
        ...

    async def expose_metrics(self) -> bytes:
        """The metrics in Prometheus's text format."""
        ...


class Probes:
    """Handlers of the probes."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route(STATUS_PATH, self.status, methods=["GET"]),
            Route(f"{STATUS_PATH}/story", self.story, methods=["GET"]),
            Route("/version", self.version, methods=["GET"]),
        ]

    async def health(self, request: Request) -> Response:
        """Whether the workers are alive."""
        failure = self._status.failure
        return JSONResponse({"status": "ok"}) if failure is None else _unavailable(failure)

    async def ready(self, request: Request) -> Response:
        """Whether requests are really answered."""
        reason = self._status.failure or await self._status.unreadiness()
        return JSONResponse({"status": "ready"}) if reason is None else _unavailable(reason)

    async def metrics(self, request: Request) -> Response:
        """The metrics in Prometheus's text format, whatever format the client prefers.

        Every client can read it. In OpenMetrics, `prometheus_client` writes the names of samples without their colons,
        and alerts and dashboards would not find them.
        """
        return Response(await self._status.expose_metrics(), headers={"content-type": _TEXT_FORMAT})

    async def status(self, request: Request) -> Response:
        """The server's parts and their state: `shoal status`."""
        return JSONResponse({"version": server_version(), "models": await self._status.describe()})

    async def story(self, request: Request) -> Response:
        """The latest events of one replica or one request: `shoal status --story`."""
        of = request.query_params.get("of", "")
        if not 0 < len(of) <= MAX_NAME_CHARS:
            reason = f"give ?of= the number of a replica or the id of a request, of at most {MAX_NAME_CHARS} characters"
            return JSONResponse({"status": "refused", "reason": reason}, status_code=400)
        try:
            return JSONResponse({"entries": await self._status.story(of)})
        except WorkerLost as error:
            return _unavailable(str(error))

    async def version(self, request: Request) -> Response:
        """The server's version."""
        return JSONResponse({"version": server_version()})


def server_version() -> str:
    """The installed package's version."""
    try:
        return version("shoal-inference")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"


def _unavailable(reason: str) -> Response:
    return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)
